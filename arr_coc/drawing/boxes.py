"""Where the patches of an image lie, in pixels."""

from __future__ import annotations

from collections.abc import Sequence

from ..scene.patches import Patch, by_view

Box = tuple[int, int, int, int]


def grid_boxes(size: tuple[int, int], grid: tuple[int, int]) -> list[Box]:
    """Pixel boxes (left, top, right, bottom) of a rows x columns grid over an image, in raster order."""
    (width, height), (rows, columns) = size, grid
    if rows < 1 or columns < 1:
        raise ValueError(f"grid={grid} must have at least one row and one column")
    return [
        (width * c // columns, height * r // rows, width * (c + 1) // columns, height * (r + 1) // rows)
        for r in range(rows)
        for c in range(columns)
    ]


def patch_boxes(size: tuple[int, int], patches: Sequence[Patch], grid: tuple[int, int] | None = None) -> list[Box]:
    """Pixel boxes of patches over the one image that they cover.

    Parameters
    ----------
    size
        Width and height of the image in pixels.
    patches
        N patches of one view; ragged ones keep their proportions.
    grid
        Rows and columns where each patch is an image entry of its own, as with the reference processor.

    Raises
    ------
    ValueError
        If the patches are those of several views and no grid tells how they lie.
    """
    if grid is not None:
        if grid[0] * grid[1] != len(patches):
            raise ValueError(f"a grid of {grid[0]} x {grid[1]} has no place for {len(patches)} patches")
        return grid_boxes(size, grid)
    if len(by_view(patches)) != 1:
        raise ValueError("the patches are those of several views; give grid= (rows, columns) if they tile one image")
    width = size[0] / max(patch.right for patch in patches)
    height = size[1] / max(patch.bottom for patch in patches)
    return [
        (round(p.left * width), round(p.top * height), round(p.right * width), round(p.bottom * height))
        for p in patches
    ]
