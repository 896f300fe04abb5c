"""A policy under study: single sources of its knowledge silenced, tensions switched on, budgets closed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from arr_coc.attending.planners import Contexts, PolicyPlanner
from arr_coc.balancing import Balance, Balancer, balance_config
from arr_coc.knowing import Scorer
from arr_coc.scene.contract import Scene

from .explain import EXCLUDED

SOURCES = {
    "propositional": "information in the patch",
    "perspectival": "what stands out",
    "participatory": "where the question looks",
    "detail": "detail that a budget destroys",
    "doubt": "doubt about the answer of the glance",
    "price": "price of tokens",
}
"""What a policy goes by; each can be silenced."""
TENSIONS = {
    "price": "compress ↔ particularise: moves the price",
    "coverage": "focus ↔ diversify: moves single patches",
}
"""What balancing can add to a greedy choice. Its third tension, exploit ↔ explore, acts while a policy explores."""


class Silent(Scorer):
    """A scorer that tells no patch from another: all zero."""

    def __init__(self, name: str) -> None:
        self.name = name

    def score(self, scene: Scene) -> Tensor:
        return torch.zeros(len(scene.patches))


class Everywhere(Silent):
    """A look that rests on all cells alike: as if the question did not say where."""

    reads_question = True

    def __init__(self, name: str, more_readings: tuple[str, ...] = ()) -> None:
        super().__init__(name)
        self.more_readings = more_readings  # as many slots as the scorer that it silences

    def score(self, scene: Scene) -> Tensor:
        sizes = torch.tensor([rows * columns for rows, columns in scene.glance_grids])
        return sizes / sizes.sum()

    def readings(self, scene: Scene) -> dict[str, Tensor]:
        return dict.fromkeys(self.more_readings, self.score(scene))


class StudyContexts(Contexts):
    """Contexts in which some sources are silent; same slots, so that a learned policy still fits."""

    def __init__(self, contexts: Contexts, off: Collection[str]) -> None:
        scorers = [_silenced(scorer) if scorer.name in off else scorer for scorer in contexts.scorers]
        super().__init__(
            contexts.budgets, scorers, confidence=contexts.confidence and "doubt" not in off, seed=contexts.seed,
            detail=contexts.measured and "detail" not in off, slots=contexts.kind,
            trust={"relevance_floor": contexts.floor, "doubt": contexts.knots},
            tokenizer=contexts.between.tokenizer,
        )  # fmt: skip


class StudyPlanner(PolicyPlanner):
    """A planner like another one, with changes.

    Parameters
    ----------
    planner
        Whose policy chooses.
    off
        Keys of `SOURCES` that are silent.
    tensions
        Keys of `TENSIONS` that act; those of the planner's configuration by default.
    allowed
        Budgets that may be chosen; all by default.

    Raises
    ------
    ValueError
        If no budget is left.
    """

    def __init__(
        self,
        planner: PolicyPlanner,
        off: Collection[str] = (),
        tensions: Collection[str] | None = None,
        allowed: Collection[int] | None = None,
    ) -> None:
        super().__init__(planner.config, StudyContexts(planner.contexts, off), planner.policy)
        self.thorough = True
        self.price, self.explore = 0.0 if "price" in off else planner.price, planner.explore
        self.allowed = [k for k, b in enumerate(self.config.budgets) if allowed is None or b in allowed]
        if not self.allowed:
            raise ValueError(f"none of the budgets {self.config.budgets} is allowed; allow at least one")
        if tensions is not None:
            self.balancer = Balancer(balance_config(tensions), self.contexts.relevance.join)

    def terms(self, scene: Scene, balance: Balance) -> dict[str, Any]:
        open_ = scene.costs[:, self.allowed]
        # A budget that costs as much as an allowed one is that one.
        closed = (scene.costs[:, :, None] != open_[:, None, :]).all(-1)
        terms = super().terms(scene, balance)
        return {**terms, "coverage": terms["coverage"].masked_fill(closed, 1000 * EXCLUDED), "floor": open_[:, 0]}


def _silenced(scorer: Scorer) -> Scorer:
    return Everywhere(scorer.name, scorer.more_readings) if scorer.reads_question else Silent(scorer.name)
