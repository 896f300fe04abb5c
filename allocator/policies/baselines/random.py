"""A random feasible super-arm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...checks import FloatArray, number
from ...decision import Choice
from ...knapsack.sample import sample_allocation
from ...policy import Policy
from ...problem import Problem
from ...registry import register_policy


@register_policy("random")
@dataclass(kw_only=True, eq=False)
class Random(Policy):
    """Draw uniformly among all allocations within the limit, with exact propensities.

    Parameters
    ----------
    mean_tokens : float, optional
        Expected total cost of an allocation, for a baseline that spends what another policy spent: an amount above 1,
        or a share in (0, 1] of the dearest allocation. The draw is then the least biased one with that mean,
        q_i(k) proportional to exp(-lambda cost_ik). What the patches cannot reach is clipped to what they can; a
        limit that binds lowers the mean.
    **options
        See `Policy`.
    """

    mean_tokens: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mean_tokens is not None and number("mean_tokens", self.mean_tokens) <= 0:
            raise ValueError(f"mean_tokens must be positive, got {self.mean_tokens}")

    def _choose(self, problem: Problem, net: FloatArray) -> Choice:
        log_weights = np.where(problem.open, 0.0, -np.inf)
        if self.mean_tokens is not None:
            log_weights -= self._tilt(problem, self.mean_tokens) * (
                problem.costs - problem.costs.min(axis=1, keepdims=True)
            )
        index, log_propensity, probabilities = sample_allocation(
            log_weights, problem.costs, problem.limit, self.generator
        )
        return Choice(index=index, log_propensity=log_propensity, probabilities=probabilities)

    def _tilt(self, problem: Problem, mean: float) -> float:
        """Find lambda by bisection; the expected cost falls monotonically in it."""
        extra = problem.costs - problem.costs.min(axis=1, keepdims=True)
        if not extra.any():
            return 0.0
        target = mean * problem.costs.max(axis=1).sum() if mean <= 1 else mean
        target -= problem.costs.min(axis=1).sum()
        high = 40.0 / int(extra[extra > 0].min())  # exp(-40) is below rounding of the mean: "always the floor"
        low = -high
        for _ in range(60):
            middle = (low + high) / 2
            exponent = np.where(problem.open, -middle * extra, -np.inf)
            q = np.exp(exponent - exponent.max(axis=1, keepdims=True))
            spent = (q * extra).sum(axis=1) / q.sum(axis=1)
            low, high = (middle, high) if spent.sum() > target else (low, middle)
        return (low + high) / 2
