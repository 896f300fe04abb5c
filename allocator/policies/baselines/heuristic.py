"""The knapsack over given values: what a good score achieves without learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...checks import BoolArray, FloatArray, floats
from ...policy import Policy
from ...problem import Problem
from ...registry import register_policy


@register_policy("heuristic")
@dataclass(kw_only=True, eq=False)
class Heuristic(Policy):
    """Maximise values that are given, not learned: the baseline every learner has to beat.

    Parameters
    ----------
    prior_mean : array-like, shape [K-1, d], optional
        Weights theta0: the value of arm k > 0 is x' theta0[k-1], that of the floor arm 0. The same array makes the
        prior of the aggregated learners. Not needed if `select` is given `values`.
    **options
        See `Policy`.
    """

    prior_mean: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior_mean is not None:
            arms = None if self.arms is None else self.arms - 1
            self.prior_mean = floats("prior_mean", self.prior_mean, (arms, self.dim))
            self.arms, self.dim = len(self.prior_mean) + 1, self.prior_mean.shape[1]

    @property
    def reads(self) -> BoolArray | None:
        """``[d]``: the entries of a context that weigh anything."""
        if self.prior_mean is None:
            return None
        weighing: BoolArray = (np.asarray(self.prior_mean) != 0).any(0)
        return weighing

    def _score(self, problem: Problem) -> FloatArray:
        if problem.values is not None:
            return problem.values
        if self.prior_mean is None:
            raise ValueError("policy 'heuristic' needs prior_mean= when it is built, or values= in select")
        return np.hstack([np.zeros((len(problem.contexts), 1)), problem.contexts @ self.prior_mean.T])
