"""The page as a whole. On a machine of your own ``python -m demo`` serves it; on a Hugging Face Space, `main`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when it is imported

import gradio as gr

from .models import Models, shipped
from .results import runs
from .tabs import ask, compare, knowing, learning, results
from .tabs.chooser import Chooser
from .tabs.common import QUIET

STYLE = Path(__file__).with_name("style.css")
TITLE = "ARR-COC: every patch its own token budget"
INTRODUCTION = """# Where does the model look closely?
Each patch of the picture gets its own budget of *visual tokens*, **chosen for your question**. Ask another one and
watch the bright frame move."""


def build(models: Models) -> gr.Blocks:
    """The page over some models.

    Parameters
    ----------
    models
        Who answers; the first one at first.
    """
    host = models.first
    picture = host.pictures[0]
    asked = picture.image, picture.questions[0].text
    host.ask(*asked)  # the first call of a process is slow, and would be shown as the time of an answer
    answered = host.ask(*asked)
    full = host.ask(*asked, host.full(answered.settings))
    chooser = Chooser(models)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(INTRODUCTION, elem_id="introduction")
        with gr.Row(elem_id="page"):
            with gr.Column(scale=3, min_width=300, elem_id="chooser") as left:
                chooser.build()
            with gr.Column(scale=8, min_width=320, elem_id="main"), gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
                with gr.Tab("Ask", id="ask") as asking:
                    answer = ask.build(chooser, answered, full)
                with gr.Tab("Compare", id="compare") as comparing:
                    compare.build(chooser)
                with gr.Tab("Knowing", id="knowing") as knows:
                    knowing.build(chooser)
                with gr.Tab("Learning", id="learning") as learns:
                    learning.build(chooser)
                with gr.Tab("Results", id="results") as recorded:
                    results.build(runs())
        chooser.wire(page, answer)
        for tab in (asking, comparing, knows):  # these three are about the picture and the question on the left
            tab.select(lambda: gr.update(visible=True), None, left, **QUIET)
        for tab in (learns, recorded):
            tab.select(lambda: gr.update(visible=False), None, left, **QUIET)
    page.queue(max_size=64, default_concurrency_limit=2)
    return page


def theme() -> dict[str, Any]:
    """Theme and style for ``launch``; nothing in them is fetched from elsewhere."""
    plain = gr.themes.Base(
        primary_hue="teal", neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"], font_mono=["ui-monospace", "monospace"],
    )  # fmt: skip
    return {"theme": plain, "css_paths": [STYLE]}


def serve(
    models: Models,
    *,
    page: gr.Blocks | None = None,
    port: int | None = None,
    address: str = "127.0.0.1",
    share: bool = False,
    **more: Any,
) -> tuple[Any, str, str]:
    """Serve the page; blocks until stopped unless ``prevent_thread_lock=True``.

    Parameters
    ----------
    models
        Who answers.
    page
        As `build` made it; built here by default.
    port
        By default the first free one from 7860.
    address
        Where to listen; this machine alone by default.
    share
        Open a public tunnel through Gradio's servers.
    more
        Further arguments of ``launch``.

    Returns
    -------
    tuple
        As of ``launch``: the web application, the local address and the public one, if any.
    """
    page = page or build(models)
    return page.launch(
        server_name=address, server_port=port, share=share, ssr_mode=False, max_file_size="20mb", footer_links=["api"],
        enable_monitoring=False, state_session_capacity=200, **theme(), **more,
        _frontend=False,  # else gradio gives its own page three seconds, and does not start on a busy machine
    )  # fmt: skip


def main() -> None:
    """Serve the models that ship with ARR-COC, as a Space does."""
    # A Space is a container of its own: it must listen on all of its addresses to be reached.
    serve(Models.named(shipped()), address="0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1")
