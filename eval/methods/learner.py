"""Policies that the run learns itself, for ablations: each with settings of its own, on the same questions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arr_coc.scene import Planner

from .base import Method, register_method

if TYPE_CHECKING:
    from ..bench import Bench
    from ..tasks import Sample


@register_method("learner")
@dataclass(kw_only=True)
class Learner(Method):
    """A policy learned in this run, from questions that are not judged on, before the first one that is.

    Attributes
    ----------
    policy, scorers, confidence, tensions, price, limit
        As of `arr_coc.ArrCocConfig`; None keeps the run's own.
    prior
        Whether the score heuristic is the prior mean; else the policy starts from zero.
    episodes
        Answers to learn from.
    reward
        What they are rewarded by.
    source, kinds, seed
        As of `arr_coc.data.load_questions`; the seed is the run's by default.
    """

    policy: str | None = None
    scorers: list[str] | None = None
    confidence: bool | None = None
    tensions: list[str] | None = None
    price: float | None = None
    limit: float | None = None
    prior: bool = True
    episodes: int = 600
    reward: str = "vqa_accuracy"
    source: str = "reference"
    kinds: list[str] | None = None
    seed: int | None = None

    def prepare(self, bench: Bench) -> None:
        from arr_coc import learn
        from arr_coc.attending import PolicyPlanner, build_policy, make_planner
        from arr_coc.data import load_questions

        seed = bench.seed if self.seed is None else self.seed
        names = ("policy", "scorers", "confidence", "tensions", "price", "limit")
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        config = dataclasses.replace(bench.arr.config, seed=seed, **given)
        planner = make_planner(config, bench.arr.model, bench.arr.processor)
        if isinstance(planner, PolicyPlanner) and not self.prior:
            planner.policy = build_policy(config, planner.contexts, prior=False)
        questions = load_questions(self.source, n=self.episodes, seed=seed, kinds=self.kinds)
        out = None if bench.folder is None else bench.folder / "learning" / self.label
        own, bench.arr.planner = bench.arr.planner, planner
        try:
            learn(bench.arr, questions, self.reward, self.episodes, out=out, resume=True)
        finally:
            bench.arr.planner = own
        self._planner: Planner = planner

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        return self._planner
