"""Learning: teach a private copy of the policy, by lessons or by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np

from ..gallery import Asking
from ..host import Host
from ..lessons import STARTS, Pupil, lesson, saved, thumb, try_one
from ..words import answer_card, download
from . import charts
from .ask import draw_map
from .chooser import Chooser
from .common import EXPECTED, MODEL, QUIET, friendly, message

MOST = 400
"""Episodes of one lesson, at most."""


def build(chooser: Chooser) -> None:
    """Lay out the tab."""
    first, pupil = chooser.models.first, chooser.pupil
    numbers, stopping, running = itertools.count(), set[str](), set[str]()
    gr.Markdown(
        "Your own copy of the policy learns while you watch: it explores an allocation, the model answers, and the "
        "reward of that answer (right 1, wrong 0, less the price of the tokens) teaches it. It stays with you; nobody "
        "else sees it, and the shared policy never changes. On the other tabs it is the policy *what I taught it*."
    )
    with gr.Row():
        start = gr.Radio(_starts(first), value="prior", label="starts from")
        price = gr.Slider(0, 1, value=first.price, step=0.01, label="price: reward that a full-detail image costs")
        episodes = gr.Slider(8, MOST, value=64, step=8, label="questions in this lesson", elem_id="episodes")
    with gr.Row():
        learn = gr.Button("Learn", variant="primary", elem_id="learn", min_width=100)
        stop = gr.Button("Stop", elem_id="stop", min_width=100)
        reset = gr.Button("Forget everything", elem_id="reset", min_width=100)
    status = gr.Markdown(progress(Pupil()), elem_id="progress")
    kept = gr.HTML(elem_id="taught", apply_default_css=False)
    chart = gr.Image(
        label="the lesson so far", show_label=False, interactive=False, buttons=["fullscreen"], elem_id="chart",
        format="png", visible=False,
    )  # fmt: skip
    gr.Markdown("### Or be the reward yourself")
    with gr.Row():
        more = gr.Button("Give me a question", elem_id="try", min_width=100)
        up = gr.Button("Thumbs up: right, and worth its tokens", interactive=False, elem_id="up", min_width=100)
        down = gr.Button("Thumbs down: wrong, or a waste", interactive=False, elem_id="down", min_width=100)
    card = gr.HTML(elem_id="trial", apply_default_css=False)
    drawn = gr.HTML(elem_id="trial-map", apply_default_css=False)
    chooser.followers += [
        (start, lambda h: gr.update(choices=_starts(h), value="prior")), (price, lambda h: gr.update(value=h.price)),
    ]  # fmt: skip

    def thumbs(waiting: bool) -> tuple[Any, Any]:
        return gr.update(interactive=waiting), gr.update(interactive=waiting)

    def busy(yes: bool) -> tuple[Any, ...]:
        return tuple(gr.update(interactive=not yes) for _ in (learn, reset, more))

    def told(host: Host, state: Pupil, over: bool) -> tuple[Any, ...]:
        """State, words, link and figure of what was learned; the link is drawn when the lesson is over."""
        figure = gr.update(value=charts.learning(state.log), visible=True)
        return state, progress(state), _link(host, state) if over else "", figure

    def teach(
        state: Pupil, model: str, begin: str, cost: float, count: float, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        session = str(request.session_hash)
        if session in running:
            raise message("your lesson is still under way; stop it, or wait for its end")
        running.add(session)
        stopping.discard(session)
        try:
            if not 1 <= count <= MOST:
                raise ValueError(f"a lesson of {count:g} questions is not offered; choose 8 to {MOST}")
            host, step = chooser.models[model], None
            for step in lesson(host, fitting(state, model, begin, cost), int(count)):
                yield *told(host, step, False), *thumbs(False), "", ""
                if session in stopping:
                    break
            if step is not None:
                yield *told(host, step, True), *thumbs(False), "", ""
        except EXPECTED as error:
            raise message(error) from error
        finally:
            running.discard(session)
            stopping.discard(session)

    def halt(request: gr.Request) -> None:
        stopping.add(str(request.session_hash))  # the batch under way is finished first

    @friendly
    def forget(state: Pupil, model: str, begin: str, cost: float) -> tuple[Any, ...]:
        fresh = Pupil(model=model, start=begin, price=float(cost), seed=state.seed + 1)
        return fresh, progress(fresh), "", gr.update(value=None, visible=False), *thumbs(False), "", ""

    @friendly
    def trial(state: Pupil, model: str, begin: str, cost: float) -> tuple[Any, ...]:
        host = chooser.models[model]
        state = try_one(host, fitting(state, model, begin, cost))
        assert state.trial is not None
        answered, truth = state.trial.answered, Asking(state.trial.answered.question, state.trial.truth)
        beside = host.ask(answered.source, answered.question, host.full(answered.settings), patient=True)
        picture = draw_map(answered, f"trial-{next(numbers)}")
        return state, answer_card(answered, truth, full=beside), picture, *thumbs(True)

    def judge(reward: float) -> Any:
        @friendly
        def judged(state: Pupil) -> tuple[Any, ...]:
            host = chooser.models[state.model]
            return *told(host, thumb(host, state, reward), True), *thumbs(False)

        return judged

    asked, shown = [pupil, chooser.current, start, price], [pupil, status, kept, chart, up, down, card, drawn]
    lessons = {"concurrency_id": "lesson", "concurrency_limit": 4}
    learn.click(lambda: busy(True), None, [learn, reset, more], **QUIET)
    taught = learn.click(teach, [*asked, episodes], shown, api_name="learn", **lessons)
    taught.then(lambda: busy(False), None, [learn, reset, more], **QUIET)
    stop.click(halt, None, None, **QUIET)
    reset.click(forget, asked, shown, api_name="forget")
    more.click(trial, asked, [pupil, card, drawn, up, down], api_name="try_one", **MODEL)
    for button, reward, name in ((up, 1.0, "thumbs_up"), (down, 0.0, "thumbs_down")):
        button.click(judge(reward), pupil, [pupil, status, kept, chart, up, down], api_name=name, **MODEL)


def _starts(host: Host) -> list[tuple[str, str]]:
    """Where a pupil of a host may start: (words, key of `STARTS`)."""
    learned = [("the learned policy", "learned")] if host.folder else []
    return [("the score heuristic (nothing learned yet)", "prior"), *learned]


def _link(host: Host, pupil: Pupil) -> str:
    """A link that saves what was learned."""
    link = download("the learned policy (zip)", "policy.zip", saved(host, pupil), "application/zip")
    return f'<p class="saves">Save: {link} <small>unpack it and give the folder to <code>--policy</code></small></p>'


def fitting(pupil: Pupil, model: str, start: str, price: float) -> Pupil:
    """The pupil, or a fresh one for another model or another start; the price may change on the way.

    Raises
    ------
    ValueError
        If there is no such start or the price is negative.
    """
    if start not in STARTS:
        raise ValueError(f"start {start!r} is unknown; use one of {', '.join(STARTS)}")
    if not 0 <= price <= 10:
        raise ValueError(f"price {price!r} must lie between 0 and 10")
    if (pupil.model, pupil.start) == (model, start):
        return replace(pupil, price=float(price))
    return Pupil(model, start, float(price), pupil.seed + 1)


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
