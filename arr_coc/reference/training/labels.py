"""Dense labels: what each cell of a patch's token grid shows. They serve training only, never inference."""

from __future__ import annotations

import numpy as np

from ..vocabulary import CLASSES
from ..world import Box, Sign

IGNORE = -100
ATTRIBUTES = tuple(CLASSES)


def cells(box: Box, size: int, grid: tuple[int, int], fx: float, fy: float) -> tuple[slice, slice]:
    """Rows and columns of ``grid`` under the middle of ``box`` (half-widths ``fx``, ``fy`` as shares of its sides)."""
    rows, cols = grid
    x, y, w, h = box

    def span(start: float, length: float, share: float, n: int) -> slice:
        low = (start + length * (0.5 - share)) * n / size
        high = (start + length * (0.5 + share)) * n / size
        return slice(max(0, min(n - 1, int(low))), max(0, min(n - 1, int(high))) + 1)

    return span(y, h, fy, rows), span(x, w, fx, cols)


def core(sign: Sign, size: int, grid: tuple[int, int]) -> tuple[slice, slice]:
    """The cells that carry a sign's content: the middle of its print."""
    if sign.content in ("dots", "blank"):
        return cells(sign.print_box, size, grid, 0.25, 0.25)
    return cells(sign.print_box, size, grid, 0.25, 0.0 if sign.print_box[3] < 16 else 0.2)


def sign_classes(sign: Sign) -> dict[str, int]:
    """Class index of every attribute the sign shows."""
    shown = {}
    if sign.shape:  # loose print of the training crops has neither shape nor colour
        shown = {"shape": CLASSES["shape"].index(sign.shape), "color": CLASSES["color"].index(sign.color)}
    if sign.content == "number":
        shown["tens"] = CLASSES["tens"].index(sign.value[0])
        shown["units"] = CLASSES["units"].index(sign.value[1])
    elif sign.content != "blank":
        shown[sign.content] = CLASSES[sign.content].index(sign.value)
    return shown


def dense_labels(signs: list[Sign], size: int, grid: tuple[int, int]) -> np.ndarray:
    """What every cell of ``grid`` shows of a patch with ``size`` pixels a side.

    Returns
    -------
    np.ndarray
        ``[attributes, rows, cols]`` int64: 0 nothing, 1 + class where shown, -100 where it is neither clearly shown
        nor absent.
    """
    labels = np.zeros((len(ATTRIBUTES), *grid), np.int64)
    for sign in signs:
        shown = sign_classes(sign)
        where = core(sign, size, grid)
        middle = cells(sign.box, size, grid, 0.2, 0.2)
        around = cells(sign.box, size, grid, 0.5, 0.5)
        for i, attribute in enumerate(ATTRIBUTES):
            if attribute not in shown:
                continue
            region = labels[i][around]
            region[region == 0] = IGNORE
        for i, attribute in enumerate(ATTRIBUTES):
            if attribute in shown:
                if attribute in ("shape", "color"):
                    labels[i][middle] = 1 + shown[attribute]
                labels[i][where] = 1 + shown[attribute]
    return labels


def resolved_cells(signs: list[Sign], size: int, grid: tuple[int, int], budget: int) -> np.ndarray:
    """``[rows, cols]`` bool: False where a sign's content is printed too small for ``budget``."""
    resolved = np.ones(grid, bool)
    for sign in signs:
        if sign.level > budget:
            resolved[core(sign, size, grid)] = False
    return resolved


def evidence_cells(sign: Sign, kind: str, size: int, grid: tuple[int, int]) -> np.ndarray:
    """Flat indices of the cells from which a question of ``kind`` about ``sign`` can be answered."""
    whole = kind in ("shape", "color", "yesno")
    where = cells(sign.box, size, grid, 0.2, 0.2) if whole else core(sign, size, grid)
    mask = np.zeros(grid, bool)
    mask[where] = True
    return np.flatnonzero(mask)
