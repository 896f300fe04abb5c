"""Learners judged by what they do, over at least ten seeds each."""

import numpy as np
import pytest

from allocator import make_policy
from allocator.simulation.environments import Additive, Product, simulate
from allocator.simulation.streams import Classification
from eval.bandits.split import SplitReward

SEEDS = range(10)


def regrets(name, environment=Additive, rounds=120, **options):
    """Regret per round, [seeds, rounds]; `name` is a registered method or a class."""
    rows = []
    for seed in SEEDS:
        world = environment(seed=seed)
        shape = {"dim": world.dim, "arms": world.arms, "seed": 100 + seed}
        policy = make_policy(name, **shape, **options) if isinstance(name, str) else name(**shape, **options)
        rows.append(simulate(policy, world, rounds).regret)
    return np.array(rows)


def clearly_less(a, b):
    """Paired over seeds: mean difference below zero by three standard errors."""
    difference = a.sum(axis=1) - b.sum(axis=1)
    return difference.mean() + 3 * difference.std(ddof=1) / np.sqrt(len(difference)) < 0


@pytest.fixture(scope="module")
def random_regret():
    return regrets("random")


@pytest.fixture(scope="module")
def thompson_regret():
    return regrets("thompson")


@pytest.mark.parametrize(
    ("name", "options"),
    [("ucb", {"alpha": 0.03}), ("epsilon_greedy", {}), ("boltzmann", {"tau": 0.02})],
)
def test_every_learner_beats_random(name, options, random_regret):
    regret = regrets(name, **options)
    assert clearly_less(regret, random_regret)
    if name == "ucb":  # the others explore at a constant rate for ever
        assert clearly_less(regret[:, 80:], 0.7 * regret[:, :40])


class Clusters(Classification):
    """Five classes around five means, one patch at a time, one reward per patch."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        labels = rng.integers(5, size=150)
        super().__init__(data=np.eye(5)[labels] + 0.2 * rng.normal(size=(150, 5)), labels=labels, seed=seed)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linucb", {}),
        ("lints", {}),
        ("linucb_hybrid", {}),
        ("c2ucb", {"arm_features": np.eye(5)}),
        ("neural_ucb", {"nu": 0.02, "width": 8, "rate": 1e-2}),
        ("neural_ts", {"nu": 0.02, "width": 8, "rate": 1e-2}),
    ],
)
def test_regret_of_semi_bandits_is_sublinear(name, options):
    regret = regrets(name, Clusters, 150, **options)
    assert clearly_less(regret[:, 100:], 0.5 * regret[:, :50])
    assert regret[:, 100:].mean() < 0.15  # random play loses .8


def test_regret_of_thompson_is_sublinear_and_below_random(thompson_regret, random_regret):
    assert clearly_less(thompson_regret, 0.6 * random_regret)
    thirds = np.split(thompson_regret, 3, axis=1)
    assert clearly_less(thirds[2], 0.5 * thirds[0])  # a fixed policy would lose the same in each


def test_aggregated_thompson_beats_splitting_the_reward(thompson_regret):
    assert clearly_less(thompson_regret, regrets(SplitReward))
    assert clearly_less(regrets("thompson", Product), regrets(SplitReward, Product))


def test_zero_prior_does_not_starve():
    """Floor-relative features and theta0 = 0 make every first value 0: a greedy learner never leaves the floor."""
    world = Additive(seed=0)
    for name in ("thompson", "ucb", "epsilon_greedy", "boltzmann"):
        policy = make_policy(name, dim=world.dim, arms=world.arms)
        tried = np.zeros(world.arms)
        for _ in range(40):
            question = world.draw()
            decision = policy.select(question.contexts, costs=question.costs, limit=question.limit)
            policy.update(decision, world.reward(question, decision.index))
            tried += np.bincount(decision.index, minlength=world.arms)
        assert (tried[1:] >= 3).all(), (name, tried)
    greedy = make_policy("thompson", dim=world.dim, arms=world.arms)
    question = world.draw()
    decision = greedy.select(question.contexts, costs=question.costs, limit=question.limit, explore=False)
    assert (decision.index == 0).all()  # the trap that exploration escapes


def test_a_good_prior_pays_at_once_and_a_wrong_one_is_overcome(thompson_regret):
    cue = Additive(seed=0).theta / Additive.patches
    cue[:, [0, *range(2, 6)]] = 0.0  # a score heuristic: the cue alone, without the distractors' true weights
    assert clearly_less(regrets("thompson", prior_mean=cue, prior_precision=30.0), thompson_regret)
    wrong = regrets("thompson", rounds=240, prior_mean=-cue, prior_precision=3.0)
    assert clearly_less(wrong[:, 160:], 0.5 * wrong[:, :80])


def test_the_reward_must_carry_the_cost():
    """Without a price and without a limit spending is free and grows; at a price tokens are saved."""
    spent = {}
    for price in (0.0, 0.1 / 400):
        spent[price] = []
        for seed in SEEDS:
            world = Additive(seed=seed, limit=1.0)
            policy = make_policy("thompson", dim=world.dim, arms=world.arms, seed=seed)
            spent[price].append([simulate(policy, world, 80, price=price).cost[-30:].mean()])
    assert clearly_less(np.array(spent[0.1 / 400]), 0.7 * np.array(spent[0.0]))
