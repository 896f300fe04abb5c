"""Pictures and lines of text on a page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw

from .style import INK, PAPER, Color, font


def contact_sheet(
    pictures: Sequence[Image.Image], columns: int = 3, title: str | None = None, gap: int = 16
) -> Image.Image:
    """Pictures of one width on one page, row by row, under an optional title."""
    if not pictures or columns < 1:
        raise ValueError(
            f"a page of {len(pictures)} pictures in {columns} columns has nothing to show; give at least one"
        )
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    width = max(sum(picture.width + gap for picture in row) for row in rows) + gap
    heights = [max(picture.height for picture in row) + gap for row in rows]
    page = Image.new("RGB", (width, sum(heights) + gap), PAPER)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        left = gap
        for picture in row:
            page.paste(picture, (left, top))
            left += picture.width + gap
        top += height
    return stack([text_strip(title, width, INK, bold=True), page]) if title else page


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another on white."""
    page = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), PAPER)
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height
    return page


def titled(title: str, picture: Image.Image) -> Image.Image:
    """A picture under its title."""
    return stack([text_strip(title, picture.width, INK, bold=True), picture])


def text_strip(text: str, width: int, color: Color, bold: bool = False) -> Image.Image:
    """A paragraph of at most four lines, as wide as the picture that it goes with."""
    size = max(12, min(26, width // 36))
    face = font(size, bold)
    letters = max(8, int(1.9 * width / size) - 4)
    lines = textwrap.wrap(text, letters)[:4] or [" "]
    pad = size // 2
    strip = Image.new("RGB", (width, round(len(lines) * size * 1.3) + pad // 2), PAPER)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((pad, round(number * size * 1.3)), line, font=face, fill=color)
    return strip
