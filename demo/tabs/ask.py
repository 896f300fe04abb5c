"""Ask: the answer, the patch map, and what each patch was worth."""

from __future__ import annotations

import itertools
from typing import Any

import gradio as gr
from PIL import Image

from ..host import Shown
from ..patchmap import patch_map
from ..words import answer_card
from .chooser import Chooser, check_asked, read_settings
from .common import MODEL, QUIET, friendly

SHOW = "() => { if (innerWidth < 860) document.querySelector('#answer').scrollIntoView({ behavior: 'smooth' }) }"
"""On a phone the answer lies below the question."""
HINT = "Hover a patch to see why it got its budget; click to keep it. The legend switches the masks."


def build(chooser: Chooser, first: Shown) -> None:
    """Lay out the tab, with an answer to look at already."""
    host, numbers = chooser.host, itertools.count()

    def render(shown: Shown, before: Shown | None) -> tuple[str, str, dict[str, Any]]:
        card = answer_card(shown, chooser.truth(shown.image, shown.question), before)
        return card, draw_map(shown, f"ask-{next(numbers)}"), shown.record()

    @friendly
    def ask(
        before: Shown | None, image: Image.Image | None, question: str, *settings: Any
    ) -> tuple[str, str, dict[str, Any], Shown]:
        check_asked(image, question)
        assert image is not None
        shown = host.ask(image, question.strip(), read_settings(*settings))
        return *render(shown, before), shown

    start = render(first, None)
    card = gr.HTML(start[0], elem_id="answer", apply_default_css=False)
    gr.Markdown(HINT, elem_classes="hint")
    drawn = gr.HTML(start[1], elem_id="map", apply_default_css=False)
    with gr.Accordion("The record, as the evaluation writes it", open=False):
        record = gr.JSON(start[2], elem_id="record")
    last = gr.State(first)

    inputs = [last, chooser.image, chooser.question, *chooser.settings]
    outputs = [card, drawn, record, last]
    asked = [
        chooser.ask.click(ask, inputs, outputs, api_name="ask", **MODEL),
        chooser.question.submit(ask, inputs, outputs, api_visibility="private", **MODEL),
        # A question that is chosen is asked: one click, and the budgets move.
        chooser.suggestions.input(lambda text: text, chooser.suggestions, chooser.question, **QUIET).then(
            ask, inputs, outputs, api_visibility="private", **MODEL
        ),
    ]
    for event in asked:
        event.then(None, None, None, js=SHOW)


def draw_map(shown: Shown, name: str) -> str:
    """The patch map of an answer."""
    return patch_map(shown.image, shown.boxes, shown.explanation, name, seen=shown.seen)
