"""The knapsack over the true values: the best any policy could do."""

from __future__ import annotations

from dataclasses import dataclass

from ...checks import FloatArray
from ...policy import Policy
from ...problem import Problem
from ...registry import register_policy


@register_policy("oracle")
@dataclass(kw_only=True, eq=False)
class Oracle(Policy):
    """Maximise the true expected values, which `select` must be given as `values=`; regret is measured against it.

    Parameters
    ----------
    **options
        See `Policy`.
    """

    def _score(self, problem: Problem) -> FloatArray:
        if problem.values is None:
            raise ValueError("policy 'oracle' needs values=, the true value of every patch and arm")
        return problem.values
