"""Allocations that look: the wrapper's own policy, and policies that do not learn."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from arr_coc.attending.planners import PolicyPlanner
from arr_coc.scene.contract import Plan, Planner, Scene

from ..corruptions import Corrupted, make_corruption
from .base import Method, NotApplicable, register_method
from .calibrated import calibrated

if TYPE_CHECKING:
    from arr_coc.knowing import Scorer
    from arr_coc.learning.tasks import Sample

    from ..model.bench import Answer, Bench


class Within(PolicyPlanner):
    """A policy that may spend a share of each question's full detail, or its floors where those cost more.

    Raises
    ------
    ValueError
        For a policy that doesn't look: its spending has no use for a limit by question.
    """

    def __init__(self, planner: Planner, share: float) -> None:
        if not isinstance(planner, PolicyPlanner):
            raise ValueError("match: only policies that look at the image can spend another method's share")
        vars(self).update(vars(planner))
        self._within = share

    def plan(self, scene: Scene) -> Plan:
        floor, full = int(scene.costs[:, 0].sum()), int(scene.costs[:, -1].sum())
        self.config = dataclasses.replace(self.config, limit=max(floor, int(self._within * full)))
        return super().plan(scene)


def corrupt(planner: Any, corruption: Any, label: str) -> None:
    """Put a corruption, as a configuration names it, between a planner and what it knows; None leaves it as it is.

    Raises
    ------
    ValueError
        For a planner that knows nothing that could be broken.
    """
    if corruption is None:
        return
    if not isinstance(planner, PolicyPlanner):
        raise ValueError(f"method {label!r}: corruption={corruption!r} needs a policy that looks at the image")
    broken: Any = Corrupted(planner.contexts, make_corruption(corruption))
    planner.contexts = broken


@register_method("learned")
@dataclass(kw_only=True)
class Learned(Method):
    """The policy that the run's ``policy`` folder holds, without exploration, or what the learner ``of`` learned.

    Another ``price`` or ``limit`` than it was learned with trace its curve of accuracy against tokens. With ``match``
    it may spend the other method's share on each question and pays no price. ``after`` takes what the learner ``of``
    had learned by then, one of its ``checkpoints``.
    """

    price: float | None = None
    limit: float | None = None
    of: str | None = None
    after: int | None = None

    def prepare(self, bench: Bench) -> None:
        lesson = "learner", self.of if self.after is None else f"{self.of} after {self.after}"
        if self.of is not None and lesson not in bench.lessons:
            raise ValueError(
                f"method {self.label!r}: of={self.of!r} must be the label of a learner that run.methods lists before "
                "it" + (f", which has {self.after} among its checkpoints" if self.after is not None else "")
            )
        if self.of is None and not bench.learned:
            raise NotApplicable("no learned policy was given; set run.policy to the folder that learning wrote")
        changes: dict[str, Any] = {"price": self.price, "limit": self.limit}
        if self.match is not None:
            changes |= {"price": 0.0, "limit": None}
        changes = {name: value for name, value in changes.items() if value is not None}
        self._planner: Any = None
        if changes or self.of is not None:
            self._planner = copy.copy(bench.arr.planner if self.of is None else bench.lessons[lesson])
            self._planner.config = dataclasses.replace(self._planner.config, **changes)
            self._planner.price = changes.get("price", self._planner.price)
        if self.match is not None:
            self._planner = Within(self._planner, bench.share(self.match))

    def answer(self, bench: Bench, samples: Sequence[Sample]) -> list[Answer]:
        return bench(samples, None if self._planner is None else [self._planner] * len(samples))


@register_method("policy")
@dataclass(kw_only=True)
class Planned(Method):
    """A policy as it comes, before any learning, with settings of its own.

    With ``match`` it may spend the other method's share on each question and pays no price, so that the limit binds.
    ``corruption`` breaks what it is told of a question, see `eval.corruptions`; ``calibrated`` fits what it knows to
    the model first, on so many unlabelled questions.
    """

    policy: str = "heuristic"
    scorers: list[Any] | None = None
    price: float | None = None
    limit: float | None = None
    confidence: bool | None = None
    detail: bool | None = None
    corruption: Any = None
    calibrated: int = 0

    def prepare(self, bench: Bench) -> None:
        from arr_coc.attending.planners import make_planner

        names = ("policy", "scorers", "price", "limit", "confidence", "detail")
        changes = {name: getattr(self, name) for name in names}
        config = dataclasses.replace(bench.arr.config, **{k: v for k, v in changes.items() if v is not None})
        if self.match is not None:
            config = dataclasses.replace(config, price=0.0, limit=None)
        config = calibrated(bench, config, self.corruption, self.calibrated)
        self._planner = make_planner(config, bench.arr.model, bench.arr.processor)
        corrupt(self._planner, self.corruption, self.label)
        if self.match is not None:
            self._planner = Within(self._planner, bench.share(self.match))

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        return self._planner


@register_method("heuristic")
@dataclass(kw_only=True)
class Heuristic(Planned):
    """The score heuristic: an exact knapsack over relevance times doubt times the detail that each budget restores.

    ``confidence: false`` leaves the doubt out.
    """


@register_method("saliency")
@dataclass(kw_only=True)
class Saliency(Planned):
    """The heuristic's knapsack, blind to the question: salience stands in for relevance (the shape of HiRED and
    GlobalCom2)."""

    scorers: list[Any] | None = dataclasses.field(default_factory=lambda: ["perspectival"])
    confidence: bool | None = False


class _Top:
    def __init__(self, scorer: Scorer, budgets: Sequence[int], budget: int) -> None:
        self.needs, self.scorer, self.budgets, self.budget = scorer.needs, scorer, budgets, budget

    def plan(self, scene: Scene) -> Plan:
        began = time.perf_counter()
        scores = self.scorer(scene).cpu()
        budgets = [self.budgets[0]] * len(scores)
        budgets[int(scores.argmax())] = self.budget
        return Plan(budgets, scores={self.scorer.name: scores}, timings={"knowing": time.perf_counter() - began})


@register_method("top-patch")
@dataclass(kw_only=True)
class TopPatch(Method):
    """One budget for the patch a scorer ranks first (by default: where the question looks), the floor for the rest."""

    budget: int
    scorer: str | None = None
    short: ClassVar[str] = "budget"

    def prepare(self, bench: Bench) -> None:
        if self.budget not in bench.budgets:
            raise ValueError(
                f"method {self.label!r}: budget {self.budget!r} must be one of the budgets {bench.budgets}"
            )
        scorer = bench.scorer(self.scorer) if self.scorer else bench.relevance()
        self._planner = _Top(scorer, bench.budgets, self.budget)

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        return self._planner
