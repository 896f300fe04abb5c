"""Results: the recorded evaluation runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from eval.reporting.page import COLUMNS, kind_rows, rows

from ..results import OUTCOMES, Run, open_run
from ..words import table
from . import charts
from .common import friendly

NOT_BROWSABLE = (
    "*This record was kept without its single questions. A run of your own has them: `python -m eval quickstart`.*"
)


def build(runs: dict[str, Path]) -> None:
    """Lay out the tab.

    Parameters
    ----------
    runs
        Finished runs by name.
    """
    if not runs:
        gr.Markdown("No finished run is at hand. `python -m eval quickstart` makes one.")
        return
    names = list(runs)
    start = next((name for name in reversed(names) if open_run(runs[name]).browsable), names[0])
    first = open_run(runs[start])
    chosen = gr.Dropdown(names, value=start, label="run", elem_id="run")
    plot = gr.Image(
        charts.pareto(first.metrics), label="accuracy against tokens; the grey line is the same budget everywhere",
        show_label=False, interactive=False, buttons=["fullscreen", "download"], elem_id="pareto", format="png",
    )  # fmt: skip
    # Plain tables: gr.Dataframe scrolls inside, and its lower rows are not even in the page.
    methods = gr.HTML(_methods(first), elem_id="methods")
    gr.Markdown("### By kind of question")
    kinds = gr.HTML(_kinds(first), elem_id="kinds")
    gr.Markdown("### Question by question")
    note = gr.Markdown("" if first.browsable else NOT_BROWSABLE, elem_id="browsable")
    with gr.Row():
        method = gr.Dropdown(first.methods, value=_method(first), label="method")
        kind = gr.Dropdown(["all", *first.kinds], value="all", label="kind of question")
        outcome = gr.Dropdown(list(OUTCOMES), value="all", label="outcome")
    overview = gr.Image(
        _overview(first), label="a page of its budgets", show_label=False, interactive=False, format="jpeg",
        visible=not first.browsable, buttons=["fullscreen"],
    )  # fmt: skip
    question = gr.Dropdown(_choices(first, _method(first)), value=None, label="question", elem_id="browse")
    page = gr.Image(
        label="the question under each method",
        show_label=False,
        interactive=False,
        buttons=["fullscreen"],
        format="jpeg",
    )

    def opened(name: str) -> Run:
        if name not in runs:
            raise ValueError(f"run {name!r} is unknown; choose one of the list")
        return open_run(runs[name])

    @friendly
    def show(name: str) -> tuple[Any, ...]:
        run = opened(name)
        labels = gr.update(choices=run.methods, value=_method(run))
        names = gr.update(choices=["all", *run.kinds], value="all")
        questions = gr.update(choices=_choices(run, _method(run)), value=None)
        told = "" if run.browsable else NOT_BROWSABLE
        figures = charts.pareto(run.metrics), _methods(run), _kinds(run)
        return (
            *figures,
            told,
            labels,
            names,
            questions,
            None,
            gr.update(value=_overview(run), visible=not run.browsable),
        )

    @friendly
    def select(name: str, by: str, of: str, how: str) -> Any:
        return gr.update(choices=_choices(opened(name), by, of, how), value=None)

    @friendly
    def browse(name: str, question_id: str | None) -> Image.Image | None:
        return opened(name).page(question_id) if question_id else None

    shown = [plot, methods, kinds, note, method, kind, question, page, overview]
    chosen.input(show, chosen, shown, api_name="results")
    for control in (method, kind, outcome):
        control.input(select, [chosen, method, kind, outcome], question, api_visibility="private")
    question.input(browse, [chosen, question], page, api_name="browse")


def _methods(run: Run) -> str:
    return table(COLUMNS, rows(run.metrics))


def _kinds(run: Run) -> str:
    return table(*kind_rows(run.metrics))


def _overview(run: Run) -> Image.Image | None:
    """The page of overlays that the run drew; only where its questions can't be browsed."""
    file = run.folder / "overlays.png"
    return None if run.browsable or not file.is_file() else Image.open(file)


def _method(run: Run) -> str:
    return "learned" if "learned" in run.methods else run.methods[0]


def _choices(run: Run, method: str, kind: str = "all", outcome: str = "all") -> list[tuple[str, str]]:
    return run.questions(method, kind, outcome)
