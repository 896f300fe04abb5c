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

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from allocator.checks import Array, FloatArray, IntArray, count, floats, ints, number

Method = Literal["auto", "exact", "lagrange"]
BoolArray = NDArray[np.bool_]

_MAX_CELLS = 20_000_000  # (patch, arm, capacity) cells that "auto" lets the dynamic programme visit: about 0.1 s
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
    values = floats("values", values, (None, None))
    costs = as_costs(costs, values.shape)
    allowed = allowed_arms(costs, floor_costs(floor, len(costs)) if floor is not None else costs.min(axis=1))
    low = np.where(allowed, costs, np.iinfo(np.int64).max).min(axis=1)
    limit = check_limit(limit, int(low.sum()), len(costs))
    if method not in ("auto", "exact", "lagrange"):
        raise ValueError(f"method must be 'auto', 'exact' or 'lagrange', got {method!r}")

    index = _best_arm(np.where(allowed, values, -np.inf), costs)
    if limit is None or _pick(costs, index).sum() <= limit:
        return _solution(values, costs, index, price=0.0, gap=0.0)

    extra = costs - low[:, None]
    capacity = limit - int(low.sum())
    index, price, bound = _lagrange(values, extra, allowed, capacity)
    incumbent = float(_pick(values, index).sum())
    slack = _TIE * float(np.abs(values).sum())
    if method == "lagrange":
        return _solution(values, costs, index, price, gap=max(0.0, bound - incumbent))

    # An arm whose reduced cost alone pushes the bound below the incumbent is in no solution that could replace it.
    reduced = np.where(allowed, values - price * extra, -np.inf)
    loss = reduced.max(axis=1, keepdims=True) - reduced
    keep = loss <= bound - incumbent + slack
    keep[np.arange(len(index)), index] = True
    found = _dynamic_programme(values, extra, keep, capacity, slack, _MAX_CELLS if method == "auto" else None)
    if found is None:
        return _solution(values, costs, index, price, gap=max(0.0, bound - incumbent))
    return _solution(values, costs, found, price, gap=0.0)


def as_costs(costs: Array, shape: tuple[int, int]) -> IntArray:
    """Return `costs` ([K] or [N, K]) as int64 [N, K]; refuse negative costs and an empty super-arm."""
    if 0 in shape:
        raise ValueError(f"an allocation needs at least one patch and one arm, got [N, K] = {list(shape)}")
    if np.ndim(costs) == 1:
        costs = np.broadcast_to(ints("costs", costs, (shape[1],)), shape)
    costs = ints("costs", costs, shape)
    if costs.min() < 0:
        raise ValueError(f"costs must not be negative, got {int(costs.min())}")
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


def _pick(table: NDArray, index: IntArray) -> NDArray:
    return table[np.arange(len(index)), index]


def _solution(values: FloatArray, costs: IntArray, index: IntArray, price: float, gap: float) -> KnapsackSolution:
    return KnapsackSolution(index, float(_pick(values, index).sum()), int(_pick(costs, index).sum()), price, gap)


def _best_arm(values: FloatArray, costs: IntArray) -> IntArray:
    """Best arm of each patch; ties go to the cheaper, then to the lower index."""
    tied = values == values.max(axis=1, keepdims=True)
    return np.where(tied, costs, np.iinfo(np.int64).max).argmin(axis=1)


def _lagrange(values: FloatArray, extra: IntArray, allowed: BoolArray, capacity: int) -> tuple[IntArray, float, float]:
    """Solve the dual by its sorted hull edges, then fill what capacity is left.

    Returns
    -------
    index : IntArray, shape [N]
        A feasible allocation.
    price : float
        The optimal multiplier.
    bound : float
        The dual value: no feasible allocation is worth more.
    """
    rows = np.arange(len(values))
    start = _best_arm(np.where(allowed & (extra == 0), values, -np.inf), extra)
    arms = [start]
    slopes: list[FloatArray] = []
    for _ in range(values.shape[1] - 1):
        here = arms[-1]
        gain = values - values[rows, here][:, None]
        step = extra - extra[rows, here][:, None]
        up = allowed & (step > 0) & (gain > 0)
        slope = np.divide(gain, step, out=np.full(values.shape, -1.0), where=up)
        best = slope.argmax(axis=1)
        steepest = slope[rows, best]
        if steepest.max() <= 0:
            break
        arms.append(np.where(steepest > 0, best, here))
        # Rounding must not let a patch's later edge overtake its earlier one in the sort below.
        slopes.append(steepest if not slopes else np.minimum(steepest, slopes[-1]))

    path = np.stack(arms)
    steepness = np.stack(slopes).ravel()
    step = np.diff(extra[rows, path], axis=0).ravel()
    order = np.argsort(-steepness, kind="stable")
    order = order[steepness[order] > 0]
    spent = np.cumsum(step[order])
    cut = int(np.searchsorted(spent, capacity, side="right"))  # edges before `cut` fit; `cut` is the break edge
    price = float(steepness[order[cut]])
    taken = np.bincount(order[:cut] % len(rows), minlength=len(rows))
    index = path[taken, rows]
    bound = float((np.where(allowed, values - price * extra, -np.inf)).max(axis=1).sum() + price * capacity)

    left = capacity - int(extra[rows, index].sum())
    while left > 0:
        fits = allowed & (extra - extra[rows, index][:, None] <= left)
        gain = np.where(fits, values - values[rows, index][:, None], 0.0)
        row, arm = divmod(int(gain.argmax()), gain.shape[1])
        if gain[row, arm] <= 0:
            break
        left -= int(extra[row, arm] - extra[row, index[row]])
        index[row] = arm
    return index, price, bound


def _dynamic_programme(
    values: FloatArray, extra: IntArray, keep: BoolArray, capacity: int, slack: float, max_cells: int | None
) -> IntArray | None:
    """Exact optimum over the kept arms, or None if that takes more than `max_cells` cells.

    best[c] is the value of the best choice of the patches so far that costs exactly c units; one unit is the greatest
    common divisor of all cost differences.
    """
    least = np.where(keep, extra, np.iinfo(np.int64).max).min(axis=1)
    capacity -= int(least.sum())
    steps = np.where(keep, extra - least[:, None], 0)
    unit = int(np.gcd.reduce(steps, axis=None)) or 1
    steps //= unit
    index = np.where(keep, 0, 1).argmin(axis=1)
    core = np.flatnonzero(keep.sum(axis=1) > 1)
    width = min(capacity // unit, int(steps.max(axis=1).sum())) + 1
    if max_cells is not None and int(keep[core].sum()) * width > max_cells:
        return None

    best = np.full(width, -np.inf)
    best[0] = 0.0
    reach = 1  # best[reach:] is still unreachable, so it is never touched
    choices = np.zeros((len(core), width), dtype=np.int16)
    for choice, row in zip(choices, core.tolist(), strict=True):
        arms = [arm for arm in np.argsort(steps[row], kind="stable").tolist() if keep[row, arm]]
        grown = min(width, reach + int(steps[row].max()))
        after = np.full(width, -np.inf)
        for arm in arms:
            step = int(steps[row, arm])
            stop = min(grown, reach + step)
            if step >= stop:
                continue
            trial = best[: stop - step] + values[row, arm]
            better = trial > after[step:stop]  # strict: of two equal arms the earlier, cheaper one stays
            np.copyto(after[step:stop], trial, where=better)
            np.copyto(choice[step:stop], arm, where=better)
        best, reach = after, grown

    at = int((best >= best.max() - slack).argmax())  # the cheapest of the tied totals
    for position in range(len(core) - 1, -1, -1):
        row = core[position]
        index[row] = choices[position, at]
        at -= int(steps[row, index[row]])
    return index
