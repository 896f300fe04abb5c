"""Pages: grids of patches with blocks of print over grounds and photographs, and what they state."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..world import photographs
from .blocks import Block, Fact, bars, fields, sign, table, tiles
from .canvas import PATCH, Canvas, Span, tone
from .charts import chart
from .lexicon import COLORS

GRIDS = {(1, 2): 0.15, (2, 1): 0.15, (2, 2): 0.3, (2, 3): 0.12, (3, 2): 0.12, (3, 3): 0.1, (3, 4): 0.03, (4, 4): 0.03}

BLOCKS: dict[str, Block] = {
    "fields": fields, "table": table, "bars": bars, "chart": chart, "sign": sign, "tiles": tiles,
}  # fmt: skip
SHARES = {"fields": 0.38, "table": 0.14, "bars": 0.1, "chart": 0.1, "sign": 0.14, "tiles": 0.14}


def ground(rng: random.Random, size: tuple[int, int], split: str, photo: float) -> Image.Image:
    """A plain ground, or with probability ``photo`` a piece of a photograph: its left part in training."""
    if rng.random() >= photo:
        return Image.new("RGB", size, tone(rng, rng.choice(list(COLORS))))
    image = rng.choice(photographs())
    height, width = image.shape[:2]
    left, right = {"train": (0, 0.55), "learn": (0.55, 0.75), "eval": (0.75, 1)}[split]
    left, right = int(left * width), int(right * width)
    side = rng.randint(90, min(right - left, height))
    x, y = rng.randint(left, right - side), rng.randint(0, height - side)
    crop = Image.fromarray(image[y : y + side, x : x + side]).resize(size, Image.Resampling.BILINEAR)
    return crop


def divide(rng: random.Random, grid: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """The patches of a grid in blocks of 1 x 1, 1 x 2 or 2 x 1: (top, left, rows, cols)."""
    rows, cols = grid
    free = {(r, c) for r in range(rows) for c in range(cols)}
    blocks = []
    for r in range(rows):
        for c in range(cols):
            if (r, c) not in free:
                continue
            h = w = 1
            u = rng.random()
            if u < 0.15 and (r, c + 1) in free:
                w = 2
            elif u < 0.3 and (r + 1, c) in free:
                h = 2
            free -= {(r + i, c + j) for i in range(h) for j in range(w)}
            blocks.append((r, c, h, w))
    return blocks


def draw_page(
    rng: random.Random, split: str = "train", grid: tuple[int, int] | None = None, finest: int = 400,
    shares: Mapping[str, float] = SHARES,
) -> tuple[Canvas, dict[str, Any]]:  # fmt: skip
    """One page; ``finest`` bounds the budget that its print is meant to need, ``shares`` are those of its blocks.

    Returns the canvas and ``{"spans": [[text, box, level, ink, ground], ...], "facts": [...], "blocks": [...]}``;
    the facts are those of ``blocks.Fact`` with ``block``, the index of the block they stand in. A word names at most
    one thing on a page.
    """
    rows, cols = grid or rng.choices(list(GRIDS), list(GRIDS.values()))[0]
    canvas = Canvas(rows, cols, ground(rng, (cols * PATCH, rows * PATCH), split, 0.5), split, finest)
    taken: set[str] = set()
    facts: list[Fact] = []
    blocks: list[dict[str, Any]] = []
    for r, c, h, w in divide(rng, (rows, cols)):
        if rows * cols > 2 and rng.random() < 0.12:
            continue  # nothing here but the ground
        margin = rng.choice((0, 2, 4, 6))
        box = (c * PATCH + margin, r * PATCH + margin, (c + w) * PATCH - 1 - margin, (r + h) * PATCH - 1 - margin)
        kind = rng.choices(list(shares), list(shares.values()))[0]
        before = len(canvas.spans)
        try:
            stated = BLOCKS[kind](rng, canvas, box, taken)
        except ValueError:  # the words of this kind are used up
            continue
        for one in stated:
            one["block"] = len(blocks)
        facts += stated
        blocks.append({"kind": kind, "box": list(box), "spans": [before, len(canvas.spans)]})
    spans = [[s.text, [round(v, 1) for v in s.box], s.level, s.ink, s.ground] for s in canvas.spans]
    return canvas, {"grid": [rows, cols], "spans": spans, "facts": facts, "blocks": blocks}


SKEWED, SHADED = 0.25, 0.25
"""Shares of pages that lie askew, and on which a shadow falls."""


def skewed(rng: random.Random, image: Image.Image, most: float = 1.0) -> tuple[Image.Image, float]:
    """A page turned about its centre by at most ``most`` degrees (its edges repeat the corner), and the angle."""
    angle = rng.uniform(-most, most)
    corner = image.getpixel((0, 0))
    return image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=corner), angle


def turned(box: Sequence[float], angle: float, size: tuple[int, int]) -> list[int]:
    """The box (left, top, right, bottom) around ``box`` after the page of ``size`` (width, height) was turned."""
    a = np.deg2rad(-angle)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    centre = np.array(size) / 2
    left, top, right, bottom = box
    corners = (np.array([(left, top), (right, top), (left, bottom), (right, bottom)]) - centre) @ turn.T + centre
    low, high = corners.min(0), corners.max(0)
    return [round(float(v)) for v in (*low, *high)]


def shadow(rng: random.Random, size: tuple[int, int]) -> np.ndarray:
    """Light ``[H, W]`` float32 of a page on which the soft edge of a shadow falls from any side."""
    h, w = size
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-0.5 : 0.5 : h * 1j, -0.5 : 0.5 : w * 1j].astype(np.float32)
    across = np.cos(angle) * x + np.sin(angle) * y - rng.uniform(-0.2, 0.3)
    depth: np.ndarray = 1 - rng.uniform(0.1, 0.35) / (1 + np.exp(-across / rng.uniform(0.01, 0.08)))
    return depth.astype(np.float32)


def photographed(rng: random.Random, image: Image.Image) -> Image.Image:
    """The page as a camera and a file give it: uneven light, perhaps a shadow, noise, JPEG."""
    x = np.asarray(image).astype(np.float32)
    h, w, _ = x.shape
    if rng.random() < SHADED:
        x = x * shadow(rng, (h, w))[..., None]
    slope = np.linspace(-0.5, 0.5, h)[:, None, None] * rng.uniform(-0.25, 0.25)
    slope = slope + np.linspace(-0.5, 0.5, w)[None, :, None] * rng.uniform(-0.25, 0.25)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(0, 6), x.shape)
    x = np.clip(x * (rng.uniform(0.85, 1.05) + slope) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(x).save(file, "JPEG", quality=rng.randint(75, 95))
    return Image.open(file).convert("RGB")


def patches_of(boxes: Sequence[Sequence[float]], grid: tuple[int, int]) -> list[int]:
    """Indices (raster order) of the patches that boxes touch; a patch with less than 3 pixels of a box does not count.

    A box thinner than that counts where its centre lies.
    """
    rows, cols = grid
    touched = set()
    for left, top, right, bottom in boxes:
        inset_x, inset_y = min(3, (right - left) / 2 - 0.5), min(3, (bottom - top) / 2 - 0.5)
        for r in range(int((top + inset_y) // PATCH), int((bottom - inset_y) // PATCH) + 1):
            for c in range(int((left + inset_x) // PATCH), int((right - inset_x) // PATCH) + 1):
                if 0 <= r < rows and 0 <= c < cols:
                    touched.add(r * cols + c)
    return sorted(touched)


__all__ = ["GRIDS", "PATCH", "Span", "draw_page", "patches_of", "photographed"]
