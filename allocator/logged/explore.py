"""Exploring with exact propensities and a bounded risk.

A hard knapsack's choice has no factorised propensity, and a Thompson draw pushed through it has none in closed form.
So serving explores in a way that has one. Between two reloads the policy is frozen, and each question gets

    with probability 1 - e   the greedy allocation g, exact under price and limit;
    with probability e       a draw s from q: per patch, independently, a Boltzmann choice at the price, or with
                             probability u any of its arms; a binding limit conditions it
                             (`allocator.knapsack.sample`), still with its exact normalisation.

    mu(s) = (1 - e) [s = g] + e q(s)

is logged with the decision. It is the exact probability of the whole allocation given the question, whatever the
coin said, so importance weights and the doubly robust estimator need no further assumption. The part u is there
because a policy that is sure and wrong would otherwise never try what its successor wants to do.

The risk is bounded as in `allocator`'s conservative wrapper (Kazerouni et al. 2017), with the greedy allocation as
the baseline: explore only while the lower confidence bound of the reward of

    sum_t mu_t + mu - (1 - alpha) (sum_t g_t + g)

is not negative. That wrapper asks this of the allocation just drawn, which makes the baseline's own probability a sum
over all unsafe draws. Here it is asked of what mu earns in *expectation* before the coin is thrown, so the answer
depends on the past and the question alone and mu stays exact: either as above, or 1 on g. What is believed of rewards
adds up over questions (`allocator.policies.valued`), so the sums are one vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from .. import Decision, Policy
from ..checks import FloatArray, IntArray, floats, number
from ..knapsack.sample import sample_allocation
from ..policies.valued import NOISE, Valued

_DRAWS = 16  # for the expected features where a limit binds; they decide whether to explore, never a propensity


@dataclass(kw_only=True, frozen=True)
class Exploration:
    """How much a server explores.

    Parameters
    ----------
    share
        e, the share of questions that may be explored; 0 switches it off.
    tau
        Temperature of the Boltzmann choice, in reward units.
    uniform
        u, the share of a patch's explored choices that are uniform over its arms.
    alpha
        Share of the greedy policy's cumulative reward that may be risked.
    width
        Multiple of the posterior deviation in the confidence bound, in reward units.
    """

    share: float = 0.2
    tau: float = 0.02
    uniform: float = 0.2
    alpha: float = 0.05
    width: float = 0.3

    def __post_init__(self) -> None:
        number("share", self.share, low=0.0, high=1.0)
        number("uniform", self.uniform, low=0.0, high=1.0)
        number("alpha", self.alpha, low=0.0, high=1.0)
        number("width", self.width, low=0.0)
        if number("tau", self.tau) <= 0:
            raise ValueError(f"tau must be positive, got {self.tau}; share=0 switches exploration off")


@dataclass(frozen=True)
class Law:
    """The distribution mu that a question's allocation was drawn from.

    Attributes
    ----------
    share, tau, uniform
        As of `Exploration`.
    log_feasible
        Logarithm of the chance that independent choices keep the limit; 0 where none binds.
    greedy
        The allocation g.
    """

    share: float
    tau: float
    uniform: float
    log_feasible: float
    greedy: list[int]

    def log_probability(self, values: FloatArray, costs: IntArray, index: IntArray) -> float:
        """log mu of a feasible allocation [N], given net values and costs [N, K] of the question."""
        choices = _log_choices(values, costs, self.tau, self.uniform)
        log_q = float(choices[np.arange(len(index)), index].sum()) - self.log_feasible
        base = (1.0 - self.share) * (list(index) == self.greedy)
        return math.log(base + self.share * math.exp(log_q)) if base else math.log(self.share) + log_q


@dataclass(frozen=True)
class Taken:
    """A decision with what off-policy evaluation needs beside it.

    Attributes
    ----------
    decision
        With ``log_propensity`` = log mu(s); ``probabilities`` = q per patch if it was explored without a binding
        limit.
    costs
        ``[N, K]`` tokens of every arm.
    limit
        Bound on their sum, or None.
    coverage
        ``[N, K]`` value outside the model that balancing added, or None.
    law
        What it was drawn from; None where it was certain.
    explored
        Whether the coin said so.
    """

    decision: Decision
    costs: IntArray
    limit: int | None
    coverage: FloatArray | None
    law: Law | None
    explored: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the log."""
        return {
            "explored": self.explored,
            "law": None if self.law is None else asdict(self.law),
            "limit": self.limit,
            "costs": self.costs.tolist(),
            "coverage": None if self.coverage is None or not self.coverage.any() else self.coverage.tolist(),
            # The features follow from contexts and index; leaving them out halves the log.
            "decision": {**self.decision.to_dict(), "features": None},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], **more: Any) -> Self:
        """Read back `to_dict`; ``more`` goes to a subclass.

        Raises
        ------
        ValueError
            If the data do not fit.
        """
        try:
            # Features follow from contexts and index, whatever a line says of them.
            decision = replace(Decision.from_dict(data["decision"]), features=None)
            costs = np.asarray(data["costs"], dtype=np.int64)
            if costs.shape != decision.values.shape:
                raise ValueError(f"costs of shape {costs.shape} for values of shape {decision.values.shape}")
            added = data.get("coverage")
            coverage = None if added is None else floats("coverage", added, costs.shape)
            law = None if data["law"] is None else Law(**data["law"])
            return cls(decision, costs, data["limit"], coverage, law, bool(data["explored"]), **more)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the decision is incomplete: {error!r}") from error


class Explorer:
    """Chooses for one question after another, exploring.

    Parameters
    ----------
    policy
        One that can weigh any allocation; it is only read.
    exploration
        See `Exploration`.
    seed
        Of the coin and the draws; by default from the system's entropy, since replicas must not repeat each other.
    """

    def __init__(self, policy: Policy, exploration: Exploration, seed: int | None = None) -> None:
        if not isinstance(policy, Valued):
            raise ValueError(
                f"policy {policy.name!r} can't be served: it has learned no model of the reward by which exploring "
                "could be kept safe; learn one, with policy: neural_mixture or thompson"
            )
        self.policy, self.exploration = policy, exploration
        self.generator = np.random.default_rng(seed)
        self.balance: Any = 0.0  # the stakes of all that was explored, once something was

    def take(
        self,
        contexts: Any,
        covariates: Any,
        costs: Any,
        limit: float | None = None,
        price: float = 0.0,
        temperature: float = 1.0,
        coverage: Any = None,
        *,
        explore: bool = True,
    ) -> Taken:
        """As `allocator.Policy.select`, with this module's exploration in the place of the policy's own.

        Returns
        -------
        Taken
            The decision with its law: nothing of a question is kept here, so questions may be asked side by side.
        """
        greedy = self.policy.select(contexts, covariates, costs, limit, price, coverage=coverage, explore=False)
        table = np.asarray(costs, dtype=np.int64)
        bound = None if limit is None or table[:, -1].sum() <= limit else int(limit)
        added = None if coverage is None else np.asarray(coverage, dtype=np.float64)
        taken = Taken(greedy, table, bound, added, None, False)
        if explore and self.exploration.share > 0 and temperature > 0:
            taken = self._explore(taken, self.exploration.tau * temperature)
        return taken

    def select(self, *args: Any, **kwargs: Any) -> Decision:
        """The decision of `take`, as of `allocator.Policy.select`."""
        return self.take(*args, **kwargs).decision

    def rehearse(self, costs: Any, price: float) -> None:
        """Choose for made-up questions, greedily, exploring and under a limit, on a copy with a seed of its own.

        Parameters
        ----------
        costs
            ``[K]`` tokens of the arms, rising.
        price
            Reward units per token.

        Raises
        ------
        ValueError
            If the policy can't, or finds values that are no numbers: it must not be served.
        """
        number("price", price, low=0.0)
        rng, trial = np.random.default_rng(0), Explorer(self.policy, replace(self.exploration, share=0.5), seed=0)
        try:
            table = np.tile(np.asarray(costs, dtype=np.int64), (6, 1))
            for limit in (None, int(table.mean(axis=1).sum())):
                contexts, covariates = rng.random((6, self.policy.dim or 0)), rng.random(self.policy.covariates)
                for share in (0.0, 1.0):
                    decision = trial.select(contexts, covariates, table, limit, price, explore=share > 0)
                    if not np.isfinite(decision.values).all() or not np.isfinite(decision.log_propensity or 0.0):
                        raise ValueError("it values an allocation at NaN or infinity")
        except Exception as error:  # whatever a file that loads can make of a policy
            raise ValueError(f"the policy can't choose for a made-up question: {error}") from error

    def _explore(self, certain: Taken, tau: float) -> Taken:
        greedy, costs, limit = certain.decision, certain.costs, certain.limit
        share, uniform = self.exploration.share, self.exploration.uniform
        weights = _log_choices(greedy.values, costs, tau, uniform)
        index, log_q, rows = sample_allocation(weights, costs, limit, self.generator)
        if not self._safe(greedy, weights, costs, limit, rows):
            return certain
        n = np.arange(len(index))
        law = Law(share, tau, uniform, float(weights[n, index].sum()) - log_q, greedy.index.tolist())
        explored = bool(self.generator.random() < share)
        chosen = index if explored else greedy.index
        decision = replace(
            greedy,
            policy=f"{greedy.policy}+boltzmann",
            index=chosen,
            costs=costs[n, chosen],
            log_propensity=law.log_probability(greedy.values, costs, chosen),
            probabilities=rows if explored else None,
            features=None,
        )
        return replace(certain, decision=decision, law=law, explored=explored)

    def _safe(
        self, greedy: Decision, weights: FloatArray, costs: IntArray, limit: int | None, rows: FloatArray | None
    ) -> bool:
        """Whether the risk allows exploring this question; books it if so."""
        share, alpha, arms = self.exploration.share, self.exploration.alpha, np.eye(costs.shape[1])
        if rows is None:
            draws = [sample_allocation(weights, costs, limit, self.generator)[0] for _ in range(_DRAWS)]
            rows = arms[np.stack(draws)].mean(axis=0)
        known = greedy.contexts, greedy.covariates
        base, tried = (self.policy.stakes(*known, chances) for chances in (arms[greedy.index], rows))
        stake = self.balance + share * tried + (1.0 - share) * base - (1.0 - alpha) * base
        mean, deviation = self.policy.weigh(stake[None])
        safe = bool(mean[0] - self.exploration.width / NOISE * deviation[0] >= 0)
        self.balance = stake if safe else self.balance + alpha * base
        return safe


def _log_choices(values: FloatArray, costs: IntArray, tau: float, uniform: float) -> FloatArray:
    """log q of every patch's independent choice, [N, K]; an arm that repeats an earlier arm's cost is that arm."""
    repeated = ((costs[:, :, None] == costs[:, None, :]) & (np.tri(costs.shape[1], k=-1) > 0)).any(axis=2)
    weights = np.where(repeated, 0.0, np.exp((values - values.max(axis=1, keepdims=True)) / tau))
    weights = (1.0 - uniform) * weights / weights.sum(axis=1, keepdims=True)
    weights += uniform * ~repeated / (~repeated).sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        logs: FloatArray = np.log(weights)
    return logs
