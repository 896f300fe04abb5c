"""Colours and letters of all pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Color = tuple[int, int, int]

# Seven steps of matplotlib's "viridis" (van der Walt and Smith), which rises evenly in lightness and reads alike for
# all eyes.
_VIRIDIS: tuple[Color, ...] = (
    (68, 1, 84), (68, 57, 131), (49, 104, 142), (33, 145, 140), (53, 183, 121), (144, 215, 67), (253, 231, 37),
)  # fmt: skip
INK, PAPER, FAINT = (28, 28, 32), (255, 255, 255), (110, 110, 118)


def palette(levels: Sequence[int]) -> dict[int, Color]:
    """One colour per budget level, from dark (few tokens) to bright (many).

    Parameters
    ----------
    levels
        The budgets; order and repeats do not matter.
    """
    ranked = sorted(set(levels))
    if not ranked:
        raise ValueError("levels is empty; give the budgets, for example (64, 128, 256, 400)")
    return {level: shade(i / max(1, len(ranked) - 1)) for i, level in enumerate(ranked)}


def shade(place: float) -> Color:
    """The colour at a place in [0, 1] of the scale, from dark to bright."""
    step = place * (len(_VIRIDIS) - 1)
    low = min(int(step), len(_VIRIDIS) - 2)
    red, green, blue = (
        round(a + (b - a) * (step - low)) for a, b in zip(_VIRIDIS[low], _VIRIDIS[low + 1], strict=True)
    )
    return red, green, blue


def contrast(color: Color) -> Color:
    """Black or white, whichever reads better on a colour."""
    return INK if 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140 else PAPER


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along; it knows far more letters than Pillow's own font."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
