"""Compare: one question under two policies, and under full detail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from PIL import Image

from arr_coc.drawing import draw_budgets, titled

from ..host import Answered
from ..lessons import Pupil
from ..words import both_savings, compared
from .chooser import Chooser, check_asked, policies, read_settings
from .common import MODEL, friendly

LOWEST, WIDEST = 100, 2400
"""Pixels: a wide picture is drawn wider, so that its patches can be told apart."""

Pair = tuple[Image.Image, Image.Image]


def build(chooser: Chooser) -> None:
    """Lay out the tab."""
    host = chooser.models.first
    offered = policies(host)
    gr.Markdown(
        "The picture and question on the left, answered under two policies; full detail (uniform-400) is measured "
        "beside them. Drag the handle to go from one policy to the other."
    )
    with gr.Row():
        one = gr.Dropdown(offered, value=host.default_policy, label="policy A (left half)")
        other = gr.Dropdown(offered, value=f"uniform-{host.budgets[0]}", label="policy B (right half)")
        run = gr.Button("Compare", variant="primary", elem_id="compare", scale=0, min_width=140)
    told = gr.HTML(elem_id="saving", apply_default_css=False)
    with gr.Row():
        slider = {"show_label": False, "format": "jpeg", "buttons": ["fullscreen"], "max_height": 720}
        budgets = gr.ImageSlider(label="budgets: A | B", elem_id="budgets-slider", **slider)
        seen = gr.ImageSlider(label="what the model saw: A | B", elem_id="seen-slider", **slider)
    record = gr.JSON(label="the three records", visible="hidden")

    chooser.followers += [
        (one, lambda h: gr.update(choices=policies(h), value=h.default_policy)),
        (other, lambda h: gr.update(choices=policies(h), value=f"uniform-{h.budgets[0]}")),
    ]
    chooser.emptied += [(told, lambda image: ""), *((part, lambda image: None) for part in (budgets, seen, record))]

    @friendly
    def compare(
        model: str, pupil: Pupil, image: Image.Image | None, question: str, first: str, second: str, *settings: Any
    ) -> tuple[str, Pair, Pair, list[dict[str, Any]]]:
        check_asked(image, question)
        assert image is not None
        host, terms = chooser.models[model], read_settings(*settings)
        a, b, full = (
            host.ask(image, question.strip(), chosen, taught=pupil.taught)
            for chosen in (replace(terms, policy=first), replace(terms, policy=second), host.full(terms))
        )
        names = f"left {first}, right {second}"
        drawn = [titled(f"Budgets: {names}", overlay(one, host.budgets)) for one in (a, b)]
        shown = [titled(f"What the model saw: {names}", enlarged(one)) for one in (a, b)]
        told = both_savings([a, b], full) + compared([a, b, full])
        return told, tuple(drawn), tuple(shown), [a.record(), b.record(), full.record()]

    run.click(
        compare,
        [chooser.current, chooser.pupil, chooser.image, chooser.question, one, other, *chooser.settings],
        [told, budgets, seen, record], api_name="compare", **MODEL,
    )  # fmt: skip


def overlay(answered: Answered, levels: Sequence[int], caption: bool = False) -> Image.Image:
    """The budgets over the picture, as `arr-coc ask --out` draws them.

    Parameters
    ----------
    answered
        Whose budgets.
    levels
        All budgets, for the legend.
    caption
        Whether question and answer stand below.
    """
    allocation, (width, height) = answered.allocation, answered.image.size
    words = {"question": answered.question, "answer": answered.answer} if caption else {}
    return draw_budgets(
        answered.image, answered.boxes, allocation.budgets, allocation.realised, levels=levels,
        full_tokens=allocation.full_tokens, width=min(max(640, LOWEST * width // height), WIDEST), **words,
    )  # fmt: skip


def enlarged(answered: Answered) -> Image.Image:
    """What the model saw, large enough to look at, its pixels kept apart."""
    scale = max(1, round(640 / answered.seen.width))
    return answered.seen.resize((answered.seen.width * scale, answered.seen.height * scale), Image.Resampling.NEAREST)
