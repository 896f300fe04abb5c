"""Simulated bandits with a known optimum.

An environment draws a `Round`: what the policy sees (contexts, costs, limit) and what it does not (the expected reward
of every super-arm and the best one). Regret is the optimum minus the expected reward of what was chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checks import FloatArray, IntArray
from ..knapsack.solver import solve
from ..policy import Policy

BUDGETS = (64, 128, 256, 400)
DETAIL = np.array([0.0, 0.35, 0.8, 1.0])  # share of the detail that each budget shows


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """One question.

    Attributes
    ----------
    contexts : FloatArray, shape [N, d]
    covariates : FloatArray, shape [m]
    costs : IntArray, shape [K] or [N, K]
    limit : int or None
    expected : callable
        Super-arm index [N] -> expected reward.
    optimum : float
        Expected reward of the best feasible super-arm.
    arm_means : FloatArray, shape [N, K], or None
        Expected per-patch reward of each arm, where the environment has semi-bandit feedback.
    """

    contexts: FloatArray
    covariates: FloatArray
    costs: IntArray
    limit: int | None
    expected: Callable[[IntArray], float]
    optimum: float
    arm_means: FloatArray | None = None


@dataclass(kw_only=True, eq=False)
class Environment:
    """Base of the simulators: N patches, budgets as arms, one reward per super-arm.

    Parameters
    ----------
    patches : int
        N.
    limit : float
        Share of the dearest allocation that may be spent.
    binary : bool
        Rewards are 0/1 draws of the expected reward; else it plus Gaussian noise.
    noise : float
        Standard deviation of that noise.
    seed : int
        Seed of the hidden parameters and of the stream.
    """

    patches: int = 6
    limit: float = 0.45
    binary: bool = False
    noise: float = 0.05
    seed: int = 0
    generator: np.random.Generator = field(init=False, repr=False)
    time: int = field(init=False, default=0)

    dim = 6
    arms = len(BUDGETS)
    covariates = 0

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)
        self.costs = np.array(BUDGETS, dtype=np.int64)
        self.tokens = int(self.limit * BUDGETS[-1] * self.patches)

    def draw(self) -> Round:
        """The next question."""
        self.time += 1
        return self._draw()

    def _draw(self) -> Round:
        raise NotImplementedError

    def reward(self, question: Round, index: IntArray) -> float:
        """A noisy reward of a super-arm."""
        mean = question.expected(index)
        if self.binary:
            return float(self.generator.random() < mean)
        return mean + self.noise * float(self.generator.standard_normal())

    def feedback(self, question: Round, index: IntArray, kind: str) -> float | FloatArray:
        """A noisy reward of the kind a policy learns from: "semi" is one per patch, anything else a scalar."""
        if kind == "semi":
            raise ValueError(
                f"{type(self).__name__} gives one reward for the whole super-arm; it has no per-patch reward"
            )
        return self.reward(question, index)

    def _contexts(self) -> FloatArray:
        """A constant, a cue of the need for detail, and distractors."""
        x = self.generator.normal(size=(self.patches, self.dim)) * 0.5
        x[:, 0] = 1.0
        x[:, 1] = self.generator.random(self.patches) ** 3
        return x

    def _separable(self, x: FloatArray, values: FloatArray, base: float) -> Round:
        best = solve(values, self.costs, self.tokens)
        rows = np.arange(self.patches)
        return Round(
            contexts=x,
            covariates=np.zeros(0),
            costs=self.costs,
            limit=self.tokens,
            expected=lambda index: float(base + values[rows, index].sum()),
            optimum=base + best.value,
        )


@dataclass(kw_only=True, eq=False)
class Additive(Environment):
    """Reward is a base plus a gain per patch, linear in its context: the aggregated model holds exactly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = np.zeros(self.dim)
        weights[1] = 0.8
        weights[2:] = self.generator.normal(size=self.dim - 2) * 0.02
        self.theta = DETAIL[1:, None] * weights  # [K-1, d]

    def gains(self, x: FloatArray) -> FloatArray:
        """Expected gain of every patch and arm, [N, K]."""
        return np.hstack([np.zeros((len(x), 1)), x @ self.theta.T]) / self.patches

    def _draw(self) -> Round:
        x = self._contexts()
        return self._separable(x, self.gains(x), base=0.35)


@dataclass(kw_only=True, eq=False)
class Drifting(Additive):
    """Additive, but the useful cue changes every `period` rounds.

    Parameters
    ----------
    period : int
        Rounds between changes.
    """

    period: int = 500

    def _draw(self) -> Round:
        x = self._contexts()
        cue = 1 + (self.time - 1) // self.period % 2
        x[:, 2] = self.generator.random(self.patches) ** 3
        weights = np.zeros(self.dim)
        weights[cue], weights[3 - cue] = 0.8, -0.4
        self.theta = DETAIL[1:, None] * weights
        return self._separable(x, self.gains(x), base=0.35)


@dataclass(kw_only=True, eq=False)
class Concave(Additive):
    """Additive gains seen through 1 - exp(-sharpness x): diminishing returns, same optimum.

    Parameters
    ----------
    sharpness : float
        Curvature.
    """

    sharpness: float = 3.0

    def _draw(self) -> Round:
        x = self._contexts()
        inner = self._separable(x, self.gains(x), base=0.0)

        def squash(gain: float) -> float:
            return 0.35 + 0.6 * (1.0 - float(np.exp(-self.sharpness * max(gain, 0.0))))

        return Round(
            contexts=x,
            covariates=inner.covariates,
            costs=inner.costs,
            limit=inner.limit,
            expected=lambda index: squash(inner.expected(index)),
            optimum=squash(inner.optimum),
        )


@dataclass(kw_only=True, eq=False)
class Product(Environment):
    """Needs both: two evidence patches must be legible at once, reward = base + gain h(s_a) h(s_b)."""

    def _draw(self) -> Round:
        x = self._contexts()
        x[:, 1] = self.generator.random(self.patches) * 0.3
        pair = self.generator.choice(self.patches, size=2, replace=False)
        x[pair, 1] = 0.7 + 0.3 * self.generator.random(2)
        legible = 0.1 + 0.9 * DETAIL

        def expected(index: IntArray) -> float:
            return float(0.2 + 0.7 * legible[index[pair[0]]] * legible[index[pair[1]]])

        best = 0.0
        for a, b in itertools.product(range(self.arms), repeat=2):
            index = np.zeros(self.patches, dtype=np.int64)
            index[pair] = a, b
            if self.costs[index].sum() <= self.tokens:
                best = max(best, expected(index))
        return Round(
            contexts=x, covariates=np.zeros(0), costs=self.costs, limit=self.tokens, expected=expected, optimum=best
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """What `simulate` recorded, one entry per round.

    Attributes
    ----------
    regret : FloatArray, shape [T]
        Optimum minus expected reward of the chosen super-arm.
    reward : FloatArray, shape [T]
    cost : IntArray, shape [T]
    """

    regret: FloatArray
    reward: FloatArray
    cost: IntArray


def simulate(policy: Policy, environment: Environment, rounds: int, *, learn: bool = True, **select: Any) -> Trace:
    """Let a policy play an environment.

    Parameters
    ----------
    policy : Policy
    environment : Environment
    rounds : int
    learn : bool
        Whether rewards are fed back.
    **select
        Further arguments of `Policy.select`, e.g. `explore=False`.
    """
    regret, rewards, costs = np.zeros(rounds), np.zeros(rounds), np.zeros(rounds, dtype=np.int64)
    for t in range(rounds):
        question = environment.draw()
        decision = policy.select(
            question.contexts, question.covariates, costs=question.costs, limit=question.limit, **select
        )
        feedback = environment.feedback(question, decision.index, policy.feedback)
        rewards[t] = np.sum(feedback)
        regret[t] = question.optimum - question.expected(decision.index)
        costs[t] = decision.cost
        if learn:
            policy.update(decision, feedback)
    return Trace(regret=regret, reward=rewards, cost=costs)
