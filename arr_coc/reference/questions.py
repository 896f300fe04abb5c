"""Questions about a picture of the reference world, their answers, and the evidence each one needs."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .world import COLORS, SHAPES, Picture, Sign, pick

ROWS = {1: ("middle",), 2: ("top", "bottom"), 3: ("top", "middle", "bottom")}
COLS = {1: ("center",), 2: ("left", "right"), 3: ("left", "center", "right")}

KINDS = {
    "shape": 1.0, "color": 1.0, "letter": 1.0, "number": 2.4, "word": 1.4, "count": 1.0, "yesno": 1.4, "compare": 1.0,
}  # fmt: skip
"""Kinds of question with their share in the mix."""


@dataclass(frozen=True)
class Question:
    """One question: its words, the answer, and which sign of which patch decides it.

    ``evidence`` lists (patch index, sign index) pairs, empty if the answer rests on an absence; ``referents`` are the
    words that name each of them; ``level`` is the budget meant to resolve the evidence (the finer one if there are
    two).
    """

    text: str
    answer: str
    kind: str
    level: int
    evidence: tuple[tuple[int, int], ...]
    referents: tuple[tuple[str, ...], ...]


def location(grid: tuple[int, int], patch: int) -> tuple[str, str]:
    """The two words that name a patch, e.g. ("top", "left")."""
    return ROWS[grid[0]][patch // grid[1]], COLS[grid[1]][patch % grid[1]]


def refer(
    rng: random.Random, picture: Picture, patch: int, sign: Sign, avoid: str = ""
) -> tuple[str, tuple[str, ...]] | None:
    """A phrase that names ``sign`` uniquely and its key words; None if there is none.

    It does not use the attribute ``avoid`` ("color" or "shape"), which the question asks for.
    """
    everyone = [s for signs in picture.signs for s in signs]
    phrases: list[tuple[str, tuple[str, ...]]] = []
    if len(picture.signs[patch]) == 1:
        where = location(picture.grid, patch)
        phrases.append((f"the sign in the {where[0]} {where[1]}", where))
    if avoid != "color":
        if sum(s.color == sign.color for s in everyone) == 1:
            phrases.append((f"the {sign.color} sign", (sign.color,)))
        if avoid != "shape" and sum((s.color, s.shape) == (sign.color, sign.shape) for s in everyone) == 1:
            phrases.append((f"the {sign.color} {sign.shape}", (sign.color, sign.shape)))
    elif sum(s.shape == sign.shape for s in everyone) == 1:
        phrases.append((f"the {sign.shape}", (sign.shape,)))
    if avoid and sign.content == "letter" and sum(s.value == sign.value for s in everyone) == 1:
        phrases.append((f"the sign with the letter {sign.value}", (sign.value,)))
    return rng.choice(phrases) if phrases else None


def _signs(picture: Picture, content: str | None = None) -> list[tuple[int, int, Sign]]:
    return [
        (p, i, sign)
        for p, signs in enumerate(picture.signs)
        for i, sign in enumerate(signs)
        if content is None or sign.content == content
    ]


def _read(rng: random.Random, picture: Picture, kind: str) -> Question | None:
    """Questions whose answer is printed on one sign, or is its colour or shape."""
    content = {"letter": "letter", "number": "number", "word": "word", "count": "dots"}.get(kind)
    candidates = _signs(picture, content)
    if not candidates:
        return None
    patch, index, sign = rng.choice(candidates)
    named = refer(rng, picture, patch, sign, kind if content is None else "")
    if named is None:
        return None
    phrase, words = named
    if content is None:
        text, answer, level = f"what {kind} is {phrase} ?", getattr(sign, kind), 64
    else:
        head = "how many dots are" if kind == "count" else f"what {kind} is"
        text, answer, level = f"{head} on {phrase} ?", sign.value, sign.level
    return Question(text, answer, kind, level, ((patch, index),), (words,))


def _yesno(rng: random.Random, picture: Picture) -> Question | None:
    """Whether something is there, or has a colour; "yes" half of the time."""
    everyone = _signs(picture)
    wanted = rng.random() < 0.5
    form = rng.choice(("color", "both", "place"))
    if form == "place":
        lone = [(p, signs[0]) for p, signs in enumerate(picture.signs) if len(signs) == 1]
        if not lone:
            return None
        patch, sign = rng.choice(lone)
        color = sign.color if wanted else rng.choice([c for c in COLORS if c != sign.color])
        where = location(picture.grid, patch)
        text = f"is the sign in the {where[0]} {where[1]} {color} ?"
        return Question(text, "yes" if wanted else "no", "yesno", 64, ((patch, 0),), ((*where, color),))
    if form == "color":
        colors = {s.color for _, _, s in everyone}
        absent_or_present = [c for c in COLORS if (c in colors) == wanted]
        if not absent_or_present:
            return None
        color = rng.choice(absent_or_present)
        text, words = f"is there a {color} sign ?", [color]
        evidence = tuple((p, i) for p, i, s in everyone if s.color == color)
    else:
        present = {(s.color, s.shape) for _, _, s in everyone}
        options = sorted(present) if wanted else [(c, s) for c in COLORS for s in SHAPES if (c, s) not in present]
        if not options:
            return None
        color, shape = rng.choice(options)
        text, words = f"is there a {color} {shape} ?", [color, shape]
        evidence = tuple((p, i) for p, i, s in everyone if (s.color, s.shape) == (color, shape))
    return Question(text, "yes" if wanted else "no", "yesno", 64, evidence, (tuple(words),))


def _compare(rng: random.Random, picture: Picture) -> Question | None:
    """Two pieces of evidence, at least 5 apart."""
    numbers = _signs(picture, "number")
    if len(numbers) < 2:
        return None
    (p1, i1, s1), (p2, i2, s2) = rng.sample(numbers, 2)
    if abs(int(s1.value) - int(s2.value)) < 5:
        return None
    first, second = refer(rng, picture, p1, s1), refer(rng, picture, p2, s2)
    if first is None or second is None:
        return None
    text = f"is the number on {first[0]} larger than on {second[0]} ?"
    answer = "yes" if int(s1.value) > int(s2.value) else "no"
    return Question(text, answer, "compare", max(s1.level, s2.level), ((p1, i1), (p2, i2)), (first[1], second[1]))


def ask(rng: random.Random, picture: Picture, kind: str | None = None) -> Question | None:
    """One question of the given kind (or of a kind drawn from the mix); None if the picture has no room for it."""
    kind = kind or pick(rng, KINDS)
    if kind == "yesno":
        return _yesno(rng, picture)
    if kind == "compare":
        return _compare(rng, picture)
    return _read(rng, picture, kind)
