"""The oracle: an exact multiple-choice knapsack.

One arm per patch, values add up, costs add up to at most the limit:

    max  sum_i values[i, s_i]   subject to   sum_i costs[i, s_i] <= limit.

The Lagrangian dual is solved exactly by sorting the edges of each patch's concave hull (its multiplier is the *shadow
price*), a fill step gives an incumbent, reduced costs then strike out every arm that no better solution can contain,
and an integer dynamic programme over what is left is exact (Sinha & Zoltners 1979; Pisinger 1995; Kellerer, Pferschy &
Pisinger, *Knapsack Problems*, ch. 11). Only when that remainder is still too large is the incumbent itself returned,
with its proven gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..checks import Array, FloatArray, IntArray, count, floats, ints, number
from .algorithms import MAX_CELLS, BoolArray, best_arm, dynamic_programme, pick, relax

Method = Literal["auto", "exact", "lagrange"]

_TIE = 1e-12  # two sums that differ by less than this share of the values' scale count as tied


@dataclass(frozen=True)
class KnapsackSolution:
    """What the oracle found.

    Attributes
    ----------
    index : IntArray, shape [N]
        The chosen arm of each patch.
    value : float
        Sum of the chosen values.
    cost : int
        Sum of the chosen costs.
    price : float
        Shadow price: value per unit of cost at the margin (the optimal Lagrange multiplier); 0 if the limit is slack.
    gap : float
        Proven bound on (best possible value - `value`); 0 if the solution is optimal.
    """

    index: IntArray
    value: float
    cost: int
    price: float
    gap: float


def solve_knapsack(values: Array, costs: Array, limit: float | None = None, floor: Array | None = None) -> IntArray:
    """Choose one arm per patch; the plain form of `solve`.

    Returns
    -------
    IntArray, shape [N]
        Arm index per patch.
    """
    return solve(values, costs, limit, floor=floor).index


def solve(
    values: Array, costs: Array, limit: float | None = None, *, floor: Array | None = None, method: Method = "auto"
) -> KnapsackSolution:
    """Solve the multiple-choice knapsack.

    Parameters
    ----------
    values : array-like, shape [N, K]
        Value of each arm of each patch: any finite numbers, in any order.
    costs : array-like of int, shape [K] or [N, K]
        Cost of each arm (tokens), not negative; a patch may repeat a cost.
    limit : float, optional
        Upper bound on the summed cost. None: each patch takes its best arm.
    floor : int or array-like of int, shape [N], optional
        Least cost a patch may spend; a patch that cannot spend so much must take its dearest arm.
    method : {"auto", "exact", "lagrange"}
        "auto" is exact unless the dynamic programme would visit too many cells; "exact" forces it; "lagrange" returns
        the dual heuristic with its gap.

    Returns
    -------
    KnapsackSolution
        Among equally good allocations the cheapest, then the lowest arm index.

    Raises
    ------
    TypeError, ValueError
        For malformed input, a negative cost, or a limit below the cheapest allocation.
    """
    return _solve([_checked(values, costs, limit, floor)], method)[0]


def solve_many(
    values: Sequence[Array],
    costs: Array | Sequence[Array],
    limit: float | None | Sequence[float | None] = None,
    *,
    floor: Array | None = None,
    method: Method = "auto",
) -> list[KnapsackSolution]:
    """Solve the knapsacks of many images together: the solutions of `solve`, for a fraction of its time each.

    Parameters
    ----------
    values : sequence of array-like, each shape [N_b, K]
        One table per image; the numbers of patches may differ.
    costs : array-like of int, shape [K], or sequence of such arrays, each shape [K] or [N_b, K]
        Shared by all images, or one entry per image.
    limit : float, optional, or sequence of them
        Shared (each image on its own may spend so much), or one entry per image.
    floor : int, optional, or sequence of int or of array-like, each shape [N_b]
        Shared, or one entry per image.
    method : {"auto", "exact", "lagrange"}
        As in `solve`.

    Returns
    -------
    list of KnapsackSolution

    Raises
    ------
    TypeError, ValueError
        As in `solve`; the message names the image.
    """
    shared = len(costs) > 0 and np.ndim(costs[0]) == 0
    problems = []
    for image, table in enumerate(values):
        try:
            own_costs = costs if shared else _entry("costs", costs, image, len(values))
            own_limit, own_floor = (
                _entry(name, given, image, len(values)) if hasattr(given, "__len__") else given
                for name, given in (("limit", limit), ("floor", floor))
            )
            problems.append(_checked(table, own_costs, own_limit, own_floor))
        except (TypeError, ValueError) as error:
            raise type(error)(f"image {image}: {error}") from None
    if len({table.shape[1] for table, *_ in problems}) > 1:
        raise ValueError("all images must have the same number of arms")
    return _solve(problems, method) if problems else []


def _entry(name: str, given: Any, image: int, images: int) -> Any:
    if len(given) != images:
        raise ValueError(f"{name} needs one entry for each of the {images} images, got {len(given)}")
    return given[image]


_Problem = tuple[FloatArray, IntArray, BoolArray, int | None]


def _checked(values: Array, costs: Array, limit: float | None, floor: Array | None) -> _Problem:
    values = floats("values", values, (None, None))
    costs = as_costs(costs, values.shape)
    allowed = allowed_arms(costs, floor_costs(floor, len(costs)) if floor is not None else costs.min(axis=1))
    least = int(np.where(allowed, costs, np.iinfo(np.int64).max).min(axis=1).sum())
    return values, costs, allowed, check_limit(limit, least, len(costs))


def _solve(problems: list[_Problem], method: Method) -> list[KnapsackSolution]:
    if method not in ("auto", "exact", "lagrange"):
        raise ValueError(f"method must be 'auto', 'exact' or 'lagrange', got {method!r}")
    indices = [best_arm(np.where(allowed, values, -np.inf), costs) for values, costs, allowed, _ in problems]
    prices, gaps = np.zeros(len(problems)), np.zeros(len(problems))
    tight = [
        at
        for at, ((_, costs, _, limit), index) in enumerate(zip(problems, indices, strict=True))
        if limit is not None and pick(costs, index).sum() > limit
    ]
    if tight:
        found, prices[tight], gaps[tight] = _limited([problems[at] for at in tight], method)
        for at, index in zip(tight, found, strict=True):
            indices[at] = index[: len(indices[at])]
    solutions = []
    for (values, costs, *_), index, price, gap in zip(problems, indices, prices, gaps, strict=True):
        value, cost = float(pick(values, index).sum()), int(pick(costs, index).sum())
        solutions.append(KnapsackSolution(index=index, value=value, cost=cost, price=float(price), gap=float(gap)))
    return solutions


def _limited(problems: list[_Problem], method: Method) -> tuple[IntArray, FloatArray, FloatArray]:
    """Allocation [B, N], price [B] and gap [B] of instances whose limit binds."""
    shape = (len(problems), max(len(values) for values, *_ in problems), problems[0][0].shape[1])
    values, extra, allowed = np.zeros(shape), np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    allowed[..., 0] = True  # what pads an instance has one free, worthless arm
    capacity = np.zeros(len(problems), dtype=np.int64)
    for at, (table, costs, open_arms, limit) in enumerate(problems):
        low = np.where(open_arms, costs, np.iinfo(np.int64).max).min(axis=1)
        rows = slice(len(table))
        values[at, rows], extra[at, rows], allowed[at, rows] = table, costs - low[:, None], open_arms
        capacity[at] = (limit or 0) - int(low.sum())

    index, price, bound = relax(values, extra, allowed, capacity)
    gap = np.maximum(0.0, bound - pick(values, index).sum(axis=1))
    if method == "lagrange":
        return index, price, gap

    # An arm whose reduced cost alone pushes the bound below the incumbent is in no solution that could replace it.
    slack = _TIE * np.abs(values).sum(axis=(1, 2))
    reduced = np.where(allowed, values - price[:, None, None] * extra, -np.inf)
    keep = reduced.max(axis=-1, keepdims=True) - reduced <= (gap + slack)[:, None, None]
    np.put_along_axis(keep, index[..., None], True, axis=-1)
    most = math.inf if method == "exact" else MAX_CELLS
    exact, solved = dynamic_programme(values, extra, keep, capacity, slack, most)
    return np.where(solved[:, None], exact, index), price, np.where(solved, 0.0, gap)


def as_costs(costs: Array, shape: tuple[int, int]) -> IntArray:
    """Return `costs` ([K] or [N, K]) as int64 [N, K]; refuse negative costs and an empty super-arm."""
    if 0 in shape:
        raise ValueError(f"an allocation needs at least one patch and one arm, got [N, K] = {list(shape)}")
    if np.ndim(costs) == 1:
        costs = np.broadcast_to(ints("costs", costs, (shape[1],)), shape)
    costs = ints("costs", costs, shape)
    if costs.min() < 0:
        raise ValueError(f"costs must not be negative, got {int(costs.min())}")
    if costs.max() > 2**53 // len(costs):
        raise ValueError(f"costs add up beyond 2^53 (the largest is {int(costs.max())}); count in a larger unit")
    return costs


def check_limit(limit: float | None, least: int, patches: int) -> int | None:
    """Return the limit rounded down; refuse one below `least`, the cost of the cheapest allocation."""
    if limit is None:
        return None
    limit = number("limit", limit)
    if limit < least:
        raise ValueError(
            f"limit {limit:g} is infeasible: the cheapest allocation of {patches} patches already costs {least}; "
            f"raise the limit to at least {least} or lower the floor"
        )
    return int(limit)


def floor_costs(floor: Array, patches: int) -> IntArray:
    """Return `floor` (one number or [N]) as int64 [N]."""
    if np.ndim(floor) == 0:
        floor = np.full(patches, count("floor", floor, low=0))
    return ints("floor", floor, (patches,))


def allowed_arms(costs: IntArray, floor: IntArray) -> BoolArray:
    """Arms at or above the floor, [N, K]; where a patch has none, its dearest."""
    return costs >= np.minimum(floor, costs.max(axis=1))[:, None]
