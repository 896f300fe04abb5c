"""Aggregated upper confidence bounds."""

from __future__ import annotations

from dataclasses import dataclass

from ...checks import FloatArray, number
from ...problem import Problem
from ...registry import register_policy
from .base import Aggregated


@register_policy("ucb")
@dataclass(kw_only=True, eq=False)
class UCB(Aggregated):
    """Maximise the posterior mean plus alpha times each patch's own standard deviation.

    The exact bonus ||Phi||_{A^-1} is not a sum over patches and would break the oracle; by the triangle inequality
    sum_i ||f(i, s_i)||_{A^-1} bounds it, loosely, and is separable.

    Parameters
    ----------
    alpha : float
        Width of the bound.
    **options
        See `Aggregated`.
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        number("alpha", self.alpha, low=0.0)

    def _score(self, problem: Problem) -> FloatArray:
        values = self._values(problem, self.posterior.mean)
        if problem.temperature > 0:
            values[:, 1:] += self.alpha * problem.temperature * self._sigmas(problem)
        return values
