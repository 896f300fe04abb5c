"""Explore uniformly, then commit to what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...checks import FloatArray, count
from ...decision import Choice, Decision
from ...knapsack.sample import sample_allocation
from ...problem import Problem
from ...registry import register_policy
from .base import Aggregated


@register_policy("explore_then_commit")
@dataclass(kw_only=True, eq=False)
class ExploreThenCommit(Aggregated):
    """Uniformly random super-arms until `exploration` rewards are in; afterwards greedy and no longer learning.

    Robbins 1952; for combinatorial full-bandit feedback its regret is O(T^(2/3)) (Nie et al. 2023).

    Parameters
    ----------
    exploration : int
        Rewards to collect; a quarter of the horizon to T^(2/3) are common choices.
    **options
        See `Aggregated`.
    """

    exploration: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        count("exploration", self.exploration)

    def _choose(self, problem: Problem, net: FloatArray) -> Choice:
        if problem.temperature == 0.0 or self.rounds >= self.exploration:
            return super()._choose(problem, net)
        log_weights = np.where(problem.open, 0.0, -np.inf)
        index, log_propensity, probabilities = sample_allocation(
            log_weights, problem.costs, problem.limit, self.generator
        )
        return Choice(index=index, log_propensity=log_propensity, probabilities=probabilities)

    def _learn(self, decisions: Sequence[Decision], rewards: list[FloatArray]) -> None:
        left = max(0, self.exploration - self.rounds)
        super()._learn(decisions[:left], rewards[:left])
