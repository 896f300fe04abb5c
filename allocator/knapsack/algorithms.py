"""Many multiple-choice knapsacks at once: the algorithms behind `allocator.knapsack`, on padded arrays.

Instances are stacked as [B, N, K] (B instances, N patches, K arms); a patch that pads an instance allows one arm that
costs nothing and is worth nothing. `extra` is the cost above each patch's cheapest allowed arm, `capacity` [B] what
the limit leaves for it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..checks import FloatArray, IntArray

BoolArray = NDArray[np.bool_]

MAX_CELLS = 20_000_000  # (patch, arm, capacity) cells that "auto" lets the dynamic programme visit: about 0.1 s
_NEVER = np.iinfo(np.int64).max


def pick(table: NDArray, index: IntArray) -> NDArray:
    """The entry of each patch's chosen arm: [..., N, K] and [..., N] to [..., N]."""
    flat = index.ravel()  # several times faster than take_along_axis on small tables
    return table.reshape(len(flat), -1)[np.arange(len(flat)), flat].reshape(index.shape)


def best_arm(values: FloatArray, costs: IntArray) -> IntArray:
    """Best arm of each patch; ties go to the cheaper, then to the lower index."""
    tied = values == values.max(axis=-1, keepdims=True)
    return np.where(tied, costs, _NEVER).argmin(axis=-1)


def relax(
    values: FloatArray, extra: IntArray, allowed: BoolArray, capacity: IntArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Solve the dual by the sorted edges of the patches' concave hulls, then fill what capacity is left.

    Returns
    -------
    index : IntArray, shape [B, N]
        A feasible allocation.
    price : FloatArray, shape [B]
        The optimal multiplier.
    bound : FloatArray, shape [B]
        The dual value: no feasible allocation is worth more.
    """
    images, patches, arms = values.shape
    path = [best_arm(np.where(allowed & (extra == 0), values, -np.inf), extra)]
    slopes: list[FloatArray] = []
    for _ in range(arms - 1):
        here = path[-1]
        gain = values - pick(values, here)[..., None]
        step = extra - pick(extra, here)[..., None]
        slope = np.divide(gain, step, out=np.full(values.shape, -1.0), where=allowed & (step > 0) & (gain > 0))
        best = slope.argmax(axis=-1)
        steepest = pick(slope, best)
        if steepest.max() <= 0:
            break
        path.append(np.where(steepest > 0, best, here))
        # Rounding must not let a patch's later edge overtake its earlier one in the sort below.
        slopes.append(steepest if not slopes else np.minimum(steepest, slopes[-1]))

    # One edge per column, a patch's edges in order; only those that rise count.
    every = np.arange(images)
    slopes.append(np.zeros((images, patches)))  # a last edge that does not rise, so that there is always one
    path.append(path[-1])
    steepness = np.stack(slopes, axis=1).reshape(images, -1)
    steps = np.stack([pick(extra, arm) for arm in path], axis=1)
    steps = (steps[:, 1:] - steps[:, :-1]).reshape(images, -1)
    order = np.argsort(-steepness, axis=1, kind="stable")
    steepness, steps = steepness[every[:, None], order], steps[every[:, None], order]
    rising = steepness > 0
    fits = rising & (np.cumsum(np.where(rising, steps, 0), axis=1) <= capacity[:, None])
    price = steepness[every, fits.sum(axis=1)]  # of the break edge, the first that does not fit
    price = np.maximum(price, 0.0)
    taken = np.bincount((order % patches + every[:, None] * patches)[fits], minlength=images * patches)
    index = np.stack(path)[taken, every.repeat(patches), np.tile(np.arange(patches), images)].reshape(images, patches)
    reduced = np.where(allowed, values - price[:, None, None] * extra, -np.inf)
    bound = reduced.max(axis=-1).sum(axis=1) + price * capacity

    left = capacity - pick(extra, index).sum(axis=1)
    while True:
        room = allowed & (extra - pick(extra, index)[..., None] <= left[:, None, None])
        gain = np.where(room, values - pick(values, index)[..., None], 0.0).reshape(images, -1)
        at = gain.argmax(axis=1)
        better = gain[every, at] > 0
        if not better.any():
            return index, price, bound
        image, row, arm = every[better], at[better] // arms, at[better] % arms
        left[image] -= extra[image, row, arm] - extra[image, row, index[image, row]]
        index[image, row] = arm


def dynamic_programme(
    values: FloatArray, extra: IntArray, keep: BoolArray, capacity: IntArray, slack: FloatArray, max_cells: float
) -> tuple[IntArray, BoolArray]:
    """Exact optimum over the kept arms of each instance; one that takes more than `max_cells` cells is left unsolved.

    best[c] is the value of the best choice of the patches so far that costs exactly c units; one unit is the greatest
    common divisor of all cost differences of the instance.

    Returns
    -------
    index : IntArray, shape [B, N]
    solved : BoolArray, shape [B]
    """
    images = len(values)
    least = np.where(keep, extra, _NEVER).min(axis=-1)
    capacity = capacity - least.sum(axis=1)
    steps = np.where(keep, extra - least[..., None], 0)
    unit = np.maximum(np.gcd.reduce(steps.reshape(images, -1), axis=1), 1)
    steps //= unit[:, None, None]
    index = keep.argmax(axis=-1)
    core = keep.sum(axis=-1) > 1  # only these patches still have a choice
    width = np.minimum(capacity // unit, steps.max(axis=-1).sum(axis=1)) + 1
    solved = (keep * core[..., None]).sum(axis=(1, 2)) * width <= max_cells
    todo = np.flatnonzero(solved & core.any(axis=1))
    todo = todo[np.argsort(width[todo], kind="stable")]  # alike widths together: less padding
    if len(todo):
        largest = int(core.sum(axis=1).max()) * int(width[todo].max()) * len(todo)
        for chunk in np.array_split(todo, min(len(todo), math.ceil(largest / MAX_CELLS))):
            rows = np.argsort(~core[chunk], axis=1, kind="stable")[:, : int(core[chunk].sum(axis=1).max())]
            here = chunk[:, None]
            chosen = _recursion(values[here, rows], steps[here, rows], keep[here, rows], width[chunk], slack[chunk])
            index[here, rows] = chosen
    return index, solved


def _recursion(values: FloatArray, steps: IntArray, keep: BoolArray, width: IntArray, slack: FloatArray) -> IntArray:
    """The dynamic programme itself, [B, rows, K] to [B, rows]."""
    images, rows, _ = values.shape
    every, columns = np.arange(images), np.arange(int(width.max()))
    home = every[:, None] * (2 * len(columns)) + len(columns) + columns
    by_cost = np.argsort(np.where(keep, steps, _NEVER), axis=-1, kind="stable")  # the arms that are kept come first
    places = keep.sum(axis=-1).max(axis=0).tolist()
    worth = np.take_along_axis(np.where(keep, values, -np.inf), by_cost, axis=-1)
    names = by_cost.astype(np.int16)
    shift = np.minimum(np.take_along_axis(steps, by_cost, axis=-1), len(columns))
    # Reading left of zero finds -inf: the columns before `len(columns)` are unreachable for ever.
    best = np.full((images, 2 * len(columns)), -np.inf)
    best[:, len(columns)] = 0.0
    choices = np.zeros((rows, images, len(columns)), dtype=np.int16)
    for row in range(rows):
        after = np.full((images, len(columns)), -np.inf)
        for place in range(places[row]):
            trial = best.take(home - shift[:, row, place, None]) + worth[:, row, place, None]
            better = trial > after  # strict: of two equal arms the earlier, cheaper one stays
            np.copyto(after, trial, where=better)
            np.copyto(choices[row], names[:, row, place, None], where=better)
        best[:, len(columns) :] = after
    totals = np.where(columns < width[:, None], best[:, len(columns) :], -np.inf)
    at = (totals >= (totals.max(axis=1) - slack)[:, None]).argmax(axis=1)  # the cheapest of the tied totals
    index = np.zeros((images, rows), dtype=np.int64)
    for row in range(rows - 1, -1, -1):
        index[:, row] = choices[row, every, at]
        at = at - steps[every, row, index[:, row]]
    return index
