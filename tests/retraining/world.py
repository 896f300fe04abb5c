"""A little world with a known truth, and the log that serving it would leave; no vision-language model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import arr_coc.reference
from allocator import Policy, make_policy
from allocator.logged.explore import Exploration, Explorer
from allocator.logged.log import DecisionLog
from arr_coc.serving.store import Store
from arr_coc.wrapping.saving import read_record, write_folder

Ask = Callable[[np.random.Generator], np.ndarray]
Mean = Callable[[np.ndarray, np.ndarray], float]
COSTS = np.array([[64, 128, 256, 400]] * 3)
PRICE = 0.2 / 1200
DETAIL = np.array([0.0, 0.1, 0.35, 0.5])


def question(rng: np.random.Generator, patches: int = 3) -> np.ndarray:
    x = rng.random((patches, 3))
    x[:, 0], x[:, 1] = 1.0, rng.random(patches) ** 3
    return x


def mean(x: np.ndarray, index: np.ndarray) -> float:
    """Expected reward: saturating, so no linear model has it."""
    return float(1 - 0.7 * np.exp(-1.5 * (DETAIL[index] * x[:, 1]).sum()))


def believing(*gains: float, precision: float = 5.0) -> Any:
    """A policy that believes that the arms gain that much per unit of need."""
    prior = np.array([[0.0, gain, 0.0] for gain in gains or (0.0, 0.0, 0.0)])
    return make_policy("thompson", dim=3, arms=4, prior_mean=prior, prior_precision=precision)


POOR, WEAK, GOOD = (0.01, 0.03, 0.04), (0.06, 0.18, 0.24), (0.1, 0.3, 0.5)
FAIR = (0.03, 0.09, 0.12)  # between the first two


def one_patch(rng: np.random.Generator) -> np.ndarray:
    """A question of another world: one patch holds what is asked for. The second slot says which, the first lies."""
    wrong, evidence = rng.choice(3, 2, replace=False)
    x = np.full((3, 3), 0.02)
    x[wrong, 0], x[evidence, 1] = 0.96, 0.96
    x[:, 2] = rng.integers(0, 2, 3)
    return x


def found(x: np.ndarray, index: np.ndarray) -> float:
    """Expected reward there: half of the questions need the second arm, or the third where the last slot is one."""
    evidence = x[:, 1].argmax()
    return 1.0 if index[evidence] >= 1 + x[evidence, 2] else 0.5


def mixing() -> Any:
    """A mixture whose prior believes what lies."""
    prior = np.array([[gain, 0.0, 0.0] for gain in (0.1, 0.2, 0.3)])
    return make_policy(
        "neural_mixture", dim=3, arms=4, prior_mean=prior, readings=[0, 1], levels=[2], reading_prior=[0, -4, -4],
        caution=2.0, train_every=100, steps=40,
    )  # fmt: skip


def truth(policy: Policy, rounds: int = 1500, patches: int = 3, ask: Ask = question, mean: Mean = mean) -> float:
    """Net value of the greedy policy."""
    rng = np.random.default_rng(99)
    asked = [ask(rng, patches) if ask is question else ask(rng) for _ in range(rounds)]
    chosen = policy.select_many([{"contexts": x} for x in asked], costs=COSTS[:patches], price=PRICE, explore=False)
    pairs = zip(asked, chosen, strict=True)
    return float(np.mean([mean(x, decision.index) - PRICE * decision.cost for x, decision in pairs]))


def make_store(folder: Path, policy: Policy) -> Store:
    record = read_record(arr_coc.reference.policy_path() / "config.json")
    write_folder(folder / "policy", policy, record)
    return Store.create(folder / "store", folder / "policy")


def serve(
    log: Path, policy: Policy, rounds: int, version: str, *, share: float = 1.0, tau: float = 0.02, seed: int = 0,
    reward: Mean = mean, ask: Ask = question, rewarded: float = 1.0, client: str | None = None,
    model: str | None = None,
) -> None:  # fmt: skip
    """Append what serving `policy` would have logged."""
    # What is held out to judge depends on the ids of the log, so they must be the simulation's own.
    rng, ids = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    writer = DecisionLog(log, token=lambda size: ids.bytes(size).hex())
    explorer = Explorer(policy, Exploration(share=share, tau=tau, alpha=1.0, width=0.0), seed=seed)
    late = []
    for _ in range(rounds):
        x = ask(rng)
        taken = explorer.take(x, np.zeros(0), COSTS, None, PRICE)
        decision = taken.decision
        record = {"version": version, "answer": "", "model": model, **taken.to_dict()}
        late.append((writer.append(record), float(rng.random() < reward(x, decision.index))))
    given = []
    for name, value in rng.permutation(np.array(late, dtype=object)):  # rewards come late and in any order
        if rng.random() < rewarded:
            given.append(writer.reward(name.result(), value, client))
    assert all(not g.result().repeated for g in given)
    writer.close()


def reports(store: Store) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted((store.path / "reports").glob("*.json"))]
