"""Allocations that look at nothing: the same budget everywhere, or budgets drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.optimize import brentq

from arr_coc.scene.contract import Plan, Planner, Scene

from .base import Method, register_method, wanted_share

if TYPE_CHECKING:
    from arr_coc.learning.tasks import Sample

    from ..model.bench import Bench


class Same:
    """A planner that gives every patch one budget."""

    needs: frozenset[str] = frozenset()

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def plan(self, scene: Scene) -> Plan:
        return Plan([self.budget] * len(scene.patches))


@register_method("uniform")
@dataclass(kw_only=True)
class Uniform(Method):
    """The same budget for every patch."""

    budget: int
    short: ClassVar[str] = "budget"

    def prepare(self, bench: Bench) -> None:
        if self.budget not in bench.budgets:
            raise ValueError(
                f"method {self.label!r}: budget {self.budget!r} must be one of the budgets {bench.budgets}"
            )

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        return Same(self.budget)


def tilted(costs: np.ndarray, share: float) -> np.ndarray:
    """Probabilities of each arm at which the expected tokens are a share of full detail.

    The most random choice there is at that mean (maximum entropy): ``p(arm) ~ exp(rate * cost)`` with one rate for
    all patches.

    Parameters
    ----------
    costs
        ``[N, K]`` tokens of each arm, rising along K.
    share
        Wanted expected tokens over full tokens; what floor and full detail cannot reach is clipped to them.

    Returns
    -------
    ndarray
        ``[N, K]``, rows sum to 1.
    """
    scaled = costs / costs[:, -1].sum()

    def probabilities(rate: float) -> np.ndarray:
        weights = np.exp(
            rate * (scaled - scaled.max(1, keepdims=True) if rate > 0 else scaled - scaled.min(1, keepdims=True))
        )
        return weights / weights.sum(1, keepdims=True)

    def excess(rate: float) -> float:
        return float((probabilities(rate) * scaled).sum() - share)

    steepest = 50.0 / max(float(np.ptp(scaled, axis=1).max()), 1e-12)
    if excess(-steepest) >= 0 or excess(steepest) <= 0:
        return probabilities(-steepest if excess(-steepest) >= 0 else steepest)
    return probabilities(brentq(excess, -steepest, steepest))


class _Draw:
    needs: frozenset[str] = frozenset()

    def __init__(self, budgets: Sequence[int], share: float, rng: np.random.Generator) -> None:
        self.budgets, self.share, self.rng = budgets, share, rng

    def plan(self, scene: Scene) -> Plan:
        return Plan([self.budgets[self.rng.choice(len(p), p=p)] for p in tilted(scene.costs.numpy(), self.share)])


@register_method("random")
@dataclass(kw_only=True)
class Random(Method):
    """A budget for each patch at random, at a given or another method's mean share of full detail.

    See `tilted`.

    ``seed`` tells several draws apart. A question's draw depends on the run's seed, this seed and the question's id
    alone.
    """

    share: float | None = None
    seed: int = 0
    short: ClassVar[str] = "seed"

    def prepare(self, bench: Bench) -> None:
        self._share = wanted_share(self, bench)

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        return _Draw(bench.budgets, self._share, bench.rng(sample, self.seed))
