"""Never worse than the prior: what was learned is played only where it is supported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import FloatArray, IntArray, floats, number
from ..policy import Policy
from ..problem import Problem, pose
from .valued import Valued

if TYPE_CHECKING:
    from ..decision import Decision

WINDOW = 200
"""Rewarded questions, about the last ones, over which what departing gains is pooled."""
SURE = 2.0
"""Standard deviations of the pooled gain that are taken off it before it counts."""


@dataclass(kw_only=True, eq=False)
class Cautious(Valued):
    """Depart from the prior's allocation s0 only on evidence, question by question.

    A greedy choice s stands if what was learned expects of it a gain over s0, net of price and coverage, of more than
    ``caution`` of its standard deviations, and of more than ``surcharge`` times the price of the tokens that it takes
    beyond s0. Else s0 is played. Deviations are large for questions unlike those that were learned from, and after
    forgetting: there the prior stands. Exploring is not held back.

    Where the prior itself is wrong, such margins only delay. What one question cannot show, many can: the gain that
    the learned choices promise over the prior's is pooled over the last rewarded questions, and both margins shrink by
    ``exp(-bound / patience)``, with its lower bound if that is above zero.

    Compare conservative bandits (Wu, Shariff, Lattimore & Szepesvari, ICML 2016; Kazerouni et al., NeurIPS 2017),
    which keep a budget of risk over time, and safe policy improvement with baseline bootstrapping (Laroche, Trichelair
    & Des Combes, ICML 2019), which, as here, keeps the baseline wherever the data are thin.

    Parameters
    ----------
    caution : float
        Standard deviations; 0 plays what was learned.
    surcharge : float
        Share of the price charged on top for tokens beyond the prior's, in this comparison only.
    patience : float
        Sure gain per question, in rewards, by which the margins shrink e-fold; 0 keeps them as they are.
    **options
        See `Policy`.
    """

    caution: float = 0.0
    surcharge: float = 0.0
    patience: float = 0.0
    pool: tuple[FloatArray, float, float] | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("caution", self.caution, low=0.0)
        number("surcharge", self.surcharge, low=0.0)
        number("patience", self.patience, low=0.0)

    def _prior_values(self, problem: Problem) -> FloatArray | None:
        """Values [N, K] by the prior mean alone; None without one."""
        raise NotImplementedError

    def _advantage(self, problem: Problem, index: IntArray, other: IntArray) -> tuple[float, float]:
        """Mean and standard deviation of the reward that one allocation gains over another, before price."""
        mine, theirs = (self.stakes_of(problem.contexts, problem.covariates, arms) for arms in (index, other))
        mean, deviation = self.weigh((mine - theirs)[None])
        return float(mean[0]), float(deviation[0])

    def _separable(self) -> bool:
        plain = type(self)._choose is Policy._choose and type(self)._decide is Cautious._decide
        return plain and not self.caution

    def _decide(self, problem: Problem) -> Decision:
        decision = super()._decide(problem)
        if not self.caution or problem.temperature > 0:
            return decision
        values = self._prior_values(problem)
        if values is None:
            return decision
        net = np.take_along_axis(values - problem.price * problem.costs + problem.coverage, problem.twin, axis=1)
        prior = self._decision(problem, net, self._choose(problem, net))
        if self.rounds and (decision.index != prior.index).any() and self._supported(problem, decision, prior):
            return decision
        return replace(prior, log_propensity=decision.log_propensity, probabilities=decision.probabilities)

    def _supported(self, problem: Problem, decision: Decision, prior: Decision) -> bool:
        n = np.arange(len(decision.index))
        beyond = problem.price * float(decision.cost - prior.cost)
        added = problem.coverage[n, decision.index].sum() - problem.coverage[n, prior.index].sum()
        mean, deviation = self._advantage(problem, decision.index, prior.index)
        least = self.caution * deviation + self.surcharge * max(beyond, 0.0)
        return bool(mean - beyond + added > self.margin() * least)

    # The prior on trial.

    def lead(self) -> tuple[float, float]:
        """Mean and deviation of what learned choices gain a question over the prior's, net of price; zero at first."""
        if self.pool is None or not self._informed():
            return 0.0, 0.0
        stakes, spent, count = self.pool
        mean, deviation = self.weigh((stakes / count)[None])
        return float(mean[0]) - spent / count, float(deviation[0])

    def margin(self) -> float:
        """What is left of caution and surcharge, in (0, 1]."""
        if not self.patience:
            return 1.0
        mean, deviation = self.lead()
        return math.exp(-max(mean - SURE * deviation, 0.0) / self.patience)

    def _informed(self) -> bool:
        """Whether beliefs are learned at all."""
        return self.rounds > 0

    def update_many(self, decisions: Sequence[Decision], rewards: Sequence[Any]) -> None:
        """See `Policy.update_many`; the questions also try the prior, if their decisions know what every arm costs."""
        super().update_many(decisions, rewards)
        if self.patience and self._informed():
            for decision in decisions:
                if decision.table is not None:
                    self._try(decision)

    def _try(self, decision: Decision) -> None:
        """Add one question to the pool: what is chosen now without a limit, against what the prior chooses."""
        problem = pose(
            self, decision.contexts, decision.covariates, decision.table, price=decision.price, temperature=0.0
        )
        values = self._prior_values(problem)
        if values is None:
            return
        paid = problem.price * problem.costs
        mine, theirs = (
            np.take_along_axis(worth - paid, problem.twin, axis=1).argmax(axis=1)
            for worth in (self._score(problem), values)
        )
        each = np.arange(len(mine))
        gained = self.stakes_of(problem.contexts, problem.covariates, mine)
        gained = gained - self.stakes_of(problem.contexts, problem.covariates, theirs)
        beyond = float((paid[each, mine] - paid[each, theirs]).sum())
        stakes, spent, count = self.pool or (np.zeros_like(gained), 0.0, 0.0)
        left = 1.0 - 1.0 / WINDOW
        self.pool = (left * stakes + gained, left * spent + beyond, left * count + 1.0)

    def _acquit(self, gamma: float) -> None:
        """Let what was pooled against the prior weigh gamma times as much."""
        if self.pool is not None:
            self.pool = (gamma * self.pool[0], gamma * self.pool[1], self.pool[2])

    def _extra(self) -> dict[str, Any]:
        if self.pool is None:
            return super()._extra()
        stakes, spent, count = self.pool
        return {**super()._extra(), "pool": {"stakes": stakes.tolist(), "spent": spent, "count": count}}

    def _load_extra(self, extra: dict[str, Any]) -> None:
        extra = dict(extra)
        kept = extra.pop("pool", None)
        super()._load_extra(extra)
        if kept is None:
            self.pool = None
            return
        spent, count = number("spent", kept["spent"]), number("count", kept["count"])
        if not 0.0 < count <= WINDOW:
            raise ValueError(f"the pool counts {count} questions, of at most {WINDOW}")
        self.pool = (floats("stakes", kept["stakes"], (None,)), spent, count)
