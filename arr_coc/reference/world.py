"""The world of reference VQA: procedurally drawn patches with coloured signs that carry print of varying legibility.

One *patch* is 160 x 160 pixels (20 x 20 visual tokens of 8 x 8 pixels at full detail). It holds up to two signs, each
with a colour, a shape and a content: a number, a word, a letter, dots to count, or nothing. Print comes in four sizes,
chosen so that each of the budgets 400, 256, 128 and 64 is about the cheapest one that still resolves it. Grounds are
plain, graded, or cut from the two photographs bundled with scikit-learn; the left part of the photographs serves
training, the right part evaluation.

Print sits on a 4-pixel lattice: like type set on a baseline grid, it limits how many ways a glyph can straddle two ViT
patches, which is what lets a tower of a few hundred thousand parameters read it.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PATCH = 160
"""Side of one patch in pixels at full detail."""

COLORS = {
    "red": (230, 55, 55),
    "green": (60, 190, 75),
    "blue": (85, 125, 250),
    "yellow": (240, 215, 30),
    "purple": (175, 80, 215),
    "orange": (250, 145, 40),
    "pink": (250, 165, 205),
    "cyan": (70, 215, 220),
}
SHAPES = ("circle", "square", "triangle", "star")
LETTERS = tuple("behkmrtx")  # no "a": the VQA normalisation removes articles
WORDS = tuple(
    "bus car dog fox hat ink jam key log map nut owl pen rug sun toy van web zoo box cup egg gym lip".split()
)
MAX_DOTS = 5
PRINT_SIZES = {400: (10, 11), 256: (13, 14), 128: (18, 20), 64: (27, 29)}
"""Font sizes in pixels per level; a level is named after the budget that is meant to resolve it."""

CONTENTS = {"number": 0.40, "word": 0.22, "letter": 0.14, "dots": 0.14, "blank": 0.10}
LEVELS = {400: 0.40, 256: 0.20, 128: 0.20, 64: 0.20}
GRIDS = {(2, 2): 0.40, (2, 3): 0.15, (3, 2): 0.15, (3, 3): 0.30}

T = TypeVar("T")
Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the patch."""


@dataclass(frozen=True)
class Sign:
    """One sign: what it looks like, what is printed on it and where (pixels inside its patch)."""

    color: str
    shape: str
    content: str  # key of CONTENTS
    value: str  # "47", "bus", "k", "3" or ""
    level: int  # budget meant to resolve the content
    box: Box
    print_box: Box


@dataclass
class Picture:
    """One drawn image: the patches in raster order and the signs of each.

    ``pixels`` is ``[rows * 160, cols * 160, 3]`` uint8.
    """

    grid: tuple[int, int]
    pixels: np.ndarray
    signs: list[list[Sign]] = field(default_factory=list)

    def patches(self) -> np.ndarray:
        """``[N, 160, 160, 3]`` uint8 in raster order."""
        rows, cols = self.grid
        tiled = self.pixels.reshape(rows, PATCH, cols, PATCH, 3)
        return tiled.transpose(0, 2, 1, 3, 4).reshape(rows * cols, PATCH, PATCH, 3)


def pick(rng: random.Random, weights: Mapping[T, float]) -> T:
    """One key of ``weights``, with probability proportional to its value."""
    return rng.choices(list(weights), list(weights.values()))[0]


@functools.cache
def font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, at ``size`` pixels."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


@functools.cache
def photographs() -> tuple[np.ndarray, ...]:
    """The photographs bundled with scikit-learn, ``[427, 640, 3]`` uint8 each."""
    from sklearn.datasets import load_sample_images

    return tuple(load_sample_images().images)


def ground(rng: random.Random, grid: tuple[int, int], split: str) -> Image.Image:
    """The ground of a whole picture: one light colour or gradient per patch, or a pale photograph across all."""
    rows, cols = grid
    size = (cols * PATCH, rows * PATCH)
    if rng.random() < 0.35:
        photo = rng.choice(photographs())
        width = photo.shape[1]
        left, right = (0, int(0.6 * width)) if split == "train" else (int(0.6 * width), width)
        side = rng.randint(100, min(right - left, photo.shape[0]))
        x, y = rng.randint(left, right - side), rng.randint(0, photo.shape[0] - side)
        crop = Image.fromarray(photo[y : y + side, x : x + side]).resize(size, Image.Resampling.BICUBIC)
        return Image.blend(crop, Image.new("RGB", size, (250, 250, 245)), rng.uniform(0.45, 0.65))
    canvas = Image.new("RGB", size)
    for row in range(rows):
        for col in range(cols):
            light = tuple(rng.randint(212, 255) for _ in range(3))
            patch = Image.new("RGB", (PATCH, PATCH), light)
            if rng.random() < 0.25:
                dark = Image.new("RGB", (PATCH, PATCH), tuple(c - rng.randint(10, 45) for c in light))
                slope = Image.linear_gradient("L").resize((PATCH, PATCH)).rotate(90 * rng.randrange(4))
                patch = Image.composite(patch, dark, slope)
            canvas.paste(patch, (col * PATCH, row * PATCH))
    return canvas


def place(rng: random.Random, taken: list[Box], size: int, w: float, h: float, margin: int) -> tuple[int, int] | None:
    """A free top-left corner for a ``w`` x ``h`` box, or None after 40 tries."""
    for _ in range(40):
        x, y = rng.randint(1, int(size - 1 - w)), rng.randint(1, int(size - 1 - h))
        if all(
            x + w + margin < a or a + c + margin < x or y + h + margin < b or b + d + margin < y
            for a, b, c, d in taken
        ):
            taken.append((x, y, w, h))
            return x, y
    return None


def draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, s: float, fill: tuple[int, int, int]
) -> None:
    """A filled ``shape`` in the ``s`` x ``s`` box whose top-left corner is (x, y)."""
    if shape == "circle":
        draw.ellipse((x, y, x + s, y + s), fill=fill)
    elif shape == "square":
        draw.rectangle((x, y, x + s, y + s), fill=fill)
    elif shape == "triangle":
        draw.polygon([(x + s / 2, y), (x + s, y + s), (x, y + s)], fill=fill)
    else:
        corners = []
        for i in range(10):
            radius = s / 2 if i % 2 == 0 else s / 3.6
            angle = -math.pi / 2 + i * math.pi / 5
            corners.append((x + s / 2 + radius * math.cos(angle), y + s / 2 + radius * math.sin(angle)))
        draw.polygon(corners, fill=fill)


def draw_print(rng: random.Random, draw: ImageDraw.ImageDraw, text: str, size: int, cx: float, cy: float) -> Box:
    """Dark print centred near (cx, cy), its bounding box snapped to the 4-pixel lattice. Returns the box."""
    face = font(size, rng.random() < 0.6)
    left, top, right, bottom = face.getbbox(text)
    w, h = right - left, bottom - top
    x, y = 4 * round((cx - w / 2) / 4), 4 * round((cy - h / 2) / 4)
    draw.text((x - left, y - top), text, font=face, fill=(rng.randint(0, 40),) * 3)
    return (x, y, w, h)


def draw_dots(rng: random.Random, draw: ImageDraw.ImageDraw, count: int, cx: float, cy: float) -> Box:
    """``count`` dots of 6 pixels on distinct cells of a 3 x 3 lattice of 11 pixels around (cx, cy)."""
    for cell in rng.sample(range(9), count):
        x, y = cx + 11 * (cell % 3 - 1), cy + 11 * (cell // 3 - 1)
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(20, 20, 20))
    return (cx - 14, cy - 14, 28, 28)


def draw_sign(
    rng: random.Random,
    draw: ImageDraw.ImageDraw,
    taken: list[Box],
    color: str,
    size: int = PATCH,
    content: str | None = None,
    level: int | None = None,
    small: bool = False,
) -> Sign | None:
    """Draw one sign on a free spot of a ``size`` x ``size`` canvas; None if there is no room."""
    content = content or pick(rng, CONTENTS)
    shape = rng.choice(SHAPES)
    value, points = "", 0
    if content in ("number", "word"):
        level = level or pick(rng, LEVELS)
        value = str(rng.randint(10, 99)) if content == "number" else rng.choice(WORDS)
        points = rng.choice(PRINT_SIZES[level])
    elif content == "letter":
        level, value, points = 64, rng.choice(LETTERS), rng.randint(28, 36)
    elif content == "dots":
        level, value = 256, str(rng.randint(1, MAX_DOTS))
    else:
        level = 64
    width = font(points, True).getlength(value.upper()) if points else 34
    side = int(max(rng.randint(26, 38) if small else rng.randint(44, 60), 1.25 * width + 6))
    corner = place(rng, taken, size, side, side, 1)
    if corner is None:
        return None
    x, y = corner
    r, g, b = (min(255, max(0, c + rng.randint(-12, 12))) for c in COLORS[color])
    draw_shape(draw, shape, x, y, side, (r, g, b))
    cx, cy = x + side / 2, y + side * {"triangle": 0.66, "star": 0.53}.get(shape, 0.5)
    if content == "dots":
        box = draw_dots(rng, draw, int(value), round(cx), round(cy))
    elif value:
        slack = 0 if shape in ("star", "triangle") else max(0, int((side - width) / 2 - 8))
        box = draw_print(rng, draw, value.upper(), points, cx + rng.randint(-slack, slack), cy)
    else:
        box = (cx - side / 6, cy - side / 6, side / 3, side / 3)
    return Sign(color, shape, content, value, level, (x, y, side, side), box)


def draw_clutter(rng: random.Random, draw: ImageDraw.ImageDraw, taken: list[Box]) -> None:
    """Grey specks, strokes and bars that mean nothing."""
    for _ in range(rng.choice((0, 0, 1, 2, 4, 6))):
        w, h = rng.choice(((5, 5), (14, 3), (3, 14), (18, 8)))
        corner = place(rng, taken, PATCH, w, h, 2)
        if corner is not None:
            x, y = corner
            shade = (rng.randint(30, 150),) * 3
            (draw.ellipse if w == h else draw.rectangle)((x, y, x + w, y + h), fill=shade)


def draw_patch(rng: random.Random, canvas: Image.Image, colors: list[str], level: int | None = None) -> list[Sign]:
    """Draw signs of the given colours and clutter onto a 160 x 160 canvas; returns the signs that found room."""
    draw, taken = ImageDraw.Draw(canvas), list[Box]()
    signs = [draw_sign(rng, draw, taken, color, level=level) for color in colors]
    draw_clutter(rng, draw, taken)
    return [sign for sign in signs if sign is not None]


def draw_picture(
    rng: random.Random, split: str, grid: tuple[int, int] | None = None, level: int | None = None
) -> Picture:
    """One picture of the world. ``split`` "train" draws its photographs from another region than every other split.

    ``grid`` and ``level`` (of all print) are drawn from ``GRIDS`` and ``LEVELS`` where not given.
    """
    grid = grid or pick(rng, GRIDS)
    n = grid[0] * grid[1]
    counts = [rng.choices((0, 1, 2), (0.10 if n <= 4 else 0.30, 0.60, 0.30))[0] for _ in range(n)]
    if not any(counts):
        counts[rng.randrange(n)] = 1
    names = list(COLORS)
    # Mostly distinct colours, so that "the red sign" names one; beyond eight signs colours repeat and the shape must
    # help.
    palette = rng.sample(names, len(names))
    colors = [palette[i] if i < len(palette) and rng.random() < 0.9 else rng.choice(names) for i in range(sum(counts))]
    canvas = ground(rng, grid, split)
    picture = Picture(grid, np.empty(0), [])
    for i, count in enumerate(counts):
        corner = ((i % grid[1]) * PATCH, (i // grid[1]) * PATCH)
        patch = canvas.crop((*corner, corner[0] + PATCH, corner[1] + PATCH))
        picture.signs.append(draw_patch(rng, patch, [colors.pop() for _ in range(count)], level))
        canvas.paste(patch, corner)
    picture.pixels = np.asarray(canvas)
    return picture
