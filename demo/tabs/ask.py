"""Ask: the answer beside full detail, the patch map, and what each patch was worth."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from PIL import Image

from ..host import Answered
from ..lessons import Pupil
from ..patchmap import patch_map, plain_map
from ..words import answer_card, download, notice
from .chooser import Chooser, Wishes, check_asked, read_settings
from .common import EXPECTED, MODEL, STALE, friendly, message
from .compare import overlay

DONE = """() => {
  document.body.classList.remove('stale')
  const card = document.querySelector('#answer [data-address]')
  if (!card) return
  const query = new URLSearchParams(card.dataset.address)
  for (const [name, value] of new URLSearchParams(location.search))
    if (name.startsWith('__')) query.append(name, value)
  history.replaceState(null, '', '?' + query)
  const top = card.getBoundingClientRect().top
  if (innerWidth < 860 && (top < 0 || top > .6 * innerHeight)) card.scrollIntoView({ behavior: 'smooth' })
}"""
"""The address keeps what is shown, and on a phone the answer comes into view."""
HINT = "Point at a patch to see why it got its budget; click to keep it. The legend switches the frames."
WAITING = "A new picture. Choose a question or type one, then Ask."
LEFT = tuple(gr.skip() for _ in range(5))
"""The answer stays as it is; a generator that yields nothing would empty it."""
NONE = "No picture yet. Choose one, or bring your own."


def build(chooser: Chooser, first: Answered, full: Answered) -> Callable[..., None]:
    """Lay out the tab, with an answer to look at already.

    Parameters
    ----------
    chooser
        The left column.
    first, full
        An answer, and the same question at full detail.

    Returns
    -------
    callable
        Given an event, lets the question be asked when it is over; a second argument decides whether, from the wishes.
    """
    models, numbers = chooser.models, itertools.count()

    def name() -> str:
        return f"ask-{next(numbers)}"

    def card_of(model: str, answered: Answered, before: Answered | None, beside: Answered | None) -> str:
        asked = answered.source
        truth = chooser.truth(model, asked, answered.question)
        address = chooser.address(model, asked, answered.question, answered.settings)
        return answer_card(answered, truth, before, beside, str(address))

    def show(
        model: str, pupil: Pupil, wishes: Wishes, before: Answered | None, image: Image.Image | None, question: str,
        *settings: Any,
    ) -> Iterator[Any]:  # fmt: skip
        wish = wishes.latest
        try:
            check_asked(image, question)
            assert image is not None
            host, terms = models[model], read_settings(*settings)
            wish = wishes.new()  # from here on; what can't be asked overtakes nothing
            answered = host.ask(image, question.strip(), terms, taught=pupil.taught)
            if wishes.latest != wish:
                yield LEFT
                return
            yield card_of(model, answered, before, None), draw_map(answered, name()), "", answered.record(), answered
            beside = host.ask(image, question.strip(), host.full(terms), patient=True)
            if wishes.latest == wish:
                told = card_of(model, answered, before, beside)
                yield told, gr.skip(), saves(answered, beside, host.budgets), gr.skip(), gr.skip()
        except EXPECTED as error:
            if before is None and wishes.latest == wish:  # nothing of an older question may stand there
                yield notice("No answer."), gr.skip(), "", None, None
            raise message(error) from error

    def when(condition: Callable[[Wishes], bool]) -> Any:
        def perhaps(model: str, pupil: Pupil, wishes: Wishes, *more: Any) -> Iterator[Any]:
            if condition(wishes):
                yield from show(model, pupil, wishes, *more)
            else:
                yield LEFT

        return perhaps

    @friendly
    def answer(
        model: str, pupil: Pupil, image: Image.Image | None, question: str, *settings: Any
    ) -> tuple[str, str, dict[str, Any]]:
        """What programs get: every question its answer, whatever else was asked meanwhile."""
        check_asked(image, question)
        assert image is not None
        host, chosen = models[model], read_settings(*settings)
        answered = host.ask(image, question.strip(), chosen, taught=pupil.taught)
        beside = host.ask(image, question.strip(), host.full(chosen), patient=True)
        return card_of(model, answered, None, beside), draw_map(answered, name()), answered.record()

    model = models.names[0]
    with gr.Column(elem_id="results"):
        card = gr.HTML(card_of(model, first, None, full), elem_id="answer", apply_default_css=False)
        gr.Markdown(HINT, elem_classes="hint", elem_id="hint")
        drawn = gr.HTML(draw_map(first, name()), elem_id="map", apply_default_css=False)
        kept = gr.HTML(saves(first, full, models.first.budgets), elem_id="saves", apply_default_css=False)
    with gr.Accordion("The record, as the evaluation writes it", open=False):
        record = gr.JSON(first.record(), elem_id="record")
    last = gr.State(first)
    chooser.emptied += [
        (card, lambda image: notice(NONE if image is None else WAITING)),
        (drawn, lambda image: "" if image is None else plain_map(image, name())),
        (kept, lambda image: ""), (record, lambda image: None), (last, lambda image: None),
    ]  # fmt: skip

    inputs = [
        chooser.current, chooser.pupil, chooser.wishes, last, chooser.image, chooser.question, *chooser.settings
    ]  # fmt: skip
    outputs = [card, drawn, kept, record, last]
    options = {"api_visibility": "private", "trigger_mode": "multiple", "show_progress_on": [card], **MODEL}

    def after(event: Any, condition: Callable[[Wishes], bool] | None = None) -> None:
        if condition is None:
            event.success(show, inputs, outputs, **options).then(None, None, None, js=DONE)
        else:
            event.success(when(condition), inputs, outputs, **options)

    for trigger in (chooser.ask.click, chooser.question.submit):
        trigger(show, inputs, outputs, **options).then(None, None, None, js=DONE)
    for changed in (chooser.question, *chooser.settings):
        changed.input(None, None, None, js=STALE)
    program = gr.Button(visible=False)
    program.click(
        answer, [chooser.current, chooser.pupil, chooser.image, chooser.question, *chooser.settings],
        [card, drawn, record], api_name="ask", **MODEL,
    )  # fmt: skip
    return after


def draw_map(answered: Answered, name: str) -> str:
    """The patch map of an answer."""
    return patch_map(answered.image, answered.boxes, answered.explanation, name, seen=answered.seen)


def saves(answered: Answered, full: Answered, levels: tuple[int, ...]) -> str:
    """Links that save the overlay, and the records of the answer and of full detail."""
    picture = io.BytesIO()
    overlay(answered, levels, caption=True).save(picture, "PNG")
    record, beside = ({**one.record(), "seconds": one.seconds} for one in (answered, full))
    text = json.dumps({**record, "full detail": beside}, indent=2, default=list).encode()
    return (
        '<p class="saves">Save: '
        + download("overlay (PNG)", "overlay.png", picture.getvalue(), "image/png")
        + download("records (JSON)", "records.json", text, "application/json")
        + "</p>"
    )
