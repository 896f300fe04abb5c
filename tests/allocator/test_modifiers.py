"""Each modifier by what it is for: windows, drift tests, conservative play, shares."""

import dataclasses

import numpy as np
import pytest
import torch

from allocator import ShareTracker, make_policy
from allocator.simulation.environments import Additive, Drifting, simulate
from allocator.simulation.streams import Groups
from allocator.trackers.drift import PageHinkley


def test_a_window_and_its_drift_test_follow_a_change():
    late = {"thompson": [], "windowed": []}
    for seed in range(5):
        for name, options in (("thompson", {}), ("windowed", {"window": 150, "drift": 0.6})):
            world = Drifting(seed=seed, period=150)
            policy = make_policy(name, dim=world.dim, arms=world.arms, seed=seed, **options)
            late[name].append(simulate(policy, world, 300).regret[200:].mean())
    assert np.mean(late["windowed"]) < 0.75 * np.mean(late["thompson"])


def test_a_window_remembers_exactly_its_last_rewards():
    policy = make_policy("windowed", dim=6, arms=4, window=7)
    plain = make_policy("thompson", dim=6, arms=4)
    world, played = Additive(seed=0), []
    for _ in range(20):
        question = world.draw()
        decision = policy.select(question.contexts, costs=question.costs, limit=question.limit)
        played.append((decision, world.reward(question, decision.index)))
        policy.update(*played[-1])
    for decision, reward in played[-7:]:
        plain.update(decision, reward)
    torch.testing.assert_close(policy.policy.posterior.gram, plain.posterior.gram)
    torch.testing.assert_close(policy.policy.posterior.moment, plain.posterior.moment)


def test_the_drift_test_alarms_on_a_fall_and_not_on_a_rise():
    def alarms(levels):
        policy = make_policy("windowed", dim=1, arms=2, drift=1.0, keep=2)
        rng = np.random.default_rng(0)
        for level in levels:
            decision = policy.select(np.ones((2, 1)))
            policy.update(decision, level + 0.05 * rng.standard_normal())
        return policy.alarms, len(policy.recent)

    assert alarms([0.5] * 60 + [0.9] * 40) == (0, 100)
    found, remembered = alarms([0.9] * 60 + [0.5] * 40)
    assert found == 1 and remembered < 45


def test_conservative_play_keeps_its_promise_and_still_learns():
    late = []
    for seed in range(5):
        world = Additive(seed=seed, limit=1.0)
        policy = make_policy(
            "conservative", dim=world.dim, arms=world.arms, seed=seed, alpha=0.1, baseline_options={"arm": 2}
        )
        price, total, base = 0.1 / 400 / 6, 0.0, 0.0
        played = []
        for _ in range(150):
            question = world.draw()
            decision = policy.select(question.contexts, costs=question.costs, limit=question.limit, price=price)
            policy.update(decision, world.reward(question, decision.index))
            total += question.expected(decision.index)
            base += question.expected(np.full(6, 2))
            assert total >= 0.88 * base  # 0.9 promised with high probability
            played.append((decision.index != 2).any())
        late.append(np.mean(played[-50:]))
    assert np.mean(late) > 0.5  # it does leave the baseline
    with pytest.raises(ValueError, match="must be a linear one, 'neural_linear' is not"):
        make_policy("conservative", dim=2, arms=2, inner="neural_linear")
    with pytest.raises(ValueError, match="modifiers do not nest"):
        make_policy("windowed", dim=2, arms=2, inner="conservative")


@pytest.mark.parametrize("inner", ["linucb", "c2ucb", "linucb_hybrid", "ucb"])
def test_the_conservative_condition_is_that_of_the_paper(inner):
    """Kazerouni et al., algorithm 2, with the sums over all rounds written out for the joint model."""
    semi = inner != "ucb"
    options = {"inner": inner, "confidence_width": 0.1, "baseline_options": {"arm": 1}, "alpha": 0.4}
    policy = make_policy("conservative", dim=2, arms=3, **options)
    rng, history, fell_back = np.random.default_rng(0), [], []
    for _ in range(40):
        x = rng.random((3, 2))
        candidate = policy.policy.select(x)
        decision = policy.select(x)
        base = dataclasses.replace(candidate, index=np.ones(3, dtype=np.int64))
        base = dataclasses.replace(base, features=policy.policy._features(x, np.zeros(0), base.index))

        def phi(d):
            if inner != "linucb":
                return d.features if inner == "ucb" else d.features.sum(axis=0)
            return np.concatenate([d.contexts[d.index == arm].sum(axis=0) for arm in range(3)])

        at_stake = phi(candidate) - 0.6 * phi(base)
        at_stake = at_stake + sum((phi(d) - 0.6 * phi(b) for d, b in history), np.zeros_like(at_stake))
        A = torch.block_diag(*(p.A for p in policy.model._posteriors())).numpy()
        theta = np.linalg.solve(A, torch.cat([p.b for p in policy.model._posteriors()]).numpy())
        safe = at_stake @ theta - 0.1 * np.sqrt(at_stake @ np.linalg.solve(A, at_stake)) >= 0
        np.testing.assert_array_equal(decision.index, candidate.index if safe else base.index)
        fell_back.append(not safe)
        history.append((decision, base))
        np.testing.assert_allclose(policy.balance, sum(phi(d) - 0.6 * phi(b) for d, b in history), atol=1e-9)
        gains = x.sum(axis=1) * np.array([0.1, 0.5, 0.35])[decision.index]
        policy.update(decision, gains if semi else gains.sum())
    assert 0 < np.mean(fell_back) < 1


def test_conservative_propensities_are_those_of_what_is_played():
    """A drawn candidate is played only if it is safe: then its propensity holds, else nobody knows the baseline's."""
    options = {"inner": "boltzmann", "inner_options": {"tau": 0.5}, "baseline_options": {"arm": 0}, "alpha": 0.05}
    policy = make_policy("conservative", dim=2, arms=3, confidence_width=0.02, **options)
    rng, chooser = np.random.default_rng(0), make_policy("random", arms=3, seed=5)
    for _ in range(60):
        x = rng.random((2, 2))
        decision = chooser.select(x)
        policy.update(decision, 0.5 + float(np.array([0.0, 0.1, -0.2])[decision.index].sum()))
    x, counts, claimed, rounds = np.full((2, 2), 0.5), {}, {}, 1500
    for _ in range(rounds):
        policy.balance.zero_()
        decision = policy.select(x)
        key = tuple(decision.index.tolist())
        counts[key], claimed[key] = counts.get(key, 0) + 1, decision.propensity
        assert decision.probabilities is None and decision.policy == "conservative"
    assert len(counts) < 9  # some candidates were not safe
    assert claimed.pop((0, 0)) is None and len(claimed) > 1
    for key, p in claimed.items():
        assert counts[key] / rounds == pytest.approx(p, abs=4.5 * np.sqrt(p / rounds))
    greedy = policy.select(x, explore=False)
    assert greedy.propensity == 1.0


def test_the_drift_test_raises_false_alarms_as_seldom_as_it_says():
    """The average run length of the docstring, by simulation on stationary rewards."""
    for binary, drift, slack, rounds, most in ((False, 0.6, 0.02, 20000, 3), (True, 8.0, 0.1, 20000, 6)):
        rng = np.random.default_rng(0)
        test = PageHinkley(drift, slack)
        rewards = (rng.random(rounds) < 0.5) * 1.0 if binary else 0.5 + 0.05 * rng.standard_normal(rounds)
        assert sum(test.update(float(reward)) for reward in rewards) <= most


def test_shares_keep_a_poor_group_from_starving():
    got = {}
    for shares in ([0.0, 0.0], [0.0, 0.4]):
        world, policy = Groups(seed=0), make_policy("heuristic")
        tracker = ShareTracker(shares=shares, eta=2e-3)
        for _ in range(200):
            question = world.draw()
            values = question.contexts[:, 1:2] * np.array([0.0, 0.35, 0.8, 1.0])
            costs = np.tile(question.costs, (6, 1))
            coverage = tracker.coverage(world.groups, costs)
            decision = policy.select(values=values, costs=costs, limit=question.limit, coverage=coverage)
            tracker.update(world.groups, decision)
        got[shares[1]] = tracker.spent[1] / tracker.spent.sum()
    assert got[0.0] < 0.36
    assert 0.39 < got[0.4] < 0.46  # a floor on the share, not a target


def test_the_share_tracker_resumes_and_refuses():
    tracker = ShareTracker(shares=[0.2, 0.3], eta=0.1)
    decision = make_policy("fixed", allocation=[1, 0]).select(np.ones((2, 1)), costs=[1, 9])
    tracker.update([0, 1], decision)
    twin = ShareTracker(shares=[1.0, 0.0], eta=9.0)
    twin.load_state_dict(tracker.state_dict())
    assert twin.state_dict() == tracker.state_dict()
    before = tracker.state_dict()
    free = make_policy("fixed", allocation=[0, 0]).select(np.ones((2, 1)), costs=[0, 9])
    tracker.update([0, 1], free)
    assert tracker.state_dict() == before  # where nothing is spent nobody falls behind
    with pytest.raises(ValueError, match="groups must be 0 to 1"):
        tracker.update([0, 2], decision)
    with pytest.raises(ValueError, match="3 groups were given"):
        tracker.update([0, 1, 1], decision)
    with pytest.raises(ValueError, match="queues must be finite"):
        tracker.load_state_dict({**before, "queues": [0.0, float("nan")]})
    with pytest.raises(ValueError, match="add up to at most 1"):
        ShareTracker(shares=[0.8, 0.8], eta=1.0)
    assert tracker.state_dict() == before
