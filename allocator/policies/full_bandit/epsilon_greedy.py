"""Aggregated epsilon-greedy with exact propensities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...checks import FloatArray, number
from ...decision import Choice
from ...knapsack.sample import sample_allocation
from ...knapsack.solver import solve
from ...problem import Problem
from ...registry import register_policy
from .base import Aggregated


@register_policy("epsilon_greedy")
@dataclass(kw_only=True, eq=False)
class EpsilonGreedy(Aggregated):
    """Each patch leaves the greedy super-arm with probability epsilon, for an arm drawn uniformly.

    Patches are independent given the price, so propensities factorise: q_i(k) = epsilon / K_i + (1 - epsilon) [k is
    greedy]. Under a limit that binds the same product is conditioned on the limit and its propensity stays exact.

    Parameters
    ----------
    epsilon : float
        Probability of exploring per patch, scaled by the temperature (at most 1).
    **options
        See `Aggregated`.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        number("epsilon", self.epsilon, low=0.0, high=1.0)

    def _choose(self, problem: Problem, net: FloatArray) -> Choice:
        epsilon = min(1.0, self.epsilon * problem.temperature)
        if epsilon == 0.0:
            return super()._choose(problem, net)
        found = solve(net, problem.costs, problem.limit, floor=problem.floor)
        weights = np.where(problem.open, epsilon / problem.open.sum(axis=1, keepdims=True), 0.0)
        weights[np.arange(len(net)), found.index] += 1.0 - epsilon
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights)
        index, log_propensity, probabilities = sample_allocation(
            log_weights, problem.costs, problem.limit, self.generator
        )
        return Choice(
            index=index,
            log_propensity=log_propensity,
            probabilities=probabilities,
            shadow_price=found.price,
            gap=found.gap,
        )
