"""Aggregated Thompson sampling: the linear default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...checks import FloatArray, number
from ...problem import Problem
from ...registry import register_policy
from .base import Aggregated


@register_policy("thompson")
@dataclass(kw_only=True, eq=False)
class Thompson(Aggregated):
    """Draw theta ~ N(A^-1 b, (temperature nu)^2 A^-1) and let the oracle maximise the drawn values.

    A draw is linear in the features, so unlike an optimistic bonus on Phi it leaves the values separable and the
    oracle exact. Agrawal & Goyal 2013 (linear Thompson sampling), applied to the super-arm's features.

    Parameters
    ----------
    nu : float
        Posterior scale. The standard deviation of the reward noise is the Bayesian choice; less explores less, which
        usually earns more within a few hundred rounds.
    **options
        See `Aggregated`.
    """

    randomised: ClassVar[bool] = True

    nu: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        number("nu", self.nu, low=0.0)

    def _score(self, problem: Problem) -> FloatArray:
        return self._values(problem, self.posterior.sample(self.generator, self.nu * problem.temperature))
