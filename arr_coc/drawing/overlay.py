"""Budgets over the image, and what the model saw at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from ..scene.patches import budget_grid
from .boxes import Box, patch_boxes
from .page import stack, text_strip
from .style import FAINT, INK, PAPER, Color, contrast, font, palette

if TYPE_CHECKING:
    from ..wrapping.record import Allocation


def draw_allocation(
    image: Image.Image,
    allocation: Allocation,
    grid: tuple[int, int] | None = None,
    answer: str | None = None,
    truth: str | None = None,
    score: float | None = None,
    levels: Sequence[int] = (),
) -> Image.Image:
    """The overlay of one `Allocation` record, as `arr.last` holds it; see `draw_budgets`."""
    boxes = patch_boxes(image.size, allocation.patches, grid)
    return draw_budgets(
        image, boxes, allocation.budgets, allocation.realised, levels=levels, full_tokens=allocation.full_tokens,
        question=allocation.question, answer=answer, truth=truth, score=score,
    )  # fmt: skip


def draw_budgets(
    image: Image.Image,
    boxes: Sequence[Box],
    budgets: Sequence[int],
    realised: Sequence[int] | None = None,
    *,
    levels: Sequence[int] = (),
    full_tokens: int | None = None,
    question: str | None = None,
    answer: str | None = None,
    truth: str | None = None,
    score: float | None = None,
    width: int = 640,
) -> Image.Image:
    """The budgets of one question over its image, with legend, tokens and caption.

    The picture keeps its colours, because questions ask for them: each patch is framed in the colour of its budget,
    the dearer the thicker, and a tag in its corner tells the tokens that it spent.

    Parameters
    ----------
    image
        The picture.
    boxes
        N pixel boxes, see `patch_boxes`.
    budgets, realised
        N nominal budgets, and the tokens really spent (by default the budgets).
    levels
        Budgets that the legend shows besides those used.
    full_tokens
        Tokens at full detail, for the share.
    question, answer, truth
        Caption.
    score
        Reward of the answer in [0, 1]; from 0.5 on it is marked as right.
    width
        Of the result, in pixels.

    Returns
    -------
    PIL.Image.Image
        Mode "RGB".
    """
    realised = list(budgets if realised is None else realised)
    if not len(boxes) == len(budgets) == len(realised):
        raise ValueError(
            f"{len(boxes)} boxes, {len(budgets)} budgets and {len(realised)} realised; give one per patch"
        )
    colors = palette([*levels, *budgets])
    canvas, scale = _fitted(image, width)
    draw = ImageDraw.Draw(canvas)
    ranks = {level: rank for rank, level in enumerate(colors)}
    for box, budget, spent in zip(boxes, budgets, realised, strict=True):
        left, top, right, bottom = (round(side * scale) for side in box)
        right, bottom = max(right, left + 4), max(bottom, top + 4)  # a frame stays visible on a strip
        line = max(2, width // 320) + ranks[budget]
        draw.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=colors[budget], width=line)
        size = max(9, min(width // 34, (right - left) // 6))
        _tag(draw, (left + line, top + line), str(spent), font(size), colors[budget], right - left - 2 * line)
    strips = [canvas, _legend(colors, width)]
    tokens = f"{sum(realised):,} visual tokens"
    if full_tokens:
        tokens += f" of {full_tokens:,} at full detail ({100 * sum(realised) / full_tokens:.0f} %)"
    strips.append(text_strip(tokens, width, FAINT))
    if question:
        strips.append(text_strip(f"Q: {question}", width, INK))
    if answer is not None:
        strips.append(text_strip(f"A: {answer or '(no answer)'}{_verdict(truth, score)}", width, INK, bold=True))
    return stack(strips)


def draw_seen(image: Image.Image, boxes: Sequence[Box], grids: Sequence[tuple[int, int]], cell: int) -> Image.Image:
    """What the model saw: every patch reduced to its realised resolution and enlarged again without smoothing.

    Parameters
    ----------
    image
        The picture, as the processor resized it.
    boxes
        N pixel boxes.
    grids
        N (rows, columns) of visual tokens, see `seen_grids`.
    cell
        Pixels along the side of one visual token.
    """
    if len(boxes) != len(grids):
        raise ValueError(f"{len(boxes)} boxes for {len(grids)} grids; give one per patch")
    seen = image.convert("RGB")
    for box, (rows, columns) in zip(boxes, grids, strict=True):
        size = (box[2] - box[0], box[3] - box[1])
        small = seen.crop(box).resize(
            (min(size[0], columns * cell), min(size[1], rows * cell)), Image.Resampling.BICUBIC
        )
        seen.paste(small.resize(size, Image.Resampling.NEAREST), box[:2])
    return seen


def seen_grids(allocation: Allocation) -> list[tuple[int, int]]:
    """Per patch the rows and columns of visual tokens that its budget bought."""
    return [budget_grid(p.height, p.width, n) for p, n in zip(allocation.patches, allocation.realised, strict=True)]


def _fitted(image: Image.Image, width: int) -> tuple[Image.Image, float]:
    """The image as RGB on a canvas of a width, and the scale. A strip is not drawn taller than four widths."""
    scale = min(width / image.width, 4 * width / image.height)
    method = Image.Resampling.NEAREST if scale > 4 else Image.Resampling.BICUBIC
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", (width, max(4, size[1])), "white")
    canvas.paste(image.convert("RGB").resize(size, method))
    return canvas, scale


def _verdict(truth: str | None, score: float | None) -> str:
    if score is not None and score >= 0.5:
        return "   \u2713"
    wrong = "" if score is None else "   \u2717"
    return wrong + ("" if truth is None else f"   (expected: {truth})")


def _tag(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    face: ImageFont.FreeTypeFont,
    color: Color,
    room: int,
) -> None:
    """A small filled label, left out where the patch has no room for it."""
    left, top, right, bottom = face.getbbox(text)
    pad = max(2, (bottom - top) // 3)
    if right - left + 2 * pad > room:
        return
    x, y = corner
    draw.rectangle((x, y, x + right - left + 2 * pad, y + bottom - top + 2 * pad), fill=color)
    draw.text((x + pad - left, y + pad - top), text, font=face, fill=contrast(color))


def _legend(colors: dict[int, Color], width: int) -> Image.Image:
    face = font(max(12, width // 42))
    side = max(12, width // 40)
    strip = Image.new("RGB", (width, 2 * side), PAPER)
    draw = ImageDraw.Draw(strip)
    x, y = side // 2, side // 2
    draw.text((x, y + side / 2), "budget", font=face, fill=FAINT, anchor="lm")
    x += round(face.getlength("budget ")) + side // 2
    for level, color in colors.items():
        draw.rectangle((x, y, x + side, y + side), fill=color)
        draw.text((x + side + side // 3, y + side / 2), str(level), font=face, fill=INK, anchor="lm")
        x += side + side // 3 + round(face.getlength(f"{level}  ")) + side // 2
    return strip
