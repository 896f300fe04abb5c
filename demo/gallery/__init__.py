"""Pictures to start from, each with questions: drawn ones whose answers are known, and real photographs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image

from arr_coc.learning.rewards import make_reward

from . import documents

SIGNS = "signs"
"""The world of the reference model: drawn signs, and a small vocabulary."""
PAGES = "pages"
"""The world of the second model: receipts, forms, tables, charts, labels and small screens."""
DRAWN = (7, 11, 20, 23, 31, 42)
"""Seeds of the drawn pictures."""


@dataclass(frozen=True)
class Asking:
    """One question of a picture, and what is known of it.

    Attributes
    ----------
    text, answer, kind
        Question, answer and kind; the last two are empty where nobody knows.
    evidence
        Patches that decide the answer, raster order.
    metric
        Name of the reward by which answers are judged, see `arr_coc.learning.rewards.make_reward`.
    """

    text: str
    answer: str = ""
    kind: str = ""
    evidence: tuple[int, ...] = ()
    metric: str = "vqa_accuracy"

    def score(self, answer: str) -> float:
        """How right an answer is, in [0, 1]."""
        return make_reward(self.metric)(answer, {"answers": [self.answer]})


@dataclass(frozen=True)
class Entry:
    """One picture of the gallery."""

    title: str
    image: Image.Image = field(repr=False)
    questions: tuple[Asking, ...]

    def truth(self, question: str) -> Asking | None:
        """What is known of a question, if it is one of this picture's."""
        return next((q for q in self.questions if q.text == question and q.answer), None)


PAGE_QUESTIONS = ("what is the title ?", "which has the most ?", "is there a total ?")
SIGN_QUESTIONS = ("is there a red sign ?", "is there a blue circle ?", "what color is the sign in the top left ?")
OPEN_QUESTIONS = ("What is in this picture?", "What is written in the smallest print?", "Which colors stand out?")
PHOTO_QUESTIONS = ("What is in this picture?", "What colors are there?", "How many people are there?")
PAGE = (
    Asking("What is the reference number in the small print?", "LB-2207/14", "small print", metric="anls"),
    Asking("Which room does the story hour move to?", "room 214", "print", metric="anls"),
    Asking("What does a lost card cost?", "4 crowns", "small print", metric="anls"),
    Asking("Who signed the notice?", "Ida Lindqvist", "print", metric="anls"),
    Asking("Which library is this notice from?", "Town Library of Elmsford", "headline", metric="anls"),
)
RECEIPT = (
    Asking("What is the total?", documents.TOTAL, "headline", metric="anls"),
    Asking("What did the olive oil cost?", "8.90", "print", metric="anls"),
    Asking("What is the number of the receipt?", "0058-7714", "small print", metric="anls"),
    Asking("How much is the value added tax?", "3.31", "small print", metric="anls"),
    Asking("Who served the customer?", "Noor", "print", metric="anls"),
)
CHART = (
    Asking("How many passengers, in thousands, does the museum have?", "287", "number", metric="relaxed_accuracy"),
    Asking("Which stop has the most passengers?", "Station", "look", metric="relaxed_accuracy"),
    Asking("Since when does the airport count?", "June", "small print", metric="relaxed_accuracy"),
    Asking("How many stops are shown?", "6", "count", metric="relaxed_accuracy"),
)


@lru_cache
def gallery(world: str | None = SIGNS) -> list[Entry]:
    """Pictures of the world that a model was made for, then photographs.

    Parameters
    ----------
    world
        `SIGNS` for the reference model, which knows the words of its own world only; `PAGES` for the second model,
        and ``None`` for an ordinary one, which is given a page, a receipt, a chart and photographs in their own sizes.
    """
    if world == SIGNS:
        drawn = [_signs(seed, number) for number, seed in enumerate(DRAWN, start=1)]
        return [*drawn, *_photographs(SIGN_QUESTIONS)]
    if world == PAGES:
        return [_page(seed, number) for number, seed in enumerate(DRAWN, start=1)]
    drawn = [
        Entry("page", documents.page(), PAGE), Entry("receipt", documents.receipt(), RECEIPT),
        Entry("chart", documents.chart(), CHART),
    ]  # fmt: skip
    return [*drawn, *_photographs(PHOTO_QUESTIONS)]


def for_uploads(world: str | None = SIGNS) -> tuple[str, ...]:
    """Questions that can be asked about any picture, in the words of a world."""
    return {SIGNS: SIGN_QUESTIONS, PAGES: PAGE_QUESTIONS}.get(world or "", OPEN_QUESTIONS)


def _signs(seed: int, number: int) -> Entry:
    """A picture of the evaluation split with one question of every kind that it has room for."""
    from arr_coc.reference.questions import KINDS, ask
    from arr_coc.reference.world import draw_picture

    rng = random.Random(f"gallery/{seed}")
    picture = draw_picture(rng, "eval", ((2, 2), (2, 3), (3, 3))[number % 3])
    questions: dict[str, Asking] = {}
    for kind in dict.fromkeys(("number", "word", "color", *KINDS)):  # what shows most comes first
        # A try may fail where another one finds a sign that can be named.
        found = next(filter(None, (ask(rng, picture, kind) for _ in range(20))), None)
        if found is not None and found.text not in questions:
            evidence = tuple(sorted({patch for patch, _ in found.evidence}))
            questions[found.text] = Asking(found.text, found.answer, found.kind, evidence)
    return Entry(f"signs {number}", Image.fromarray(picture.pixels), tuple(questions.values()))


def _page(seed: int, number: int) -> Entry:
    """A page of the evaluation split with some of its questions, each kind once before any twice."""
    from arr_coc.reference.pages.page import draw_page, patches_of
    from arr_coc.reference.pages.questions import ask

    rng = random.Random(f"gallery/{seed}")
    canvas, page = draw_page(rng, "eval", ((1, 2), (2, 2), (3, 3))[number % 3])
    asked = {question.text: question for question in ask(rng, page, 24, "train")}
    first = list({question.kind: question for question in asked.values()}.values())
    rest = [question for question in asked.values() if question not in first]
    questions = tuple(
        Asking(q.text, q.answer, q.kind, tuple(patches_of(q.boxes, (canvas.rows, canvas.cols))))
        for q in (*first, *rest)[:10]
    )
    return Entry(f"page {number}", canvas.image, questions)


def _photographs(questions: tuple[str, ...]) -> list[Entry]:
    """The photographs that scikit-learn and matplotlib bring along."""
    import matplotlib

    from arr_coc.asking.images import load_image
    from arr_coc.reference.world import photographs

    asked = tuple(Asking(text) for text in questions)
    named = [(name, Image.fromarray(pixels)) for name, pixels in zip(("temple", "flower"), photographs(), strict=True)]
    portrait = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if portrait.is_file():  # some distributions of matplotlib leave the sample data out
        named.append(("portrait", load_image(portrait)))
    return [Entry(f"photograph: {name}", image, asked) for name, image in named]
