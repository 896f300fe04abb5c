"""Learning: teach a private copy of the policy, by lessons or by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np

from .. import charts
from ..gallery import Asking
from ..host import Host
from ..lessons import STARTS, Pupil, lesson, thumb, try_one
from ..words import answer_card
from .ask import draw_map
from .common import EXPECTED, MODEL, QUIET, friendly, message

MOST = 400
"""Episodes of one lesson, at most."""


def build(host: Host) -> None:
    """Lay out the tab."""
    starts = {"the score heuristic (nothing learned yet)": "prior"}
    if host.folder:
        starts["the learned policy"] = "learned"
    pupil = gr.State(Pupil(price=host.price), time_to_live=7200)
    numbers, stopping = itertools.count(), set[str]()
    gr.Markdown(
        "Your own copy of the policy learns while you watch: it explores an allocation, the model answers, and the "
        "reward of that answer (right 1, wrong 0, less the price of the tokens) teaches it. It stays with you; nobody "
        "else sees it, and the shared policy never changes."
    )
    with gr.Row():
        start = gr.Radio(list(starts.items()), value="prior", label="starts from")
        price = gr.Slider(0, 1, value=host.price, step=0.01, label="price: reward that a full-detail image costs")
        episodes = gr.Slider(8, MOST, value=64, step=8, label="questions in this lesson", elem_id="episodes")
    with gr.Row():
        learn = gr.Button("Learn", variant="primary", elem_id="learn")
        stop = gr.Button("Stop", elem_id="stop")
        reset = gr.Button("Forget everything", elem_id="reset")
    status = gr.Markdown(progress(Pupil()), elem_id="progress")
    chart = gr.Image(
        label="the lesson so far", show_label=False, interactive=False, buttons=["fullscreen"], elem_id="chart",
        format="png",
    )  # fmt: skip
    gr.Markdown("### Or be the reward yourself")
    with gr.Row():
        more = gr.Button("Give me a question", elem_id="try")
        up = gr.Button("Thumbs up: right, and worth its tokens", interactive=False, elem_id="up")
        down = gr.Button("Thumbs down: wrong, or a waste", interactive=False, elem_id="down")
    card = gr.HTML(elem_id="trial", apply_default_css=False)
    drawn = gr.HTML(elem_id="trial-map", apply_default_css=False)

    def thumbs(waiting: bool) -> tuple[Any, Any]:
        return gr.update(interactive=waiting), gr.update(interactive=waiting)

    def busy(yes: bool) -> tuple[Any, ...]:
        return tuple(gr.update(interactive=not yes) for _ in (learn, reset, more))

    def teach(state: Pupil, begin: str, cost: float, count: float, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        session = str(request.session_hash)
        stopping.discard(session)
        try:
            if not 1 <= count <= MOST:
                raise ValueError(f"a lesson of {count:g} questions is not offered; choose 8 to {MOST}")
            for step in lesson(host, fitting(state, begin, cost), int(count)):
                yield step, progress(step), charts.learning(step.log), *thumbs(False), "", ""
                if session in stopping:
                    break
        except EXPECTED as error:
            raise message(error) from error
        finally:
            stopping.discard(session)

    def halt(request: gr.Request) -> None:
        stopping.add(str(request.session_hash))  # the batch under way is finished first

    @friendly
    def forget(state: Pupil, begin: str, cost: float) -> tuple[Any, ...]:
        fresh = Pupil(start=begin, price=float(cost), seed=state.seed + 1)
        return fresh, progress(fresh), None, *thumbs(False), "", ""

    @friendly
    def trial(state: Pupil, begin: str, cost: float) -> tuple[Any, ...]:
        state = try_one(host, fitting(state, begin, cost))
        assert state.trial is not None
        truth = Asking(state.trial.shown.question, state.trial.truth)
        picture = draw_map(state.trial.shown, f"trial-{next(numbers)}")
        return state, answer_card(state.trial.shown, truth), picture, *thumbs(True)

    def judge(reward: float) -> Any:
        @friendly
        def judged(state: Pupil) -> tuple[Any, ...]:
            state = thumb(host, state, reward)
            return state, progress(state), charts.learning(state.log), *thumbs(False)

        return judged

    shown = [pupil, status, chart, up, down, card, drawn]
    lessons = {"concurrency_id": "lesson", "concurrency_limit": 4}
    learn.click(lambda: busy(True), None, [learn, reset, more], **QUIET)
    running = learn.click(teach, [pupil, start, price, episodes], shown, api_name="learn", **lessons)
    running.then(lambda: busy(False), None, [learn, reset, more], **QUIET)
    stop.click(halt, None, None, **QUIET)
    reset.click(forget, [pupil, start, price], shown, api_name="forget")
    more.click(trial, [pupil, start, price], [pupil, card, drawn, up, down], api_name="try_one", **MODEL)
    for button, reward, name in ((up, 1.0, "thumbs_up"), (down, 0.0, "thumbs_down")):
        button.click(judge(reward), pupil, [pupil, status, chart, up, down], api_name=name, **MODEL)


def fitting(pupil: Pupil, start: str, price: float) -> Pupil:
    """The pupil, or a fresh one if it was to start from somewhere else; the price may change on the way.

    Raises
    ------
    ValueError
        If there is no such start or the price is negative.
    """
    if start not in STARTS:
        raise ValueError(f"start {start!r} is unknown; use one of {', '.join(STARTS)}")
    if not 0 <= price <= 10:
        raise ValueError(f"price {price!r} must lie between 0 and 10")
    return replace(pupil, price=float(price)) if pupil.start == start else Pupil(start, float(price), pupil.seed + 1)


def progress(pupil: Pupil) -> str:
    """How far a pupil is."""
    if not pupil.log:
        return "Nothing learned yet."
    recent = pupil.log[-charts.WINDOW :]
    reward = np.mean([row["reward"] for row in recent])
    share = np.mean([row["tokens"] / row["full_tokens"] for row in recent])
    by_hand = sum(row["by"] == "hand" for row in pupil.log)
    hand = f", {by_hand} of them judged by you" if by_hand else ""
    return (
        f"**{len(pupil.log)}** episodes{hand}. Last {len(recent)}: reward **{reward:.2f}** at **{100 * share:.0f} %** "
        "of full detail, exploration included."
    )
