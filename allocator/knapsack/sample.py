"""Exact sampling of an allocation under a hard limit.

A product of independent choices, conditioned on the summed cost staying within the limit,

    p(s) = prod_i q_i(s_i) / Z   for cost(s) <= limit,   Z = P_q(cost <= limit),

can be normalised and sampled exactly with the knapsack's own recursion in the (+, x) semiring instead of (max, +).
That keeps the propensity of every exploring policy exact although the limit ties the patches together.
"""

from __future__ import annotations

import numpy as np

from ..checks import FloatArray, IntArray


def sample_allocation(
    log_weights: FloatArray, costs: IntArray, limit: int | None, generator: np.random.Generator
) -> tuple[IntArray, float, FloatArray | None]:
    """Draw one arm per patch from independent weights, conditioned on the limit.

    Parameters
    ----------
    log_weights : FloatArray, shape [N, K]
        Unnormalised log weights; -inf forbids an arm. Every patch needs an arm that is not forbidden.
    costs : IntArray, shape [N, K]
        Costs, not negative.
    limit : int or None
        Bound on the summed cost; it must admit at least one allocation of positive weight.
    generator : numpy.random.Generator
        Source of the draw.

    Returns
    -------
    index : IntArray, shape [N]
        The drawn allocation.
    log_propensity : float
        Natural logarithm of its exact probability.
    probabilities : FloatArray, shape [N, K], or None
        The independent per-patch distribution; None if the limit binds, since the patches are then dependent.

    Raises
    ------
    ValueError
        If no allocation of positive weight fits the limit.
    """
    top = log_weights.max(axis=1, keepdims=True)
    log_q = log_weights - top - np.log(np.exp(log_weights - top).sum(axis=1, keepdims=True))
    open_arm = np.isfinite(log_q)
    dearest = int(np.where(open_arm, costs, 0).max(axis=1).sum())
    if limit is None or dearest <= limit:
        probabilities = np.exp(log_q)
        index = _draw_rows(probabilities, generator.random(len(costs)))
        return index, float(log_q[np.arange(len(index)), index].sum()), probabilities

    low = np.where(open_arm, costs, np.iinfo(np.int64).max).min(axis=1)
    capacity = limit - int(low.sum())
    if capacity < 0:
        raise ValueError(f"limit {limit} is infeasible: the open arms cost at least {int(low.sum())}")
    steps = np.where(open_arm, costs - low[:, None], 0)
    unit = int(np.gcd.reduce(steps, axis=None)) or 1
    steps //= unit
    tables = _forward(log_q, steps, capacity // unit + 1)
    return _backward(log_q, steps, tables, generator)


def _draw_rows(probabilities: FloatArray, uniform: FloatArray) -> IntArray:
    """Inverse-CDF draw per row; rounding of the last cumulative sum never selects an arm of probability zero."""
    cumulative = np.cumsum(probabilities, axis=1)
    return (cumulative > (uniform * cumulative[:, -1])[:, None]).argmax(axis=1)


def _forward(log_q: FloatArray, steps: IntArray, width: int) -> FloatArray:
    """tables[i, c] = log of the total weight of the first i patches' choices that cost exactly c units."""
    patches, arms = steps.shape
    tables = np.full((patches + 1, width), -np.inf)
    tables[0, 0] = 0.0
    for i in range(patches):
        trial = np.full((arms, width), -np.inf)
        for arm in range(arms):
            step = int(steps[i, arm])
            if step < width and np.isfinite(log_q[i, arm]):
                np.add(tables[i, : width - step], log_q[i, arm], out=trial[arm, step:])
        peak = trial.max(axis=0)
        reached = np.isfinite(peak)
        shifted = trial[:, reached] - peak[reached]
        tables[i + 1, reached] = peak[reached] + np.log(np.exp(shifted).sum(axis=0))
    return tables


def _backward(
    log_q: FloatArray, steps: IntArray, tables: FloatArray, generator: np.random.Generator
) -> tuple[IntArray, float, None]:
    final = tables[-1]
    log_total = float(np.logaddexp.reduce(final))
    at = int(_draw_rows(np.exp(final - final.max())[None], generator.random(1))[0])
    index = np.zeros(len(steps), dtype=np.int64)
    uniform = generator.random(len(steps))
    log_weight = 0.0
    for i in range(len(steps) - 1, -1, -1):
        before = at - steps[i]
        log_p = np.where(before >= 0, tables[i, np.maximum(before, 0)] + log_q[i], -np.inf)
        arm = int(_draw_rows(np.exp(log_p - log_p.max())[None], uniform[i : i + 1])[0])
        index[i] = arm
        log_weight += float(log_q[i, arm])
        at = int(before[arm])
    return index, log_weight - log_total, None
