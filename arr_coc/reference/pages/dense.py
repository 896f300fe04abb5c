"""Canvases full of print for the reading stage of the tower, and the labels of their cells."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from .canvas import FONTS, PATCH, SIZES, Canvas, ink_on, tone
from .lexicon import CHARACTERS, COLORS, NUMBER_ID, WORDS, number

HEADS = {
    "left": len(CHARACTERS) + 1,
    "right": len(CHARACTERS) + 1,
    "cover": len(CHARACTERS) + 1,
    "word": len(WORDS) + 2,
    "ink": len(COLORS) + 1,
}
"""What an ordinary linear head reads off each cell, with its number of classes; class 0 is none.

``left`` and ``right``: the character whose centre lies in that half of the cell; ``cover``: the one over the cell's
centre; ``word``: the printed word that passes here (the last class is any number); ``ink``: its colour.
"""


def crowded(rng: random.Random, split: str = "train", levels: dict[int, float] | None = None) -> Canvas:
    """One patch crowded with words and numbers on panels of colour."""
    levels = levels or {400: 0.45, 256: 0.25, 128: 0.2, 64: 0.1}
    ground = rng.choice(list(COLORS))
    canvas = Canvas(1, 1, Image.new("RGB", (PATCH, PATCH), tone(rng, ground)), split)
    y = rng.randint(0, 6)
    while y < PATCH - 8:
        level = rng.choices(list(levels), list(levels.values()))[0]
        size = rng.choice(SIZES[level])
        if rng.random() < 0.5:
            ground = rng.choice(("white", "white", "white", *COLORS))
        height = round(1.25 * size) + rng.randint(1, 6)
        canvas.pen.rectangle((0, y, PATCH, PATCH), fill=tone(rng, ground))
        x = rng.randint(0, 14)
        while True:
            text = (
                rng.choice(WORDS)
                if rng.random() < 0.45
                else number(rng, rng.choice(("count", "count", "two", "price", "percent", "date", "time")))
            )
            name = rng.choice(FONTS[split])
            if x + canvas.width(text.upper(), name, size) > PATCH:
                break
            span = canvas.print(rng, text, x, y, name, size, ink_on(rng, ground), ground, level)
            x = int(span.box[2]) + rng.randint(4, 16)
        y += height
    return canvas


def cell_labels(glyphs: np.ndarray, crop: tuple[float, float, float, float], grid: tuple[int, int]) -> np.ndarray:
    """Labels of the cells of a crop.

    Parameters
    ----------
    glyphs
        ``[G, 9]`` as ``Canvas.glyphs``.
    crop
        Left, top, right, bottom in pixels.
    grid
        Rows and columns of cells over it.

    Returns
    -------
    np.ndarray
        ``[5, rows, cols]`` int64, in the order of ``HEADS``; -1 where print is too small for the cells to resolve
        (no loss is counted there), and of words that the crop cuts.
    """
    rows, cols = grid
    left, top, right, bottom = crop
    h, w = (bottom - top) / rows, (right - left) / cols
    labels = np.zeros((5, rows, cols), dtype=np.int64)
    if not len(glyphs):
        return labels
    x0, y0, x1, y1 = (glyphs[:, i] for i in range(4))
    cx, cy = ((x0 + x1) / 2 - left) / w, ((y0 + y1) / 2 - top) / h
    inside = (cx >= 0) & (cx < cols) & (cy >= 0) & (cy < rows)
    # A word ends where the next glyph doesn't join on; one that the crop cuts has no label.
    begins = np.append(True, (x0[1:] != x1[:-1]) | (y0[1:] != y0[:-1]))
    whole = np.logical_and.reduceat(inside, begins.nonzero()[0])[begins.cumsum() - 1]
    for uncut, x, y, a, b, c, d, (char, word, ink, _, size) in zip(
        whole[inside], cx[inside], cy[inside],
        (x0[inside] - left) / w, (x1[inside] - left) / w, (y0[inside] - top) / h,
        (y1[inside] - top) / h, glyphs[inside, 4:].astype(int), strict=True,
    ):  # fmt: skip
        i, j = int(y), int(x)
        r0, r1 = max(0, min(i, round(c))), min(rows, max(i + 1, round(d)))
        c0, c1 = max(0, min(j, int(a))), min(cols, max(j + 1, int(np.ceil(b))))
        labels[3, r0:r1, c0:c1] = word if uncut or word == NUMBER_ID else -1
        labels[4, r0:r1, c0:c1] = ink
        if size / h < 0.8 or size / w < 0.8:  # fewer than 6.4 pixels high at 8 pixels a cell
            labels[:3, i, j] = -1
            continue
        labels[0 if x - j < 0.5 else 1, i, j] = char
        if b - a > 1.15 or d - c > 1.15:
            u0, u1 = int(np.ceil(a - 0.5)), int(np.floor(b - 0.5)) + 1
            v0, v1 = int(np.ceil(c - 0.5)), int(np.floor(d - 0.5)) + 1
            labels[2, max(0, v0) : v1, max(0, u0) : u1] = char
        else:
            labels[2, i, j] = char
    return labels
