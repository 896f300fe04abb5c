"""LinUCB with disjoint models."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...checks import FloatArray, number
from ...problem import Problem
from ...registry import register_policy
from .disjoint import Disjoint


@register_policy("linucb")
@dataclass(kw_only=True, eq=False)
class LinUCB(Disjoint):
    """Li, Chu, Langford & Schapire 2010, algorithm 1: p(i, k) = x_i' theta_k + alpha sqrt(x_i' A_k^-1 x_i).

    With several patches the oracle maximises the sum of the bounds under the limit.

    Parameters
    ----------
    alpha : float
        Width of the confidence bound.
    **options
        See `Disjoint`.
    """

    alpha: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        number("alpha", self.alpha, low=0.0)

    def _score(self, problem: Problem) -> FloatArray:
        values = super()._score(problem)
        if problem.temperature > 0:
            contexts = self._contexts(problem)
            sigma = torch.stack([posterior.sigma(contexts) for posterior in self.posteriors], dim=1)
            values = values + self.alpha * problem.temperature * sigma.cpu().numpy()
        return values
