"""Why a patch got its budget: scores, context, the value of each budget, the choice and its runner-up.

Plain data read off a plan and the scene it was made from; the demo shows it, and whoever debugs a policy can print it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from arr_coc.attending.planners import PolicyPlanner
from arr_coc.knowing.detail import scene_detail_loss
from arr_coc.scene.contract import Planner

if TYPE_CHECKING:
    from arr_coc.asking.ask import Asked

EXCLUDED = -1e6
"""Values at or below this mark a budget that was not open to choice."""


@dataclass
class PatchReport:
    """What is known of one patch, and what was made of it.

    Attributes
    ----------
    budget, realised
        Nominal budget, and the tokens really spent.
    costs
        K tokens that each budget really spends here.
    scores
        Per scorer one number in [0, 1].
    detail
        K shares of the patch's detail that each budget destroys; empty where the planner saw no pixels.
    gains
        K rewards that the policy expects beyond those of the first open budget, before tokens are charged; ``None``
        for a budget not open to choice. Empty without a policy that values budgets.
    values
        The same with tokens charged: what the oracle maximised.
    runner_up
        The budget of the next best value; ``None`` where there is none.
    margin
        By how much the chosen value exceeds the runner-up's; negative where the limit forced the lesser one.
    context
        The context vector by slot name.
    """

    budget: int
    realised: int
    costs: list[int]
    scores: dict[str, float] = field(default_factory=dict)
    detail: list[float] = field(default_factory=list)
    gains: list[float | None] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    runner_up: int | None = None
    margin: float | None = None
    context: dict[str, float] = field(default_factory=dict)


@dataclass
class Explanation:
    """Why an allocation is what it is.

    Attributes
    ----------
    budgets
        The K budgets.
    patches
        One report per patch.
    looks
        Per patch ``[rows, columns]`` of its glance: the share of the question's look that falls on each cell; empty
        where no scorer couples question and patch.
    price
        Reward units that a full-detail image costs; ``None`` without a policy.
    shadow_price
        What a token costs on top because of the limit, in the same units; 0 where the limit does not bind.
    readers
        Names of the scorers that read the question.
    """

    budgets: tuple[int, ...]
    patches: list[PatchReport]
    looks: list[np.ndarray]
    price: float | None
    shadow_price: float
    readers: tuple[str, ...] = ()


def explain(asked: Asked, planner: Planner, budgets: tuple[int, ...]) -> Explanation:
    """Explain one answered question.

    Parameters
    ----------
    asked
        As `arr_coc.asking.ask.ask` returns it.
    planner
        Who planned it.
    budgets
        The K budgets of its configuration.
    """
    scene, allocation, decision = asked.scene, asked.allocation, asked.plan.decision
    contexts = planner.contexts if isinstance(planner, PolicyPlanner) else None
    detail = scene_detail_loss(scene).per_patch.tolist() if scene.pixels is not None else None
    looks: list[np.ndarray] = []
    readers: tuple[str, ...] = ()
    if contexts is not None and contexts.relevance.readers:
        cells = contexts.relevance.cell_map(scene)
        readers = tuple(reader.name for reader in contexts.relevance.readers)
        looks = [
            cell.float().cpu().numpy().reshape(grid) for cell, grid in zip(cells, scene.glance_grids, strict=True)
        ]
    costs = scene.costs.tolist()
    reports = []
    for i, budget in enumerate(allocation.budgets):
        report = PatchReport(budget, allocation.realised[i], costs[i])
        report.scores = {name: score[i] for name, score in allocation.scores.items()}
        report.detail = detail[i] if detail is not None else []
        if decision is not None and contexts is not None:
            _value(report, decision.values[i], decision.price, budgets)
            report.context = dict(zip(contexts.slots, decision.contexts[i].tolist(), strict=True))
        reports.append(report)
    if decision is None or contexts is None:
        return Explanation(tuple(budgets), reports, looks, None, 0.0, readers)
    price, shadow = (float(p) * allocation.full_tokens for p in (decision.price, decision.shadow_price))
    return Explanation(tuple(budgets), reports, looks, price, shadow, readers)


def _value(report: PatchReport, net: np.ndarray, price: float, budgets: tuple[int, ...]) -> None:
    """Fill in what the oracle weighed: ``net`` values ``[K]`` with tokens charged."""
    open_ = net > EXCLUDED
    first = int(np.argmax(open_))
    beyond = net - net[first]
    charged = price * (np.array(report.costs) - report.costs[first])
    report.values = [float(v) if o else None for v, o in zip(beyond, open_, strict=True)]
    report.gains = [float(v) if o else None for v, o in zip(beyond + charged, open_, strict=True)]
    chosen = budgets.index(report.budget)
    # A budget of equal cost is the same choice.
    others = [k for k in np.flatnonzero(open_) if report.costs[k] != report.costs[chosen]]
    if others:
        best = max(others, key=lambda k: float(net[k]))
        report.runner_up, report.margin = budgets[best], float(net[chosen] - net[best])
