"""The simulators know their optimum: checked against every feasible super-arm."""

import itertools

import numpy as np
import pytest

from allocator import make_policy
from allocator.simulation.environments import Additive, Concave, Drifting, Product, simulate
from allocator.simulation.streams import Classification, CNTask, Groups

WORLDS = [Additive, Concave, Drifting, Product, Groups]


def best_by_enumeration(question, arms):
    patches = len(question.contexts)
    costs = np.broadcast_to(question.costs, (patches, arms))
    rows, best = np.arange(patches), -np.inf
    for choice in itertools.product(range(arms), repeat=patches):
        index = np.array(choice)
        if question.limit is None or costs[rows, index].sum() <= question.limit:
            best = max(best, question.expected(index))
    return best


@pytest.mark.parametrize("world", WORLDS)
def test_the_optimum_is_the_best_feasible_super_arm(world):
    for seed in range(3):
        stream = world(patches=4, seed=seed, **({"period": 2} if world is Drifting else {}))
        for _ in range(3):
            question = stream.draw()
            assert question.optimum == pytest.approx(best_by_enumeration(question, stream.arms), abs=1e-12)


@pytest.mark.parametrize("task", ["h1", "h2", "h3"])
def test_the_optimum_of_a_subset_task(task):
    stream = CNTask(task=task, seed=1, patches=7, chosen=3)
    for _ in range(5):
        question = stream.draw()
        assert question.optimum == pytest.approx(best_by_enumeration(question, 2), abs=1e-12)
        score = question.contexts @ stream.hidden
        want = {"h1": score, "h2": score**2, "h3": np.cos(np.pi * score)}[task]
        np.testing.assert_allclose(question.arm_means[:, 1], want)
    np.testing.assert_allclose(np.linalg.norm(question.contexts, axis=1), 1.0)
    assert np.linalg.norm(stream.hidden) == pytest.approx(1.0)


@pytest.mark.parametrize("world", [*WORLDS, CNTask])
def test_rewards_have_the_expected_mean_and_streams_repeat(world):
    stream, twin = world(seed=3), world(seed=3)
    question, again = stream.draw(), twin.draw()
    np.testing.assert_array_equal(question.contexts, again.contexts)
    index = np.arange(len(question.contexts)) % stream.arms
    rewards = [stream.reward(question, index) for _ in range(400)]
    spread = stream.noise * (np.sqrt(len(index)) if world is CNTask else 1.0)
    assert np.mean(rewards) == pytest.approx(question.expected(index), abs=4 * spread / 20)
    assert rewards[0] == twin.reward(again, index)


def test_binary_rewards_are_draws_of_the_expected_one():
    stream = Additive(seed=0, binary=True)
    question = stream.draw()
    index = np.full(6, 1)
    rewards = [stream.reward(question, index) for _ in range(2000)]
    assert set(rewards) == {0.0, 1.0}
    assert np.mean(rewards) == pytest.approx(question.expected(index), abs=4 * 0.5 / np.sqrt(2000))


def test_drift_swaps_the_cues_and_groups_differ_in_need():
    stream = Drifting(seed=0, period=3)
    useful = []
    for _ in range(7):
        stream.draw()
        useful.append(int(stream.theta[0].argmax()))
    assert useful == [1, 1, 1, 2, 2, 2, 1]
    needs = np.mean([Groups(seed=s).draw().contexts[:, 1].reshape(2, 3).mean(axis=1) for s in range(50)], axis=0)
    assert needs[0] > 3 * needs[1]


def test_one_reward_for_all_patches_means_one():
    stream = Additive(seed=0)
    with pytest.raises(ValueError, match="has no per-patch reward"):
        stream.feedback(stream.draw(), np.zeros(6, dtype=int), "semi")


def test_a_labelled_stream_shuffles_every_pass_and_pays_one_for_the_label():
    data, labels = np.arange(10.0)[:, None], np.arange(10) % 2
    stream = Classification(data=data, labels=labels)
    passes = [[float(stream.draw().contexts[0, 0]) for _ in range(10)] for _ in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) and passes[0] != passes[1]
    oracle = make_policy("oracle", arms=2)
    for _ in range(20):
        question = stream.draw()
        decision = oracle.select(question.contexts, values=question.arm_means)
        assert stream.reward(question, decision.index) == question.optimum == 1.0
        assert stream.feedback(question, 1 - decision.index, "semi").tolist() == [0.0]


def test_a_policy_that_does_not_learn_leaves_the_trace_of_its_choices():
    trace = simulate(make_policy("uniform", arms=4, arm=0), Additive(seed=0), 5, learn=False)
    assert (trace.cost == 6 * 64).all() and (trace.regret > 0).all() and len(trace.reward) == 5
