"""Models that are given several views of one image: tiles, an overview.

How the tiles lie in the photograph is the processor's secret, so they are shown as they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from ..scene.patches import Patch, by_view
from .boxes import Box, patch_boxes
from .overlay import draw_budgets
from .page import stack

if TYPE_CHECKING:
    from torch import Tensor

    from ..wrapping.record import Allocation


def spread_views(pixels: Sequence[Tensor], patches: Sequence[Patch]) -> tuple[Image.Image, list[Box]]:
    """Every view as the model was given it, one below another, and where its patches lie on that sheet.

    Parameters
    ----------
    pixels
        Per patch ``[3, H, W]`` RGB in [0, 1], as :meth:`arr_coc.families.Family.pixels` gives them.
    patches
        N patches.

    Returns
    -------
    Image, list of Box
        The sheet and N pixel boxes on it.

    Raises
    ------
    ValueError
        If the patches have no pixels.
    """
    if len(pixels) != len(patches) or not patches:
        raise ValueError(f"{len(pixels)} pictures for {len(patches)} patches; give one per patch")
    pictures: list[Image.Image] = []
    boxes: dict[int, Box] = {}
    top = 0
    for members in by_view(patches).values():
        mine = [patches[i] for i in members]
        first = pixels[members[0]]
        down, across = first.shape[1] / mine[0].height, first.shape[2] / mine[0].width
        size = round(max(p.right for p in mine) * across), round(max(p.bottom for p in mine) * down)
        picture = Image.new("RGB", size)
        for i, (left, upper, right, lower) in zip(members, patch_boxes(size, mine), strict=True):
            part = Image.fromarray((pixels[i] * 255).round().byte().permute(1, 2, 0).cpu().numpy())
            picture.paste(part.resize((right - left, lower - upper)), (left, upper))
            boxes[i] = (left, top + upper, right, top + lower)
        pictures.append(picture)
        top += size[1]
    return stack(pictures), [boxes[i] for i in range(len(patches))]


def draw_views(
    pixels: Sequence[Tensor], allocation: Allocation, answer: str | None = None, levels: Sequence[int] = ()
) -> Image.Image:
    """The budgets over every view; see `spread_views` and `draw_budgets`."""
    sheet, boxes = spread_views(pixels, allocation.patches)
    return draw_budgets(
        sheet, boxes, allocation.budgets, allocation.realised, levels=levels, full_tokens=allocation.full_tokens,
        question=allocation.question, answer=answer,
    )  # fmt: skip


def draw_plain(
    allocation: Allocation, grid: tuple[int, int] | None = None, answer: str | None = None, cell: int = 8
) -> Image.Image:
    """The budgets without the picture: every view a blank page of ``cell`` pixels per visual token, one below another.

    ``grid`` (rows, columns) places patches that are image entries of their own; see `draw_budgets`.
    """
    patches = allocation.patches
    if grid is not None:
        side = cell * max(max(patch.height, patch.width) for patch in patches)
        sheet = Image.new("RGB", (side * grid[1], side * grid[0]), "white")
        boxes = patch_boxes(sheet.size, patches, grid)
    else:
        top, placed = 0, {}
        for members in by_view(patches).values():
            mine = [patches[i] for i in members]
            size = cell * max(p.right for p in mine), cell * max(p.bottom for p in mine)
            for i, (left, upper, right, lower) in zip(members, patch_boxes(size, mine), strict=True):
                placed[i] = (left, top + upper, right, top + lower)
            top += size[1]
        boxes = [placed[i] for i in range(len(patches))]
        sheet = Image.new("RGB", (max(box[2] for box in boxes), top), "white")
    return draw_budgets(
        sheet, boxes, allocation.budgets, allocation.realised, full_tokens=allocation.full_tokens,
        question=allocation.question or None, answer=answer,
    )  # fmt: skip
