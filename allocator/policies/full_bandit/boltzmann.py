"""Aggregated Boltzmann exploration with exact propensities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...checks import FloatArray, number
from ...decision import Choice
from ...knapsack.sample import sample_allocation
from ...problem import Problem
from ...registry import register_policy
from .base import Aggregated


@register_policy("boltzmann")
@dataclass(kw_only=True, eq=False)
class Boltzmann(Aggregated):
    """Draw the super-arm from the Gibbs distribution of its net value.

    p(s) is proportional to exp(value(s) / tau). Without a binding limit that is one independent softmax per patch at
    the given price; with one it is the same distribution restricted to the feasible super-arms, sampled exactly.

    Parameters
    ----------
    tau : float
        Softmax temperature in reward units, scaled by the temperature of `select`; 0 is greedy.
    **options
        See `Aggregated`.
    """

    tau: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        number("tau", self.tau, low=0.0)

    def _choose(self, problem: Problem, net: FloatArray) -> Choice:
        tau = self.tau * problem.temperature
        if tau <= np.abs(net).max() / 1e300:  # 0, or so small that the exponents overflow
            return super()._choose(problem, net)
        log_weights = np.where(problem.open, net / tau, -np.inf)
        index, log_propensity, probabilities = sample_allocation(
            log_weights, problem.costs, problem.limit, self.generator
        )
        return Choice(index=index, log_propensity=log_propensity, probabilities=probabilities)
