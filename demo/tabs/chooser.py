"""The left column: which picture, which question, on what terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from PIL import Image

from ..gallery import Asking, Entry
from ..host import Host, Settings
from .common import QUIET, Picture

FREE, PRICED, LIMITED = "the policy's own price", "my price", "a limit"
OWN_WORLD = (
    "The model that ships with ARR-COC is small and knows a world of signs. Photographs it can only "
    "answer in the words of that world; the budgets still show where it looks. `--model` takes another one."
)
SPENDING = (FREE, PRICED, LIMITED)


@dataclass
class Chooser:
    """Components of the left column, and what was chosen with them."""

    host: Host
    pictures: list[Entry]
    image: gr.Image = field(init=False)
    question: gr.Textbox = field(init=False)
    suggestions: gr.Radio = field(init=False)
    ask: gr.Button = field(init=False)
    settings: list[Any] = field(init=False)

    def build(self) -> None:
        """Lay out the column."""
        first = self.pictures[0]
        gr.Markdown("**1. Choose a picture**, or upload or paste your own")
        shelf = gr.Gallery(
            [(entry.image, entry.title) for entry in self.pictures], label="pictures", show_label=False, columns=5,
            allow_preview=False, object_fit="cover", buttons=[], elem_id="shelf", format="jpeg", height="auto",
        )  # fmt: skip
        self.image = Picture(
            first.image, label="your picture", show_label=False, sources=["upload", "clipboard"], height=230,
            buttons=[], elem_id="picture", format="png",
        )  # fmt: skip
        if self.host.is_reference:
            gr.Markdown(OWN_WORLD, elem_classes="hint")
        self.suggestions = gr.Radio(
            [q.text for q in first.questions], value=first.questions[0].text, label="2. Choose a question",
            elem_id="suggestions",
        )  # fmt: skip
        self.question = gr.Textbox(
            first.questions[0].text, label="or type one", submit_btn=False, max_lines=2, elem_id="question"
        )
        self.ask = gr.Button("Ask", variant="primary", elem_id="ask")
        with gr.Accordion("Policy, price, limit, budgets", open=False):
            self.settings = self._settings()
        shelf.select(self._take, None, [self.image, self.suggestions, self.question], **QUIET)

    def _settings(self) -> list[Any]:
        host = self.host
        policy = gr.Dropdown(host.policies(), value=host.default_policy, label="policy")
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
        return [policy, spending, price, limit, realizer, budgets]

    def _take(self, event: gr.SelectData) -> tuple[Image.Image, Any, str]:
        entry = self.pictures[event.index]
        texts = [q.text for q in entry.questions]
        return entry.image, gr.update(choices=texts, value=texts[0]), texts[0]

    def truth(self, image: Image.Image, question: str) -> Asking | None:
        """What the gallery knows about a question on a picture."""
        entry = next((e for e in self.pictures if e.image.size == image.size and e.image == image), None)
        return entry.truth(question) if entry is not None else None


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
