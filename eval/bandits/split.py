"""The mistake that the aggregated model exists to avoid, kept here to be beaten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allocator.checks import FloatArray
from allocator.decision import Decision
from allocator.policies.full_bandit.thompson import Thompson


@dataclass(kw_only=True, eq=False)
class SplitReward(Thompson):
    """Thompson sampling that credits every patch with an equal share of the super-arm's one reward.

    It is no registered method: every patch is taught the luck of the others.

    Parameters
    ----------
    **options
        See `Thompson`.
    """

    def _learn(self, decisions: Sequence[Decision], rewards: list[FloatArray]) -> None:
        for decision, reward in zip(decisions, rewards, strict=True):
            patches = zip(decision.contexts, decision.index, strict=True)
            rows = [self._features(x[None], decision.covariates, np.array([arm])) for x, arm in patches]
            self.posterior.update(np.stack(rows), np.full(len(rows), float(reward) / len(rows)))
