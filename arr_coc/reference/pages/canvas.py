"""A page while it is drawn: print, boxes and grounds, and the record of every glyph that was set."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .lexicon import CHARACTER_ID, COLOR_ID, COLORS, NUMBER_ID, WORD_ID

PATCH = 160
"""Side of one patch in pixels at full detail: 20 visual tokens of 8 pixels."""
LATTICE = 2
"""Print starts at multiples of this many pixels, as type does on a baseline grid."""
SIZES = {400: (9, 10), 256: (12, 13), 128: (15, 17), 64: (21, 24)}
"""Font sizes in pixels by level: the budget that is meant to resolve them."""
FONTS = {
    "train": (
        "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "STIXGeneral.ttf",
        "STIXGeneralBol.ttf", "DejaVuSans-BoldOblique.ttf", "DejaVuSerif-Italic.ttf", "cmb10.ttf", "cmtt10.ttf",
    ),
    "learn": ("DejaVuSerif-Bold.ttf", "DejaVuSans.ttf", "DejaVuSansMono-Bold.ttf"),
    "eval": ("DejaVuSansMono-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf"),
}  # fmt: skip
DARK = ("black", "blue", "red", "green", "purple")

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the page."""


@functools.cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of matplotlib's bundle at ``size`` pixels."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


@dataclass(frozen=True)
class Span:
    """One word or number in print. ``box`` is in pixels, ``level`` the budget meant to resolve it."""

    text: str
    box: Box
    level: int
    ink: str
    ground: str


@dataclass
class Canvas:
    """A picture of ``rows`` x ``cols`` patches under construction."""

    rows: int
    cols: int
    image: Image.Image
    split: str = "train"
    finest: int = 400
    """No print is meant to need a larger budget than this."""
    spans: list[Span] = field(default_factory=list)
    glyphs: list[tuple[float, float, float, float, int, int, int, int, int]] = field(default_factory=list)
    """x0, y0, x1, y1, character, word, ink, ground, font size: one row per glyph that was set."""

    def __post_init__(self) -> None:
        self.pen = ImageDraw.Draw(self.image)

    def width(self, text: str, name: str, size: int) -> float:
        """Pixels that ``text`` takes."""
        return float(font(name, size).getlength(text))

    def print(self, rng: random.Random, text: str, x: float, y: float, name: str, size: int, ink: str,
              ground: str, level: int) -> Span:  # fmt: skip
        """Set ``text`` with its left end at ``x`` and its line's top at ``y``; lower, title or upper case."""
        shown = rng.choice((text, text, text.title(), text.upper())) if text[0].isalpha() else text
        face = font(name, size)
        x, y = round(x / LATTICE) * LATTICE, round(y / LATTICE) * LATTICE
        top, bottom = y + face.getbbox("0")[1], y + face.getbbox("0")[3]
        self.pen.text((x, y), shown, font=face, fill=tone(rng, ink))
        word = WORD_ID.get(text.rstrip(":"), NUMBER_ID)
        left = float(x)
        for c in shown:
            right = left + face.getlength(c)
            self.glyphs.append(
                (left, top, right, bottom, CHARACTER_ID[c.lower()], word, COLOR_ID[ink], COLOR_ID[ground], size)
            )
            left = right
        seen = min(left, float(self.image.width))  # capitals may run over the edge by a pixel or two
        span = Span(text.rstrip(":"), (x, top, seen, bottom), level, ink, ground)
        self.spans.append(span)
        return span

    def pixels(self) -> np.ndarray:
        """``[H, W, 3]`` uint8."""
        return np.asarray(self.image)


def tone(rng: random.Random, color: str, spread: int = 14) -> tuple[int, int, int]:
    """A shade of a named colour."""
    r, g, b = (min(255, max(0, v + rng.randint(-spread, spread))) for v in COLORS[color])
    return r, g, b


def ink_on(rng: random.Random, ground: str) -> str:
    """An ink that can be read on ``ground``: mostly black on light paper, else white."""
    if ground in ("white", "yellow", "pink", "grey", "orange"):
        inks = ["black"] * 3 + [c for c in DARK if c != "black"] if ground == "white" else ["black"]
        return rng.choice(inks)
    return "white"
