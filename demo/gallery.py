"""Pictures to start from, each with questions: drawn ones whose answers are known, and real photographs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

DRAWN = (7, 11, 20, 23, 31, 42)
"""Seeds of the drawn pictures."""
SIGN_QUESTIONS = ("is there a red sign ?", "is there a blue circle ?", "what color is the sign in the top left ?")
PHOTO_QUESTIONS = ("What is in this picture?", "What colors are there?", "How many people are there?")


@dataclass(frozen=True)
class Asking:
    """One question of a picture, and what the generator knows of it.

    Attributes
    ----------
    text, answer, kind
        Question, answer and kind; the last two are empty where nobody knows.
    evidence
        Patches that decide the answer, raster order.
    """

    text: str
    answer: str = ""
    kind: str = ""
    evidence: tuple[int, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One picture of the gallery."""

    title: str
    image: Image.Image = field(repr=False)
    questions: tuple[Asking, ...]

    def truth(self, question: str) -> Asking | None:
        """What is known of a question, if it is one of this picture's."""
        return next((q for q in self.questions if q.text == question and q.answer), None)


def gallery(reference: bool = True, world: str = "reference") -> list[Entry]:
    """Drawn pictures of a world, then photographs.

    Parameters
    ----------
    reference
        Whether the reference model will answer, which knows the words of its own world only.
    world
        "reference", or "pages" for those that the pages model was trained on.
    """
    if world == "pages":
        return [_page(seed, number) for number, seed in enumerate(DRAWN, start=1)]
    return [*(_drawn(seed, number) for number, seed in enumerate(DRAWN, start=1)), *_photographs(reference)]


def _drawn(seed: int, number: int) -> Entry:
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


def _photographs(reference: bool) -> list[Entry]:
    """The photographs that scikit-learn and matplotlib bring along."""
    import matplotlib

    from arr_coc.asking.images import load_image
    from arr_coc.reference.world import photographs

    asked = tuple(Asking(text) for text in (SIGN_QUESTIONS if reference else PHOTO_QUESTIONS))
    named = [(name, Image.fromarray(pixels)) for name, pixels in zip(("temple", "flower"), photographs(), strict=True)]
    portrait = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if portrait.is_file():  # some distributions of matplotlib leave the sample data out
        named.append(("portrait", load_image(portrait)))
    return [Entry(f"photograph: {name}", image, asked) for name, image in named]
