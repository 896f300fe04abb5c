"""Compare: one question under two policies, and under full detail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
from PIL import Image

from arr_coc.drawing import draw_budgets, titled

from ..host import Host, Shown
from ..words import compared, saving
from .chooser import Chooser, check_asked, read_settings
from .common import MODEL, friendly

Pair = tuple[Image.Image, Image.Image]


def build(chooser: Chooser) -> None:
    """Lay out the tab."""
    host = chooser.host
    policies = host.policies()
    gr.Markdown(
        "The picture and question on the left, answered under two policies; full detail (uniform-400) is measured "
        "beside them. Drag the handle to go from one policy to the other."
    )
    with gr.Row():
        one = gr.Dropdown(policies, value=host.default_policy, label="policy A (left half)")
        other = gr.Dropdown(policies, value=f"uniform-{host.budgets[0]}", label="policy B (right half)")
        run = gr.Button("Compare", variant="primary", elem_id="compare", scale=0, min_width=140)
    told = gr.HTML(elem_id="saving", apply_default_css=False)
    with gr.Row():
        slider = {"show_label": False, "format": "jpeg", "buttons": ["fullscreen"], "max_height": 720}
        budgets = gr.ImageSlider(label="budgets: A | B", elem_id="budgets-slider", **slider)
        seen = gr.ImageSlider(label="what the model saw: A | B", elem_id="seen-slider", **slider)
    record = gr.JSON(label="the three records", visible="hidden")

    @friendly
    def compare(
        image: Image.Image | None, question: str, first: str, second: str, *settings: Any
    ) -> tuple[str, Pair, Pair, list[dict[str, Any]]]:
        check_asked(image, question)
        assert image is not None
        terms = read_settings(*settings)
        a, b = (host.ask(image, question.strip(), replace(terms, policy=name)) for name in (first, second))
        full = host.ask(image, question.strip(), replace(terms, policy=f"uniform-{host.budgets[-1]}", limit=None))
        names = f"left {first}, right {second}"
        return (
            saving(a, b, full) + compared([a, b, full]),
            (titled(f"Budgets: {names}", overlay(host, a)), titled(f"Budgets: {names}", overlay(host, b))),
            (titled(f"What the model saw: {names}", enlarged(a)), titled(f"What the model saw: {names}", enlarged(b))),
            [a.record(), b.record(), full.record()],
        )

    run.click(
        compare, [chooser.image, chooser.question, one, other, *chooser.settings], [told, budgets, seen, record],
        api_name="compare", **MODEL,
    )  # fmt: skip


def overlay(host: Host, shown: Shown) -> Image.Image:
    """The budgets over the picture, as `arr-coc ask --out` draws them."""
    allocation = shown.allocation
    return draw_budgets(shown.image, shown.boxes, allocation.budgets, allocation.realised, levels=host.budgets)


def enlarged(shown: Shown) -> Image.Image:
    """What the model saw, large enough to look at, its pixels kept apart."""
    scale = max(1, round(640 / shown.seen.width))
    return shown.seen.resize((shown.seen.width * scale, shown.seen.height * scale), Image.Resampling.NEAREST)
