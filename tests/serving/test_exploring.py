"""Exploration: the logged propensity is the exact probability of the whole allocation, and its risk is bounded."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator import make_policy
from allocator.logged.explore import Exploration, Explorer
from allocator.problem import pose

COSTS = np.array([[64, 128, 256, 400]] * 3)


NAMES = ["thompson", "neural_mixture", "neural_linear"]


@functools.cache
def learned(seed: int = 0, dim: int = 3, name: str = "thompson") -> Any:
    """A policy that knows something; explorers only read it."""
    options = {} if name == "thompson" else {"train_every": 20, "steps": 20}
    policy = make_policy(name, dim=dim, arms=4, covariates=1, seed=seed, **options)
    rng = np.random.default_rng(seed)
    for _ in range(60):
        x = rng.random((3, dim))
        decision = policy.select(x, [0.5], COSTS, price=1e-4)
        policy.update(decision, float(np.clip(0.5 + 0.1 * decision.index.sum() * x[0, 0], 0, 1)))
    return policy


def law(greedy: Any, costs: np.ndarray, limit: int | None, exploration: Exploration) -> dict[tuple[int, ...], float]:
    """mu by enumeration: nothing of the code under test."""
    first = [[k for k in range(costs.shape[1]) if costs[i, k] not in costs[i, :k]] for i in range(len(costs))]
    choices = []
    for i, arms in enumerate(first):
        odds = {k: math.exp((greedy.values[i, k] - greedy.values[i].max()) / exploration.tau) for k in arms}
        u = exploration.uniform
        choices.append({k: (1 - u) * o / sum(odds.values()) + u / len(arms) for k, o in odds.items()})
    weights = {}
    for index in itertools.product(*first):
        rows = np.arange(len(costs))
        if limit is None or costs[rows, index].sum() <= limit:
            weights[index] = math.prod(choices[i][k] for i, k in enumerate(index))
    total = sum(weights.values())
    mu = {index: exploration.share * weight / total for index, weight in weights.items()}
    mu[tuple(greedy.index.tolist())] += 1 - exploration.share
    return mu


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    limit=st.sampled_from([None, 192, 300, 500, 700, 1200]),
    share=st.sampled_from([0.05, 0.5, 1.0]),
    tau=st.sampled_from([0.02, 0.05, 1.0]),
    ragged=st.booleans(),
    name=st.sampled_from(NAMES),
)
def test_propensities_are_those_of_brute_force(
    seed: int, limit: int | None, share: float, tau: float, ragged: bool, name: str
) -> None:
    policy, rng = learned(seed % 5, name=name), np.random.default_rng(seed)
    exploration = Exploration(share=share, tau=tau, alpha=1.0)
    explorer = Explorer(policy, exploration, seed=seed)
    costs = COSTS.copy()
    if ragged:
        costs[1] = [64, 100, 100, 100]  # three budgets that are one allocation
    x = rng.random((3, 3))
    greedy = policy.select(x, [0.5], costs, limit, 1e-4, explore=False)
    mu = law(greedy, costs, limit, exploration)
    assert sum(mu.values()) == pytest.approx(1.0)
    for _ in range(20):
        taken = explorer.take(x, [0.5], costs, limit, 1e-4)
        decision = taken.decision
        assert math.exp(decision.log_propensity) == pytest.approx(mu[tuple(decision.index.tolist())], rel=1e-9)
        assert taken.explored or (decision.index == greedy.index).all()
        assert (decision.costs == costs[np.arange(3), decision.index]).all()
        assert limit is None or decision.cost <= limit
        if decision.probabilities is not None:
            assert decision.probabilities.sum(axis=1) == pytest.approx(np.ones(3))


def test_draws_follow_the_law() -> None:
    policy = learned()
    exploration = Exploration(share=0.5, tau=0.2, alpha=1.0)
    explorer = Explorer(policy, exploration, seed=1)
    x = np.random.default_rng(3).random((3, 3))
    greedy = policy.select(x, [0.5], COSTS, 700, 1e-4, explore=False)
    mu, n = law(greedy, COSTS, 700, exploration), 1000
    counts = Counter(tuple(explorer.select(x, [0.5], COSTS, 700, 1e-4).index.tolist()) for _ in range(n))
    chi2 = sum((counts[index] - n * p) ** 2 / (n * p) for index, p in mu.items() if n * p >= 5)
    cells = sum(n * p >= 5 for p in mu.values())
    assert set(counts) <= set(mu) and chi2 < cells + 5 * math.sqrt(2 * cells)


def test_coverage_and_temperature_of_balancing_are_heard() -> None:
    policy, x = learned(), np.random.default_rng(0).random((3, 3))
    explorer = Explorer(policy, Exploration(share=1.0, alpha=1.0), seed=0)
    coverage = np.zeros((3, 4))
    coverage[2, 1] = 9.0
    taken = explorer.take(x, [0.5], COSTS, None, 1e-4, 0.0, coverage)
    assert taken.decision.index[2] == 1 and taken.decision.log_propensity == 0.0  # temperature 0: no exploration
    assert taken.law is None and (taken.coverage == coverage).all()
    taken = explorer.take(x, [0.5], COSTS, None, 1e-4, 3.0, coverage)
    assert taken.law is not None and taken.law.tau == pytest.approx(0.06)


@pytest.mark.parametrize("name", NAMES)
def test_the_policy_is_only_read(name: str) -> None:
    policy = learned(name=name)
    before = policy.state_dict()
    explorer = Explorer(policy, Exploration(share=1.0), seed=0)
    for _ in range(5):
        explorer.select(np.ones((3, 3)), [0.5], COSTS, None, 1e-4)
    after = policy.state_dict()
    assert before["generator"] == after["generator"] and before["rounds"] == after["rounds"]
    assert all(np.array_equal(before["tensors"][k], after["tensors"][k]) for k in before["tensors"])


@pytest.mark.parametrize("name", NAMES)
def test_no_exploration_before_anything_is_known_and_none_beyond_the_risk(name: str) -> None:
    fresh = make_policy(name, dim=3, arms=4, covariates=1)
    explorer = Explorer(fresh, Exploration(share=1.0), seed=0)
    for _ in range(20):
        taken = explorer.take(np.ones((3, 3)), [0.5], COSTS, None, 1e-4)
        assert taken.decision.log_propensity == 0.0 and not taken.explored
    policy, x = learned(name=name), np.random.default_rng(0).random((3, 3))
    none = Explorer(policy, Exploration(share=1.0, alpha=0.0, tau=1.0), seed=0)
    assert not any(none.take(x, [0.5], COSTS, None, 1e-4).explored for _ in range(20))


def expected_reward(policy: Any, x: np.ndarray, index: np.ndarray) -> float:
    """The reward that a policy expects of an allocation, by its own formula."""
    if policy.name != "neural_mixture":
        return float(policy._features(x, np.array([0.5]), index) @ policy.posterior.mean.numpy())
    floor = 1 - 1 / (1 + np.exp(-policy.weights["need"].numpy() @ [1.0, 0.5]))
    problem = pose(policy, x, [0.5], COSTS, None, 0.0, 0.0, None)
    return float((floor + policy._member_values(problem)[:, np.arange(len(x)), index].sum(axis=1)).mean())


@pytest.mark.parametrize("name", NAMES)
def test_the_expected_reward_stays_within_alpha_of_the_greedy_policys(name: str) -> None:
    """The guarantee itself, under the model's own mean: sum E[reward] >= (1 - alpha) sum greedy reward, always."""
    policy, rng = learned(name=name), np.random.default_rng(0)
    exploration = Exploration(share=0.8, tau=1.0, alpha=0.02, width=0.0)
    explorer = Explorer(policy, exploration, seed=0)
    expected = greedy_sum = 0.0
    explored = 0
    for _ in range(300):
        x = rng.random((3, 3))
        greedy = policy.select(x, [0.5], COSTS, None, 1e-4, explore=False)
        before = explorer.balance
        decision = explorer.select(x, [0.5], COSTS, None, 1e-4)
        base = expected_reward(policy, x, greedy.index)
        gated = bool(decision.log_propensity == 0.0)
        mean = base
        if not gated:
            mean = sum(
                p * expected_reward(policy, x, np.array(index))
                for index, p in law(greedy, COSTS, None, exploration).items()
            )
        expected, greedy_sum, explored = expected + mean, greedy_sum + base, explored + (not gated)
        assert expected >= (1 - exploration.alpha) * greedy_sum - 1e-9
        booked = float(policy.weigh((explorer.balance - before)[None])[0][0])
        assert booked == pytest.approx(mean - (1 - exploration.alpha) * base)
    assert 0 < explored < 300  # the bound was reached and held


@pytest.mark.parametrize("name", ["uniform", "heuristic", "linucb"])
def test_only_policies_that_weigh_allocations_are_served(name: str) -> None:
    options = {"uniform": {"arm": 0, "arms": 4}, "heuristic": {"prior_mean": np.zeros((3, 2))}}
    policy = make_policy(name, **options.get(name, {"dim": 3, "arms": 4}))
    with pytest.raises(ValueError, match="can't be served"):
        Explorer(policy, Exploration())


@pytest.mark.parametrize("bad", [{"share": 1.5}, {"share": float("nan")}, {"tau": 0}, {"alpha": -1}, {"width": -0.1}])
def test_bad_exploration_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Exploration(**bad)
