"""What stands on a page: lists of fields, tables, bar charts, signs and app tiles, each with the facts it states."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from .canvas import FONTS, SIZES, Box, Canvas, Span, ink_on, tone
from .lexicon import (
    CITIES,
    COLORS,
    DAYS,
    FIELDS,
    GAUGES,
    GOODS,
    MONTHS,
    NAMES,
    SIGNS,
    SUMS,
    TEAMS,
    TITLES,
    number,
)  # fmt: skip

LABEL_LEVELS = {64: 0.35, 128: 0.35, 256: 0.2, 400: 0.1}
VALUE_LEVELS = {400: 0.5, 256: 0.2, 128: 0.2, 64: 0.1}
SMALL = ("STIX", "cm")
"""Faces that look a size smaller than they say."""
GROUNDS = ("white", "white", "white", "yellow", "grey", "pink", "blue", "green")
Fact = dict[str, Any]
"""``kind``, ``about`` (words that name it), ``answer``, ``boxes`` (where it shows), ``level``."""


def pick(rng: random.Random, weights: dict[int, float]) -> int:
    """One key, with probability proportional to its value."""
    return rng.choices(list(weights), list(weights.values()))[0]


def fact(kind: str, about: list[str], answer: str, spans: list[Span]) -> Fact:
    """A fact that these spans show."""
    boxes = [[round(v) for v in span.box] for span in spans]
    return {"kind": kind, "about": about, "answer": answer, "boxes": boxes,
            "level": max((span.level for span in spans), default=64)}  # fmt: skip


class Face:
    """Font and size of one kind of print in a block."""

    def __init__(self, rng: random.Random, canvas: Canvas, levels: dict[int, float]) -> None:
        allowed = {level: share for level, share in levels.items() if level <= canvas.finest}
        self.name, self.level = rng.choice(FONTS[canvas.split]), pick(rng, allowed or {canvas.finest: 1.0})
        self.size = rng.choice(SIZES[self.level]) + (1 if self.name.startswith(SMALL) else 0)

    def fit(self, canvas: Canvas, text: str, room: float) -> None:
        """Take the next smaller sizes until ``text`` (in upper case) fits into ``room`` pixels."""
        levels = sorted(SIZES)
        while self.level < 400 and canvas.width(text.upper(), self.name, self.size) > room:
            self.level = levels[levels.index(self.level) + 1]
            self.size = max(SIZES[self.level])


def put(rng: random.Random, canvas: Canvas, text: str, x: float, y: float, face: Face, ink: str, ground: str,
        right: bool = False) -> Span:  # fmt: skip
    """Print ``text`` with its left (or right) end at ``x``."""
    if right:
        x -= canvas.width(text, face.name, face.size) + 1
    return canvas.print(rng, text, x, y, face.name, face.size, ink, ground, face.level)


def _panel(rng: random.Random, canvas: Canvas, box: Box, ground: str) -> None:
    canvas.pen.rectangle(box, fill=tone(rng, ground))


def _title(rng: random.Random, canvas: Canvas, box: Box, ground: str, words: tuple[str, ...], taken: set[str],
           facts: list[Fact]) -> float:  # fmt: skip
    """Print a title, perhaps on a bar of its own colour; returns where the rest begins."""
    word = rng.choice([w for w in words if w not in taken] or list(words))
    taken.add(word)
    left, top, right, _ = box
    face = Face(rng, canvas, {64: 0.5, 128: 0.5})
    face.fit(canvas, word, right - left - 8)
    if rng.random() < 0.4:
        ground = rng.choice([c for c in COLORS if c != ground])
        _panel(rng, canvas, (left, top, right, top + 1.3 * face.size + 4), ground)
    span = put(rng, canvas, word, left + rng.randint(3, 20), top + 2, face, ink_on(rng, ground), ground)
    facts.append(fact("title", [], word, [span]))
    return float(top + 1.3 * face.size + 6)


def _value(rng: random.Random, word: str) -> str:
    if word in GOODS or word in SUMS or word == "price":
        return number(rng, "price")
    if word in GAUGES and rng.random() < 0.6:
        return number(rng, "percent")
    if word == "date":
        return number(rng, "date")
    if word == "hour":
        return number(rng, "time")
    if word == "name":
        return rng.choice(NAMES)
    if word == "city":
        return rng.choice(CITIES)
    return number(rng, "count")


def fields(rng: random.Random, canvas: Canvas, box: Box, taken: set[str]) -> list[Fact]:
    """A receipt, form or ticket: a title and lines of a label and its value."""
    facts: list[Fact] = []
    sort = rng.choice(("receipt", "form", "gauges"))
    words = {"receipt": GOODS, "form": (*FIELDS, "name", "city"), "gauges": (*GAUGES, *DAYS)}[sort]
    ground = rng.choice(GROUNDS)
    _panel(rng, canvas, box, ground)
    left, top, right, bottom = box
    y = top + rng.randint(1, 4)
    if rng.random() < 0.6:
        y = _title(rng, canvas, box, ground, TITLES, taken, facts)
    label, value = Face(rng, canvas, LABEL_LEVELS), Face(rng, canvas, VALUE_LEVELS)
    free = [w for w in words if w not in taken]
    height = 1.25 * max(label.size, value.size) + rng.randint(1, 6)
    rows = min(max(1, int((bottom - y) // height)), rng.randint(2, 7), len(free))
    chosen = rng.sample(free, rows)
    if sort == "receipt" and rows > 2:
        tail = rng.sample([w for w in SUMS if w not in taken], min(2, rows - 2))
        chosen[rows - len(tail) :] = tail
    taken.update(chosen)
    label.fit(canvas, max(chosen, key=len), 0.6 * (right - left))
    values = [_value(rng, word) for word in chosen]
    longest = max(canvas.width(word, label.name, label.size) for word in chosen)
    value.fit(canvas, max(values, key=len), right - left - longest - 14)
    aligned = rng.random() < 0.5
    mark = ":" if rng.random() < 0.3 else ""
    ink, other = ink_on(rng, ground), ink_on(rng, ground)
    x = left + rng.randint(2, 8)
    for word, text in zip(chosen, values, strict=True):
        base = max(label.size, value.size)
        first = put(rng, canvas, word + mark if mark else word, x, y + base - label.size, label, ink, ground)
        at = right - 3 if aligned else min(right - 4 - canvas.width(text, value.name, value.size), x + longest + 12)
        second = put(rng, canvas, text, at, y + base - value.size, value, other, ground, right=aligned)
        facts.append(fact("field", [word], text, [second, first]))
        y += height
    return facts


def table(rng: random.Random, canvas: Canvas, box: Box, taken: set[str]) -> list[Fact]:
    """A table: names of columns above, names of rows at the left, a number in each cell."""
    facts: list[Fact] = []
    ground = rng.choice(GROUNDS)
    _panel(rng, canvas, box, ground)
    left, top, right, bottom = box
    wide = right - left > 200
    row_words, column_words = rng.sample((MONTHS, DAYS, TEAMS, NAMES, CITIES), 2)
    columns = rng.sample([w for w in column_words if w not in taken], rng.randint(2, 4 if wide else 2))
    label, value = Face(rng, canvas, {128: 0.5, 256: 0.3, 400: 0.2}), Face(rng, canvas, VALUE_LEVELS)
    height = 1.25 * max(label.size, value.size) + rng.randint(2, 8)
    rows = min(rng.randint(2, 5), max(2, int((bottom - top) // height) - 1))
    names = rng.sample([w for w in row_words if w not in taken and w not in columns], rows)
    taken.update(columns, names)
    first = 0.34 * (right - left)
    step = (right - left - first) / len(columns)
    label.fit(canvas, max(names, key=len), first - 4)
    label.fit(canvas, max(columns, key=len), step - 4)
    value.fit(canvas, "0000", step - 4)
    ink, rules = ink_on(rng, ground), rng.random() < 0.6
    y = top + rng.randint(1, 6)
    heads = [
        put(rng, canvas, word, left + first + (c + 1) * step - 3, y, label, ink, ground, right=True)
        for c, word in enumerate(columns)
    ]
    for word in names:
        y += height
        if rules:
            canvas.pen.line((left, y - 1, right, y - 1), fill=tone(rng, "grey"))
        name = put(rng, canvas, word, left + 3, y, label, ink, ground)
        for c, column in enumerate(columns):
            text = number(rng, "count")
            at = left + first + (c + 1) * step - 3
            cell = put(rng, canvas, text, at, y, value, ink, ground, right=True)
            facts.append(fact("cell", [word, column], text, [cell, name, heads[c]]))
    return facts


def bars(rng: random.Random, canvas: Canvas, box: Box, taken: set[str]) -> list[Fact]:
    """Horizontal bars: a name, a coloured bar as long as its number, and the number at its end."""
    facts: list[Fact] = []
    ground = rng.choice(("white", "white", "grey", "yellow"))
    _panel(rng, canvas, box, ground)
    left, top, right, bottom = box
    y = top + rng.randint(1, 4)
    if rng.random() < 0.4:
        y = _title(rng, canvas, box, ground, ("sales", "score", "stock", "report"), taken, facts)
    label, value = Face(rng, canvas, LABEL_LEVELS), Face(rng, canvas, VALUE_LEVELS)
    words = [w for w in rng.choice((MONTHS, TEAMS, CITIES, GOODS)) if w not in taken]
    height = max(1.25 * max(label.size, value.size) + rng.randint(1, 8), 14)
    rows = min(rng.randint(2, 5), max(1, int((bottom - y) // height)))
    chosen = rng.sample(words, rows)
    taken.update(chosen)
    label.fit(canvas, max(chosen, key=len), 0.45 * (right - left))
    value.fit(canvas, "000", 36)
    start = left + 6 + max(canvas.width(w.upper(), label.name, label.size) for w in chosen)
    room = right - start - 6 - canvas.width("000", value.name, value.size)
    inks = rng.sample([c for c in COLORS if c not in (ground, "white", "black")], rows)
    numbers = rng.sample(range(10, 1000 if rng.random() < 0.5 else 100), rows)
    for word, color, n in zip(chosen, inks, numbers, strict=True):
        name = put(rng, canvas, word, left + 3, y, label, "black", ground)
        length = max(4.0, room * n / max(numbers))
        canvas.pen.rectangle((start, y, start + length, y + height - 4), fill=tone(rng, color))
        span = put(rng, canvas, str(n), start + length + 3, y, value, "black", ground)
        facts.append(fact("field", [word], str(n), [span, name]))
        bar = Span("", (start, y, start + length, y + height - 4), 64, color, ground)
        facts.append(fact("color", [word], color, [bar, name]))
        y += height
    if rows > 1:
        most = chosen[numbers.index(max(numbers))]
        facts.append({"kind": "most", "about": [], "answer": most, "boxes": [[round(v) for v in box]],
                      "level": label.level})  # fmt: skip
    return facts


def sign(rng: random.Random, canvas: Canvas, box: Box, taken: set[str]) -> list[Fact]:
    """A coloured board over a photograph: a word in large print and a number below it."""
    left, top, right, bottom = box
    word = rng.choice([w for w in SIGNS if w not in taken] or list(SIGNS))
    taken.add(word)
    color = rng.choice(list(COLORS))
    face, value = Face(rng, canvas, {64: 0.7, 128: 0.3}), Face(rng, canvas, VALUE_LEVELS)
    face.fit(canvas, word, right - left - 30)
    width = max(canvas.width(word.upper(), face.name, face.size), 60) + rng.randint(12, 24)
    height = 1.3 * (face.size + value.size) + rng.randint(10, 24)
    x, y = rng.uniform(left, max(left, right - width)), rng.uniform(top, max(top, bottom - height))
    canvas.pen.rounded_rectangle((x, y, x + width, y + height), rng.choice((0, 6, 12)), fill=tone(rng, color))
    ink = ink_on(rng, color)
    first = put(rng, canvas, word, x + 7, y + 3, face, ink, color)
    text = number(rng, rng.choice(("count", "two", "percent", "time")))
    second = put(rng, canvas, text, x + 7 + rng.randint(0, 12), y + 1.3 * face.size + 5, value, ink, color)
    board = Span("", (x, y, x + width, y + height), 64, color, color)
    return [
        fact("field", [word], text, [second, first]),
        fact("color", [word], color, [board, first]),
        fact("says", [color], word, [first]),
        fact("on", [color], text, [second]),
    ]


def tiles(rng: random.Random, canvas: Canvas, box: Box, taken: set[str]) -> list[Fact]:
    """A small screen: tiles of different colours with a label and a value each."""
    left, top, right, bottom = box
    _panel(rng, canvas, box, rng.choice(("black", "white", "grey")))
    columns = 1 if right - left < 200 else 2
    rows = rng.randint(2, 3) if columns == 1 else rng.randint(1, 3)
    w, h = (right - left) / columns, (bottom - top) / rows
    colors = rng.sample(list(COLORS), rows * columns)
    words = rng.sample([x for x in (*GAUGES, *DAYS) if x not in taken], rows * columns)
    taken.update(words)
    label, value = Face(rng, canvas, LABEL_LEVELS), Face(rng, canvas, VALUE_LEVELS)
    label.fit(canvas, max(words, key=len), w - 20)
    if 1.3 * (label.size + value.size) + 10 > h:
        label.level, label.size, value.level, value.size = 256, 12, 400, 10
    facts = []
    for i, (word, color) in enumerate(zip(words, colors, strict=True)):
        x, y = left + i % columns * w, top + i // columns * h
        canvas.pen.rounded_rectangle((x + 3, y + 3, x + w - 3, y + h - 3), 8, fill=tone(rng, color))
        ink = ink_on(rng, color)
        name = put(rng, canvas, word, x + 8, y + 5, label, ink, color)
        text = _value(rng, word)
        second = put(rng, canvas, text, x + 8 + rng.randint(0, 20), y + 1.3 * label.size + 7, value, ink, color)
        tile = Span("", (x + 3, y + 3, x + w - 3, y + h - 3), 64, color, color)
        facts += [
            fact("field", [word], text, [second, name]),
            fact("color", [word], color, [tile, name]),
            fact("on", [color], text, [second]),
        ]
    return facts


Block = Callable[[random.Random, Canvas, Box, set[str]], list[Fact]]
