"""Patches: how the plane of visual tokens is cut, and what a budget really buys on each piece."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch

K = TypeVar("K")

MAX_DISTORTION = 2.0


@dataclass(frozen=True)
class Patch:
    """A rectangle of visual tokens; half open, in units of merged tokens.

    Attributes
    ----------
    entry
        Index of the image entry inside the call.
    view
        Index of the view inside the entry (an entry of one still image has one view).
    top, bottom, left, right
        Rows ``top <= r < bottom`` and columns ``left <= c < right`` of the view.
    """

    entry: int
    view: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Rows of visual tokens at full detail."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns of visual tokens at full detail."""
        return self.right - self.left

    @property
    def native(self) -> int:
        """Visual tokens at full detail."""
        return self.height * self.width


def cut(size: int, side: int = 20, multiple: int = 1) -> list[int]:
    """Cut one axis into the fewest near-equal pieces of at most ``side``.

    Near-equal cuts leave no slivers: 41 tokens become 13 + 14 + 14, not 20 + 20 + 1.

    Parameters
    ----------
    size
        Length of the axis in visual tokens, positive.
    side
        Longest piece.
    multiple
        Inner cuts fall on multiples of this (attention windows of the vision tower); it must not exceed ``side``.

    Returns
    -------
    list of int
        Boundaries from 0 to ``size``, one more than there are pieces.
    """
    if size < 1 or side < 1 or not 1 <= multiple <= side:
        raise ValueError(
            f"cut(size={size}, side={side}, multiple={multiple}) needs size >= 1 and 1 <= multiple <= side."
        )
    units = -(-size // multiple)
    pieces = -(-units // (side // multiple))
    return [min(size, multiple * (i * units // pieces)) for i in range(pieces)] + [size]


def by_key(keys: Iterable[K]) -> dict[K, list[int]]:
    """Indices of equal keys, in order of first appearance."""
    groups: dict[K, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return groups


def by_view(patches: Sequence[Patch]) -> dict[tuple[int, int], list[int]]:
    """The places of the patches of every view, by (entry, view), in the order in which they come."""
    return by_key((patch.entry, patch.view) for patch in patches)


def make_patches(views: Iterable[tuple[int, int, int, int]], side: int = 20, multiple: int = 1) -> list[Patch]:
    """Cover every view with patches, in raster order.

    Parameters
    ----------
    views
        ``(entry, view, height, width)`` of each view, in visual tokens.
    side, multiple
        As in :func:`cut`.

    Returns
    -------
    list of Patch
        Ordered by (entry, view, top, left).
    """
    patches = []
    for entry, view, height, width in views:
        rows, columns = cut(height, side, multiple), cut(width, side, multiple)
        for top, bottom in itertools.pairwise(rows):
            for left, right in itertools.pairwise(columns):
                patches.append(Patch(entry, view, top, bottom, left, right))
    return patches


@lru_cache(maxsize=65536)
def budget_grid(height: int, width: int, budget: int) -> tuple[int, int]:
    """The grid that a budget buys on a patch.

    A patch that fits its budget keeps its native grid. Otherwise: the largest grid within the budget whose aspect
    differs from the patch's by at most a factor of 2, then the least distorted, then the wider one. A 20 x 20 patch
    gets 8 x 8, 8 x 16, 16 x 16 and 20 x 20 for 64, 128, 256 and 400. A patch so thin that no grid within the budget
    keeps to the factor gets the least distorted grid.

    Parameters
    ----------
    height, width
        Native rows and columns of the patch.
    budget
        Visual tokens it may spend.

    Returns
    -------
    (int, int)
        Rows and columns, each at most the native one, with ``rows * columns <= min(budget, height * width)``.
    """
    if height < 1 or width < 1 or budget < 1:
        raise ValueError(f"budget_grid({height}, {width}, {budget}) needs positive ints.")
    if height * width <= budget:
        return height, width
    best, best_key = (1, 1), None
    for rows in range(1, min(height, budget) + 1):
        widest = min(width, budget // rows)
        # The narrower candidate matters only where the widest one is distorted beyond the bound.
        for columns in range(widest, max(0, widest - 2), -1):
            ratio = (rows * width) / (columns * height)
            distortion = max(ratio, 1 / ratio)
            fair = distortion <= MAX_DISTORTION + 1e-9
            key = (fair, rows * columns if fair else -distortion, -round(distortion, 6), columns)
            if best_key is None or key > best_key:
                best, best_key = (rows, columns), key
    return best


def realised_costs(
    patches: Sequence[Patch],
    budgets: Sequence[int],
    grid: Callable[[Patch, int], tuple[int, int]] = lambda patch, budget: budget_grid(
        patch.height, patch.width, budget
    ),
) -> torch.Tensor:
    """What each arm really spends.

    Parameters
    ----------
    patches
        N patches.
    budgets
        K nominal budgets in rising order.
    grid
        The grid that a budget buys on a patch, where the realizer has rules of its own.

    Returns
    -------
    LongTensor
        ``[N, K]`` tokens. Arms at or above a patch's native size cost the same: they are the same arm.
    """
    rows = [[math.prod(grid(patch, int(budget))) for budget in budgets] for patch in patches]
    return torch.tensor(rows, dtype=torch.long).reshape(len(patches), len(budgets))


def full_tokens(patches: Sequence[Patch]) -> int:
    """Visual tokens of all patches at full detail."""
    return sum(patch.native for patch in patches)
