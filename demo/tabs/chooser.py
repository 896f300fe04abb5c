"""The left column: which model, which picture, which question, on what terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr
from PIL import Image

from ..gallery import PAGES, SIGNS, Asking, Entry, for_uploads
from ..host import TAUGHT, Host, Settings
from ..lessons import Pupil
from ..models import Models
from .address import OWN, Address
from .common import EXPECTED, FRESH, MODEL, QUIET, Picture

FREE, PRICED, LIMITED = "the policy's own price", "my price", "a limit"
OWN_WORLD = {
    SIGNS: "This small model ships with ARR-COC and knows a world of signs: photographs it answers in the words of "
    "that world. The budgets still show where it looks.",
    PAGES: "This small model ships with ARR-COC and reads drawn pages of print: other pictures it answers in the "
    "words of that world. The budgets still show where it looks.",
}
SPENDING = (FREE, PRICED, LIMITED)
QUIET_MODEL = {"api_visibility": "private", "show_progress": "hidden", **MODEL}
LABELS = {TAUGHT: "what I taught it (Learning)"}
"""Policies that go by other words on the page."""


class Wishes:
    """Counts what a visitor asked for, so that an answer that was overtaken by another wish is not shown.

    Attributes
    ----------
    latest
        Number of the last wish.
    opened
        Whether the page was opened by an address that says what to ask.
    """

    def __init__(self) -> None:
        self.latest, self.opened = 0, False

    def new(self) -> int:
        """The number of a new wish."""
        self.latest += 1
        return self.latest


@dataclass
class Chooser:
    """Components of the left column, and what was chosen with them.

    Attributes
    ----------
    models
        What can be chosen from.
    followers
        Components of any tab that a change of the model changes, each with the update that a host asks for.
    emptied
        Components of any tab that a change of the picture empties, each with its value for a picture not yet asked
        about.
    """

    models: Models
    followers: list[tuple[Any, Callable[[Host], Any]]] = field(default_factory=list)
    emptied: list[tuple[Any, Callable[[Image.Image | None], Any]]] = field(default_factory=list)
    current: gr.State = field(init=False)
    pupil: gr.State = field(init=False)
    wishes: gr.State = field(init=False)
    model: gr.Dropdown = field(init=False)
    shelf: gr.Gallery = field(init=False)
    image: gr.Image = field(init=False)
    question: gr.Textbox = field(init=False)
    suggestions: gr.Radio = field(init=False)
    ask: gr.Button = field(init=False)
    settings: list[Any] = field(init=False)

    def build(self) -> None:
        """Lay out the column."""
        host = self.models.first
        first = host.pictures[0]
        self.current = gr.State(host.name)
        self.pupil = gr.State(Pupil(model=host.name, price=host.price), time_to_live=7200)
        self.wishes = gr.State(Wishes())
        self.model = gr.Dropdown(
            self.models.names, value=host.name, label="model", elem_id="model", visible=len(self.models) > 1
        )
        with gr.Row(elem_id="pictures", equal_height=True):
            self.shelf = gr.Gallery(
                _shelf(host), label="pictures", show_label=False, columns=5, allow_preview=False, object_fit="cover",
                buttons=[], elem_id="shelf", format="jpeg", height="auto",
            )  # fmt: skip
            self.image = Picture(
                first.image, label="or your own", show_label=False, sources=["upload", "clipboard"], height=170,
                buttons=[], elem_id="picture", format="png", min_width=120, placeholder="your own",
            )  # fmt: skip
        with gr.Row(elem_id="asking"):
            self.question = gr.Textbox(
                first.questions[0].text, label="question", show_label=False, submit_btn=False, max_lines=2,
                elem_id="question", placeholder="Type a question", scale=5, min_width=160,
            )  # fmt: skip
            self.ask = gr.Button("Ask", variant="primary", elem_id="ask", scale=1, min_width=64)
        self.suggestions = gr.Radio(
            [q.text for q in first.questions], value=first.questions[0].text, label="or choose one",
            elem_id="suggestions",
        )  # fmt: skip
        hint = gr.Markdown(
            OWN_WORLD.get(host.world or ""), elem_id="world", elem_classes="hint", visible=host.world is not None
        )
        with gr.Accordion("Policy, price, limit, budgets", open=False, elem_id="terms"):
            self.settings = self._settings(host)
        self.followers += [
            (self.shelf, lambda h: gr.update(value=_shelf(h), selected_index=None)),
            (hint, lambda h: gr.update(value=OWN_WORLD.get(h.world or ""), visible=h.world is not None)),
        ]

    def _settings(self, host: Host) -> list[Any]:
        policy = gr.Dropdown(policies(host), value=host.default_policy, label="policy", elem_id="policy")
        spending = gr.Radio(SPENDING, value=FREE, label="tokens are bounded by")
        price = gr.Slider(
            0, 1, value=host.price, step=0.01, label="my price: reward that a full-detail image costs", visible=False
        )
        limit = gr.Slider(
            0.16, 1, value=0.4, step=0.01, label="limit: share of full detail, never exceeded", visible=False
        )
        realizer = gr.Radio(host.realizers(), value="auto", label="how a patch is brought to its budget")
        budgets = gr.CheckboxGroup(list(host.budgets), value=list(host.budgets), label="budgets that may be chosen")
        spending.change(
            lambda kind: (gr.update(visible=kind == PRICED), gr.update(visible=kind == LIMITED)),
            spending, [price, limit], **QUIET,
        )  # fmt: skip
        self.followers += [
            (policy, lambda h: gr.update(choices=policies(h), value=h.default_policy)),
            (price, lambda h: gr.update(value=h.price)),
            (realizer, lambda h: gr.update(choices=h.realizers(), value="auto")),
            (budgets, lambda h: gr.update(choices=list(h.budgets), value=list(h.budgets))),
        ]
        return [policy, spending, price, limit, realizer, budgets]

    def wire(self, page: gr.Blocks, ask: Callable[[Any], Any]) -> None:
        """Connect the column, once all tabs are laid out.

        Parameters
        ----------
        page
            Whose address is read when it is opened.
        ask
            Given an event, lets the question be asked when it is over.
        """
        emptied = [component for component, _ in self.emptied]
        asked = [self.image, self.suggestions, self.question, *emptied]
        changed = [self.current, self.model, *(component for component, _ in self.followers), *asked]
        # A picture of the gallery is asked about at once; one's own waits for a question.
        ask(self.shelf.select(self._take, [self.current, self.wishes], asked, **QUIET))
        self.image.input(
            self._own, [self.current, self.wishes, self.suggestions, self.question], asked[1:], **QUIET
        ).success(self._show_own, self.image, emptied, **QUIET_MODEL).then(None, None, None, js=FRESH)
        ask(self.suggestions.input(lambda text: text, self.suggestions, self.question, **QUIET))
        ask(self.model.input(self._switch, [self.model, self.current, self.wishes], changed, **QUIET_MODEL))
        where = gr.Textbox(visible="hidden", elem_id="where")
        opened = list(dict.fromkeys([*changed, *self.settings]))
        ask(
            page.load(self._open, [where, self.wishes], opened, js="(_, w) => [location.search, w]", **QUIET_MODEL),
            lambda wishes: wishes.opened,
        )

    def _empty(self, image: Image.Image | None) -> dict[Any, Any]:
        return {component: value(image) for component, value in self.emptied}

    def _take(self, model: str, wishes: Wishes, event: gr.SelectData) -> dict[Any, Any]:
        wishes.new()
        return self._entry(self.models[model].pictures[event.index])

    def _entry(self, entry: Entry) -> dict[Any, Any]:
        texts = [q.text for q in entry.questions]
        return {
            self.image: entry.image, self.suggestions: gr.update(choices=texts, value=texts[0]),
            self.question: texts[0], **self._empty(entry.image),
        }  # fmt: skip

    def _own(self, model: str, wishes: Wishes, suggested: str | None, question: str) -> dict[Any, Any]:
        """A picture was brought or taken away: nothing of the last one stays, but one's own words do."""
        wishes.new()
        texts = for_uploads(self.models[model].world)
        typed = question if question.strip() and question != suggested else texts[0]
        chosen = typed if typed in texts else None
        changed = {} if typed == question else {self.question: typed}  # who goes on typing is not interrupted
        return {self.suggestions: gr.update(choices=list(texts), value=chosen), **changed, **self._empty(None)}

    def _show_own(self, image: Image.Image | None) -> Any:
        return self._empty(image) if image is not None else gr.skip()

    def _switch(self, name: str, current: str, wishes: Wishes) -> dict[Any, Any]:
        wishes.new()
        try:
            host = self.models[name]
        except EXPECTED as error:
            gr.Warning(escape(str(error)), title="That model can't be used")
            return {self.current: current, self.model: current}
        return self._become(host)

    def _become(self, host: Host) -> dict[Any, Any]:
        """Everything as a visitor of this model finds it."""
        changed = {component: update(host) for component, update in self.followers}
        return {self.current: host.name, self.model: host.name, **changed, **self._entry(host.pictures[0])}

    def _open(self, query: str, wishes: Wishes) -> Any:
        """Set the page as its address says; what it says wrongly is told and left as it was."""
        address = Address.read(dict(parse_qsl((query or "").removeprefix("?"))))
        wishes.opened = bool(address)
        if not address:
            return gr.skip()
        wishes.new()
        wrong: list[str] = []
        host = self.models[address.known("model", self.models.names, self.models.names[0], wrong)]
        entries = {entry.title: entry for entry in host.pictures}
        title = address.known("picture", [*entries, OWN], host.pictures[0].title, wrong)
        page = self._become(host)
        if title == OWN:
            page |= {self.image: None, **self._empty(None)}
            texts, wishes.opened = list(for_uploads(host.world)), False
            gr.Info("This address was about a picture of somebody's own, which is kept nowhere: bring it again.")
        else:
            page |= self._entry(entries[title])
            texts = [asked.text for asked in entries[title].questions]
        question = address.question or texts[0]
        chosen = question if question in texts else None
        page |= {self.question: question, self.suggestions: gr.update(choices=texts, value=chosen)}
        page |= self._stated(address.settings(host, wrong), host)
        if wrong:
            gr.Warning(escape(f"The address names {', '.join(wrong)}, not known here; the page's own stand in."))
        return page

    def _stated(self, terms: Settings, host: Host) -> dict[Any, Any]:
        """The controls as they state some terms."""
        policy, spending, price, limit, realizer, budgets = self.settings
        bound = LIMITED if terms.limit is not None else PRICED if terms.price is not None else FREE
        return {
            policy: gr.update(choices=policies(host), value=terms.policy),
            spending: bound,
            price: gr.update(value=host.price if terms.price is None else terms.price, visible=bound == PRICED),
            limit: gr.update(value=0.4 if terms.limit is None else terms.limit, visible=bound == LIMITED),
            realizer: gr.update(choices=host.realizers(), value=terms.realizer),
            budgets: gr.update(choices=list(host.budgets), value=list(terms.budgets or host.budgets)),
        }

    def truth(self, model: str, image: Image.Image, question: str) -> Asking | None:
        """What the gallery knows about a question on a picture."""
        entry = self.entry(model, image)
        return entry.truth(question) if entry is not None else None

    def entry(self, model: str, image: Image.Image) -> Entry | None:
        """The picture of the gallery that a picture is."""
        pictures = self.models[model].pictures
        return next((e for e in pictures if e.image.size == image.size and e.image == image), None)

    def address(self, model: str, image: Image.Image, question: str, settings: Settings) -> Address:
        """The address of an answer; what is as visitors find it is left out."""
        entry = self.entry(model, image)
        named = "" if model == self.models.names[0] else model
        return Address.of(named, OWN if entry is None else entry.title, question, settings, self.models[model])


def policies(host: Host) -> list[tuple[str, str]]:
    """(words, name) of the policies of a host."""
    return [(LABELS.get(name, name), name) for name in host.policies()]


def _shelf(host: Host) -> list[tuple[Image.Image, str]]:
    thumbs = []
    for entry in host.pictures:
        small = entry.image.copy()
        small.thumbnail((240, 240))
        thumbs.append((small, entry.title))
    return thumbs


def read_settings(
    policy: str, spending: str, price: float, limit: float, realizer: str, budgets: list[int]
) -> Settings:
    """The terms that the controls state.

    Raises
    ------
    ValueError
        If no budget is allowed, or one is no budget.
    """
    if not budgets:
        raise ValueError("no budget is allowed; tick at least one")
    return Settings(
        policy=policy,
        price=price if spending == PRICED else None,
        limit=limit if spending == LIMITED else None,
        realizer=realizer,
        budgets=tuple(sorted(int(b) for b in budgets)),
    )


def check_asked(image: Image.Image | None, question: str | None) -> None:
    """Refuse an empty question or a missing picture.

    Raises
    ------
    ValueError
        With what to do about it.
    """
    if image is None:
        raise ValueError("there is no picture; choose one above, or upload or paste your own")
    if not question or not question.strip():
        raise ValueError("there is no question; choose one, or type your own")
