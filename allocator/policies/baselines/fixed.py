"""A given allocation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...checks import FloatArray, ints
from ...decision import Choice
from ...policy import Policy
from ...problem import Problem
from ...registry import register_policy


@register_policy("fixed")
@dataclass(kw_only=True, eq=False)
class Fixed(Policy):
    """Always choose the same super-arm.

    Parameters
    ----------
    allocation : array-like of int, shape [N]
        Arm index per patch.
    **options
        See `Policy`.
    """

    allocation: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.allocation is None:
            raise ValueError("policy 'fixed' needs allocation=, one arm index per patch")
        self.allocation = ints("allocation", self.allocation, (None,))

    def _choose(self, problem: Problem, net: FloatArray) -> Choice:
        patches, arms = net.shape
        if len(self.allocation) != patches:
            raise ValueError(f"the fixed allocation has {len(self.allocation)} patches, the problem {patches}")
        if self.allocation.min() < 0 or self.allocation.max() >= arms:
            raise ValueError(f"the fixed allocation is {self.allocation.tolist()}, but the arms are 0 to {arms - 1}")
        cost = int(problem.costs[np.arange(patches), self.allocation].sum())
        if problem.limit is not None and cost > problem.limit:
            raise ValueError(f"the fixed allocation costs {cost}, above the limit {problem.limit}")
        return Choice(index=self.allocation.copy(), log_propensity=0.0)
