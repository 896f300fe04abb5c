"""Never worse than the prior: what was learned is played only where it is supported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..checks import FloatArray, IntArray, number
from ..policy import Policy
from .valued import Valued

if TYPE_CHECKING:
    from ..decision import Decision
    from ..problem import Problem


@dataclass(kw_only=True, eq=False)
class Cautious(Valued):
    """Depart from the prior's allocation s0 only on evidence, question by question.

    A greedy choice s stands if what was learned expects of it a gain over s0, net of price and coverage, of more than
    ``caution`` of its standard deviations, and of more than ``surcharge`` times the price of the tokens that it takes
    beyond s0. Else s0 is played. Deviations are large for questions unlike those that were learned from, and after
    forgetting: there the prior stands. Exploring is not held back.

    Compare conservative bandits (Wu, Shariff, Lattimore & Szepesvari, ICML 2016; Kazerouni et al., NeurIPS 2017),
    which keep a budget of risk over time, and safe policy improvement with baseline bootstrapping (Laroche, Trichelair
    & Des Combes, ICML 2019), which, as here, keeps the baseline wherever the data are thin.

    Parameters
    ----------
    caution : float
        Standard deviations; 0 plays what was learned.
    surcharge : float
        Share of the price charged on top for tokens beyond the prior's, in this comparison only.
    **options
        See `Policy`.
    """

    caution: float = 0.0
    surcharge: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        number("caution", self.caution, low=0.0)
        number("surcharge", self.surcharge, low=0.0)

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
        return bool(mean - beyond + added > least)
