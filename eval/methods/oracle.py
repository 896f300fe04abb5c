"""Upper bounds that know what no method may know: where the evidence is, or whether the answer is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arr_coc.scene.contract import Plan, Planner, Scene

from .base import Method, NotApplicable, register_method

if TYPE_CHECKING:
    from arr_coc.learning.tasks import Sample

    from ..model.bench import Answer, Bench


class On:
    """A planner that gives one budget to chosen patches and the floor to the rest; to all patches if none is
    chosen."""

    needs: frozenset[str] = frozenset()

    def __init__(self, chosen: Sequence[int], budget: int, floor: int) -> None:
        self.chosen, self.budget, self.floor = frozenset(chosen), budget, floor

    def plan(self, scene: Scene) -> Plan:
        patches = range(len(scene.patches))
        return Plan([self.budget if i in self.chosen or not self.chosen else self.floor for i in patches])


def _evidence(sample: Sample) -> list[int]:
    if "evidence" not in sample:
        raise NotApplicable("the task does not say where the evidence is; only the reference world does")
    return list(sample["evidence"])


@register_method("evidence")
@dataclass(kw_only=True)
class Evidence(Method):
    """The evidence patches at one budget, the floor elsewhere: an oracle that never looks at the answer.

    Without ``budget`` each question gets the level that the generator meant to resolve its evidence. An answer that
    rests on an absence has all patches as its evidence.
    """

    budget: int | None = None

    def prepare(self, bench: Bench) -> None:
        if self.budget is not None and self.budget not in bench.budgets:
            raise ValueError(
                f"method {self.label!r}: budget {self.budget!r} must be one of the budgets {bench.budgets}"
            )

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        chosen, budget = _evidence(sample), self.budget
        if budget is None:
            enough = [b for b in bench.budgets if b >= sample["level"]]
            budget = enough[0] if enough else bench.budgets[-1]
        return On(chosen, budget, bench.budgets[0])


@register_method("oracle")
@dataclass(kw_only=True)
class Oracle(Method):
    """The cheapest sufficient allocation of each question: rising budgets on the evidence patches until the answer
    is right.

    It looks at the reward, so a lucky guess counts as right: with K budgets it guesses up to K times. The control is
    ``where: elsewhere``, the same search on as many patches *without* evidence, which can only be lucky; its gain over
    uniform floors is the luck that the oracle contains.
    """

    where: str = "evidence"

    def prepare(self, bench: Bench) -> None:
        if self.where not in ("evidence", "elsewhere"):
            raise ValueError(f"method {self.label!r}: where={self.where!r} must be 'evidence' or 'elsewhere'")

    def answer(self, bench: Bench, samples: Sequence[Sample]) -> list[Answer]:
        best: list[tuple[float, Answer] | None] = [None] * len(samples)
        open_ = list(range(len(samples)))
        for budget in bench.budgets:
            planners = [On(self._chosen(bench, samples[i]), budget, bench.budgets[0]) for i in open_]
            for i, answer in zip(open_, bench([samples[i] for i in open_], planners), strict=True):
                score, kept = bench.reward(answer.text, samples[i]), best[i]
                if kept is None or score > kept[0]:
                    best[i] = (score, answer)
            open_ = [i for i in open_ if (kept := best[i]) is not None and kept[0] < 1.0]
            if not open_:
                break
        return [kept[1] for kept in best if kept is not None]

    def _chosen(self, bench: Bench, sample: Sample) -> list[int]:
        chosen = _evidence(sample)
        if self.where == "evidence":
            return chosen
        rows, columns = sample["grid"]
        others = [i for i in range(rows * columns) if i not in chosen]
        if not others or not chosen:
            return [-1]  # no such patch: everything stays at the floor
        count = min(len(chosen), len(others))
        return bench.rng(sample).choice(others, size=count, replace=False).tolist()
