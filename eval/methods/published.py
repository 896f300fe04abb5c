"""Published ideas in the form this project can compare at matched tokens; our own code, from the papers'
descriptions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arr_coc.scene.contract import Plan, Planner, Scene

from .base import Method, register_method, wanted_share

if TYPE_CHECKING:
    from arr_coc.knowing import Scorer
    from arr_coc.learning.tasks import Sample

    from ..model.bench import Bench


class _Greedy:
    """The largest budget that the share still allows for each patch, from the highest product of scores down."""

    def __init__(self, scorers: Sequence[Scorer], budgets: Sequence[int], share: float) -> None:
        self.scorers, self.budgets, self.share = scorers, budgets, share
        self.needs = frozenset().union(*(scorer.needs for scorer in scorers))

    def plan(self, scene: Scene) -> Plan:
        began = time.perf_counter()
        scores = {scorer.name: scorer(scene).cpu() for scorer in self.scorers}
        worth = 1.0
        for score in scores.values():
            worth = worth * score
        spent, allowed = int(scene.costs[:, 0].sum()), self.share * int(scene.costs[:, -1].sum())
        budgets = [self.budgets[0]] * len(scene.patches)
        for patch in worth.argsort(descending=True, stable=True).tolist():
            for budget, cost in zip(reversed(self.budgets), reversed(scene.costs[patch].tolist()), strict=True):
                more = cost - int(scene.costs[patch, 0])
                if spent + more <= allowed:
                    budgets[patch], spent = budget, spent + more
                    break
        return Plan(budgets, scores=scores, timings={"knowing": time.perf_counter() - began})


@register_method("relevant-salient")
@dataclass(kw_only=True)
class RelevantSalient(Method):
    """Patches ranked by question relevance times salience, as much detail as is left from the top down (the shape of
    HERO)."""

    share: float | None = None

    def prepare(self, bench: Bench) -> None:
        scorers = [bench.relevance(), bench.scorer("perspectival")]
        self._planner = _Greedy(scorers, bench.budgets, wanted_share(self, bench))

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        return self._planner


class _Chooser:
    needs = frozenset({"glance", "answer"})

    def __init__(self, budgets: Sequence[int]) -> None:
        self.budgets = budgets

    def plan(self, scene: Scene) -> Plan:
        began = time.perf_counter()
        doubt = 1.0 - float(scene.glance_answer().max().exp())
        level = min(len(self.budgets) - 1, int(max(doubt, 0.0) * len(self.budgets)))
        timings = {"knowing": time.perf_counter() - began}
        return Plan([self.budgets[level]] * len(scene.patches), tension={"doubt": doubt}, timings=timings)


@register_method("chooser")
@dataclass(kw_only=True)
class Chooser(Method):
    """One budget for the whole image, by the model's doubt about what its glance answers (the shape of CARES,
    untrained).

    The range of doubt is cut into equal parts, one for each budget: sure answers stay at the floor.
    """

    def prepare(self, bench: Bench) -> None:
        self._planner = _Chooser(bench.budgets)

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        return self._planner
