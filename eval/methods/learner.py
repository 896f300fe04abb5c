"""Policies that the run learns itself, for ablations: each with settings of its own, on the same questions."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arr_coc.scene.contract import Planner

from .base import Method, register_method

if TYPE_CHECKING:
    from arr_coc.learning.tasks import Sample

    from ..model.bench import Bench


@register_method("learner")
@dataclass(kw_only=True)
class Learner(Method):
    """A policy learned in this run, from questions that are not judged on, before the first one that is.

    Attributes
    ----------
    policy, scorers, confidence, detail, tensions, price, limit
        As of `arr_coc.ArrCocConfig`; None keeps the run's own.
    prior
        Whether the score heuristic is the prior mean; else the policy starts from zero.
    episodes
        Answers to learn from.
    reward
        What they are rewarded by.
    task
        Where they come from, as the section ``task`` of a file; reference VQA by default.
    kinds, seed, grid
        Short for these of the task; the seed is the run's by default.
    phases
        Instead of kinds, several lists of them that follow one another in equal parts: a stream that changes.
    forgetting
        Factor by which what was learned is discounted with each batch, in (0, 1]; below 1 for streams that change.
    """

    policy: str | None = None
    scorers: list[Any] | None = None
    confidence: bool | None = None
    detail: bool | None = None
    tensions: list[str] | None = None
    price: float | None = None
    limit: float | None = None
    prior: bool = True
    episodes: int = 600
    reward: str = "vqa_accuracy"
    task: dict[str, Any] = dataclasses.field(default_factory=dict)
    kinds: list[str] | None = None
    seed: int | None = None
    grid: list[int] | None = None
    phases: list[list[str]] | None = None
    forgetting: float = 1.0

    def prepare(self, bench: Bench) -> None:
        from arr_coc import learn
        from arr_coc.attending.planners import PolicyPlanner, build_policy, make_planner

        seed = bench.seed if self.seed is None else self.seed
        names = ("policy", "scorers", "confidence", "detail", "tensions", "price", "limit")
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        config = dataclasses.replace(bench.arr.config, seed=seed, **given)
        planner = make_planner(config, bench.arr.model, bench.arr.processor)
        if isinstance(planner, PolicyPlanner) and not self.prior:
            planner.policy = build_policy(config, planner.contexts, prior=False)
        if isinstance(planner, PolicyPlanner) and self.forgetting < 1:
            planner.policy = dataclasses.replace(planner.policy, forgetting=self.forgetting)
        out = None if bench.folder is None else bench.folder / "learning" / self.label
        own, bench.arr.planner = bench.arr.planner, planner
        try:
            learn(bench.arr, self._questions(seed), self.reward, self.episodes, out=out, resume=True)
        finally:
            bench.arr.planner = own
        self._planner: Planner = planner
        bench.lessons["learner", self.label] = planner

    def _questions(self, seed: int) -> Iterable[Mapping[str, Any]]:
        from arr_coc.learning.tasks import learning_task
        from arr_coc.reference import generate

        if self.phases is None:
            return learning_task({"seed": seed, "kinds": self.kinds, "grid": self.grid, **self.task}, self.episodes)
        if self.task:
            raise ValueError(f"method {self.label!r}: phases are known of the reference world only; leave task out")
        each, grid = -(-self.episodes // len(self.phases)), None if self.grid is None else tuple(self.grid)
        return itertools.chain.from_iterable(
            generate(each, seed=1000 * number + seed, split="learn", kinds=kinds, grid=grid)
            for number, kinds in enumerate(self.phases)
        )

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        return self._planner
