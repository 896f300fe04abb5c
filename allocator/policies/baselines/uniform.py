"""The same arm for every patch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...checks import FloatArray, count
from ...decision import Choice
from ...policy import Policy
from ...problem import Problem
from ...registry import register_policy


@register_policy("uniform")
@dataclass(kw_only=True, eq=False)
class Uniform(Policy):
    """Give every patch the same arm.

    Parameters
    ----------
    arm : int, optional
        Which arm. None: the dearest one that fits the limit (the last one without a limit).
    **options
        See `Policy`.
    """

    arm: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arm is not None:
            count("arm", self.arm, low=0)

    def _choose(self, problem: Problem, net: FloatArray) -> Choice:
        patches, arms = net.shape
        totals = problem.costs.sum(axis=0)
        if self.arm is None:
            fits = np.arange(arms) if problem.limit is None else np.flatnonzero(totals <= problem.limit)
            if len(fits) == 0:
                raise ValueError(f"limit {problem.limit} is below the cheapest uniform allocation, {totals.min()}")
            arm = int(fits[np.flatnonzero(totals[fits] == totals[fits].max())[-1]])
        else:
            arm = self.arm
            if arm >= arms:
                raise ValueError(f"uniform arm {arm} is unknown: there are {arms} arms, 0 to {arms - 1}")
            if problem.limit is not None and totals[arm] > problem.limit:
                raise ValueError(
                    f"uniform arm {arm} costs {totals[arm]}, above the limit {problem.limit}; raise the limit, "
                    "choose a cheaper arm, or leave arm=None to take the dearest that fits"
                )
        return Choice(index=np.full(patches, arm, dtype=np.int64), log_propensity=0.0)
