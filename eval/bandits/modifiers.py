"""What the modifiers are for, which is not regret: each beside the same policy without it, on the same streams."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from allocator.policy import Policy
from allocator.registry import make_policy
from allocator.simulation.environments import Additive
from allocator.simulation.streams import Groups
from allocator.trackers.price import PriceTracker
from allocator.trackers.share import ShareTracker

Measures = dict[str, float]
SHARE, TARGET, RISK = 0.5, 900.0, 0.1


def _thompson(world: Any, seed: int) -> Policy:
    return make_policy("thompson", dim=world.dim, arms=world.arms, seed=1000 + seed)


def shares(seed: int, rounds: int, modified: bool) -> Measures:
    """Tokens of a group of patches that needs little detail, with and without a long-run share of one half."""
    world = Groups(seed=seed)
    policy = _thompson(world, seed)
    tracker = ShareTracker(shares=[0.0, SHARE if modified else 0.0], eta=5e-4)
    costs = np.tile(world.costs, (world.patches, 1))
    regret = 0.0
    for _ in range(rounds):
        question = world.draw()
        coverage = tracker.coverage(world.groups, costs)
        decision = policy.select(question.contexts, costs=costs, limit=question.limit, coverage=coverage)
        policy.update(decision, world.reward(question, decision.index))
        tracker.update(world.groups, decision)
        regret += question.optimum - question.expected(decision.index)
    return {
        "share of the tokens for the poor group": tracker.spent[1] / tracker.spent.sum(),
        "regret per round": regret / rounds,
    }


def price(seed: int, rounds: int, modified: bool) -> Measures:
    """Mean tokens of the last half of a stream without a limit, with and without a price that tracks 900."""
    world = Additive(seed=seed, limit=1.0)
    policy = _thompson(world, seed)
    tracker = PriceTracker(target=TARGET, eta=2e-8)
    spent, rewards = np.zeros(rounds), np.zeros(rounds)
    for t in range(rounds):
        question = world.draw()
        decision = policy.select(question.contexts, costs=question.costs, price=tracker.price if modified else 0.0)
        policy.update(decision, world.reward(question, decision.index))
        spent[t], rewards[t] = decision.cost, question.expected(decision.index)
        tracker.update(decision.cost)
    return {"tokens per decision": spent[rounds // 2 :].mean(), "reward per decision": rewards[rounds // 2 :].mean()}


def conservative(seed: int, rounds: int, modified: bool) -> Measures:
    """The worst that cumulative reward ever was, as a share of the baseline's: uniform 256 earns .9 of it at least."""
    world = Additive(seed=seed, limit=1.0)
    options: dict[str, Any] = {"dim": world.dim, "arms": world.arms, "seed": 1000 + seed}
    inner = {"prior_mean": np.full((3, 6), -0.1), "prior_precision": 3.0}  # a prior that starts with the wrong foot
    policy = (
        make_policy("conservative", **options, alpha=RISK, baseline_options={"arm": 2}, inner_options=inner)
        if modified
        else make_policy("thompson", **options, **inner)
    )
    base, total, worst = 0.0, 0.0, np.inf
    for _ in range(rounds):
        question = world.draw()
        decision = policy.select(question.contexts, costs=question.costs, price=0.1 / 400 / 6)
        policy.update(decision, world.reward(question, decision.index))
        total += question.expected(decision.index)
        base += question.expected(np.full(world.patches, 2))
        worst = min(worst, total / base)
    return {"worst share of the baseline's reward": float(worst), "final share": total / base}


MODIFIERS: dict[str, tuple[str, Callable[[int, int, bool], Measures]]] = {
    "share tracker, at least 50 %": ("thompson", shares),
    "price tracker, 900 tokens": ("thompson", price),
    "conservative, 90 % of uniform 256": ("thompson, misled prior", conservative),
}


def compare(seeds: int, rounds: int) -> list[dict[str, Any]]:
    """One row per modifier and measure: the values of every seed without and with it."""
    rows = []
    for name, (policy, play) in MODIFIERS.items():
        found = {
            kind: [play(seed, rounds, kind == "with it") for seed in range(seeds)] for kind in ("without", "with it")
        }
        for measure in found["without"][0]:
            values = {kind: [float(each[measure]) for each in of] for kind, of in found.items()}
            rows.append({"modifier": name, "around": policy, "measure": measure, **values})
            means = {kind: round(float(np.mean(of)), 4) for kind, of in values.items()}
            print(f"{name:35s} {measure:40s} {means}", file=sys.stderr, flush=True)
    return rows
