"""Knowing: what the policy goes by, and what happens without it."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from arr_coc.drawing import draw_heat, titled

from ..host import Answered, Host
from ..lessons import Pupil
from ..patchmap import SCORE_WORDS
from ..study import SOURCES, TENSIONS
from ..words import moves, said, sources, tensions
from .chooser import Chooser, check_asked, read_settings
from .common import MODEL, friendly
from .compare import overlay

MAPS = 4
"""Three scores and the detail loss."""


def build(chooser: Chooser) -> None:
    """Lay out the tab."""
    acts = _acting(chooser.models.first)
    gr.Markdown(
        "Three scorers look at every patch, and each budget is charged with the detail that it would destroy. Untick "
        "a source, or let a tension act, and see which budgets change."
    )
    with gr.Row():
        on = gr.CheckboxGroup(
            [(words, key) for key, words in SOURCES.items()], value=list(SOURCES), label="what the policy goes by",
            elem_id="sources",
        )  # fmt: skip
        acting = gr.CheckboxGroup(
            [(words, key) for key, words in TENSIONS.items()], value=acts, label="tensions that act"
        )
    run = gr.Button("Show what it knows", variant="primary", elem_id="know")
    told = gr.HTML(elem_id="known", apply_default_css=False)
    with gr.Row():
        picture = {"show_label": False, "buttons": ["fullscreen"], "interactive": False, "format": "jpeg"}
        before = gr.Image(label="budgets as the policy is", **picture)
        after = gr.Image(label="budgets as ticked", **picture)
    with gr.Row(elem_id="maps"):
        maps = [gr.Image(label=f"map {number + 1}", min_width=200, **picture) for number in range(MAPS)]
    tables = gr.HTML(elem_id="known-tables", apply_default_css=False)
    record = gr.JSON(label="the record as ticked", visible="hidden")

    chooser.followers.append((acting, lambda h: gr.update(value=_acting(h))))
    chooser.emptied += [
        (told, lambda image: ""), (tables, lambda image: ""),
        *((part, lambda image: None) for part in (before, after, *maps, record)),
    ]  # fmt: skip

    @friendly
    def know(
        model: str, pupil: Pupil, image: Image.Image | None, question: str, ticked: list[str], tensed: list[str],
        *settings: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        check_asked(image, question)
        assert image is not None
        host, terms = chooser.models[model], read_settings(*settings)
        if terms.policy.startswith("uniform") or terms.policy == "random":
            terms = replace(terms, policy=host.default_policy)  # those look at nothing
        whole = host.ask(image, question.strip(), terms, taught=pupil.taught)
        off = [key for key in SOURCES if key not in ticked]
        shown = whole
        if off or set(tensed) != set(_acting(host)):
            shown = host.ask(image, question.strip(), terms, off=off, tensions=tensed, taught=pupil.taught)
        pictures = (
            titled("As the policy is", overlay(whole, host.budgets)), titled("As ticked", overlay(shown, host.budgets))
        )  # fmt: skip
        tables = f'<div class="beside-one-another">{sources(shown)}{tensions(shown)}</div>'
        return effect(whole, shown), *pictures, *heats(shown), tables, shown.record()

    inputs = [chooser.current, chooser.pupil, chooser.image, chooser.question, on, acting, *chooser.settings]
    outputs = [told, before, after, *maps, tables, record]
    run.click(know, inputs, outputs, api_name="know", **MODEL)
    for box in (on, acting):
        box.input(know, inputs, outputs, api_visibility="private", **MODEL)


def _acting(host: Host) -> list[str]:
    """Tensions that act by the configuration of a host's policy."""
    return [key for key in TENSIONS if key in host.tensions]


def effect(whole: Answered, shown: Answered) -> str:
    """The question, and one line about what the switches did."""
    asked = f'<div class="card"><p class="asked">{escape(whole.question)}</p>'
    if whole is shown:
        return f"{asked}<p>As the policy is: <b>{said(whole)}</b> for {whole.allocation.tokens:,} tokens.</p></div>"
    changed = moves(whole, shown) if whole.allocation.budgets != shown.allocation.budgets else "No budget changes."
    return (
        f"{asked}<p>{escape(changed)} <b>{said(shown)}</b> for {shown.allocation.tokens:,} tokens, instead of "
        f"<b>{said(whole)}</b> for {whole.allocation.tokens:,}.</p></div>"
    )


def heats(shown: Answered) -> list[Image.Image | None]:
    """`MAPS` maps: those of the scorers, with the look in glance cells, and of the detail that the smallest budget
    destroys."""
    reports = shown.explanation.patches
    pictures: list[Image.Image | None] = []
    for name in shown.allocation.scores:
        values = [report.scores[name] for report in reports]
        looks = shown.explanation.looks if name in shown.explanation.readers else None
        cells = looks or [np.array([[value]]) for value in values]
        heat = draw_heat(shown.image, shown.boxes, cells, labels=[f"{value:.2f}" for value in values], width=300)
        pictures.append(titled(f"{name}: {SCORE_WORDS.get(name, name)}", heat))
    if all(report.detail for report in reports):
        lost = [report.detail[0] for report in reports]
        heat = draw_heat(
            shown.image, shown.boxes, [np.array([[value]]) for value in lost],
            labels=[f"{100 * value:.0f} %" for value in lost], width=300,
        )  # fmt: skip
        pictures.append(titled(f"detail lost at {reports[0].costs[0]} tokens", heat))
    return [*pictures, *[None] * MAPS][:MAPS]
