"""The contract, for every registered method."""

import copy
import dataclasses
import json
import os

import numpy as np
import pytest
import torch

from allocator import Decision, Policy, make_policy, policy_names, register_policy
from arr_coc.testing.policies import (
    COSTS,
    D,
    M,
    N,
    ask,
    check_decisions,
    check_policy,
    check_resumed,
    problem,
    reward_for,
)  # fmt: skip

K = 4
OPTIONS = {
    "fixed": {"allocation": [1, 1, 0, 2, 0]},
    "heuristic": {"prior_mean": np.ones((K - 1, D)) * 0.1},
    "uniform": {"arm": 1},
    "explore_then_commit": {"exploration": 10},
    "windowed": {"window": 4, "drift": 1.0, "inner_options": {"nu": 0.2, "prior_mean": np.ones((K - 1, D)) * 0.1}},
    "conservative": {"baseline": "heuristic", "baseline_options": {"prior_mean": np.ones((K - 1, D)) * 0.1}},
    **{
        name: {"width": 8, "train_every": 5, "steps": 4}
        for name in policy_names()
        if name.startswith(("neural", "cn_"))
    },
    "neural_mixture": {"members": 3, "train_every": 5, "steps": 4},
}
LEARNERS = ["boltzmann", "epsilon_greedy", "thompson", "ucb"]


def build(name, **options):
    return make_policy(name, **{"dim": D, "arms": K, "covariates": M, "seed": 3, **OPTIONS.get(name, {}), **options})


def play(policy, rounds, start=0):
    decisions = []
    for t in range(start, start + rounds):
        decision = ask(policy, t)
        policy.update(decision, reward_for(policy, decision, float(np.sin(t))))
        decisions.append(decision)
    return decisions


def frozen(policy):
    """Comparable snapshot of the whole state."""
    state = policy.state_dict()
    tensors = {name: tensor.numpy().tobytes() for name, tensor in state.pop("tensors").items()}
    return copy.deepcopy(state), tensors


def assert_same_decision(a, b):
    assert json.dumps(a.to_dict()) == json.dumps(b.to_dict())


@pytest.mark.parametrize("name", policy_names())
class TestContract:
    def test_a_decision_is_feasible_and_complete(self, name):
        check_decisions(build(name), name)
        for decision in play(build(name), 6):
            if name not in ("uniform", "fixed"):  # those are told which arm to name
                assert decision.index[3] <= 2 and decision.index[4] == 0  # collapsed arms are one arm

    def test_it_keeps_the_contract_that_others_are_held_to(self, name):
        check_policy(lambda: build(name))

    def test_tensors_and_arrays_decide_alike(self, name):
        a, b = build(name), build(name)
        arrays = problem()
        tensors = {key: torch.tensor(value) if key != "limit" else value for key, value in arrays.items()}
        given = np.ones((N, K)) if name == "oracle" else None
        assert_same_decision(a.select(**arrays, values=given), b.select(**tensors, values=given))

    def test_same_seed_same_run_and_no_global_generator(self, name):
        np.random.seed(0)  # noqa: NPY002 (the global generator must not matter)
        torch.manual_seed(0)
        a = play(build(name), 8)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        b = play(build(name), 8)
        for left, right in zip(a, b, strict=True):
            assert_same_decision(left, right)

    def test_many_questions_are_answered_as_one_by_one(self, name):
        """Ragged: 5 patches, then 2, then 5 without a limit; bad input in any of them changes nothing."""
        one, many = build(name), build(name)
        play(one, 4)
        play(many, 4)
        given = np.random.default_rng(0).normal(size=(N, K)) if name == "oracle" else None
        questions = [problem(1), problem(2), {**problem(3), "limit": None, "explore": False}]
        if name != "fixed":
            questions.insert(1, {**problem(4), "contexts": np.ones((2, D)), "costs": COSTS[:2], "limit": 500})
        for question in questions:
            question["values"] = None if given is None else given[: len(question["contexts"])]
        before = frozen(many)
        with pytest.raises(ValueError, match="image [34]: limit 1 is infeasible"):
            many.select_many([*questions, {**questions[0], "limit": 1}], price=1e-4)
        assert frozen(many) == before
        answers = many.select_many(questions, price=1e-4)
        for question, answer in zip(questions, answers, strict=True):
            assert_same_decision(one.select(**question, price=1e-4), answer)
        assert frozen(one) == frozen(many) and many.select_many([]) == []

    def test_ragged_rewards_at_once_are_learned_as_one_by_one(self, name):
        if name == "fixed":
            return  # its allocation has one number of patches
        one, many = build(name), build(name)
        decisions = [ask(one, 0), one.select(np.ones((2, D)), np.ones(M), values=np.ones((2, K)), costs=COSTS[:2])]
        decisions = [*decisions, ask(one, 1), decisions[1], ask(one, 2)] * 2
        many.load_state_dict(one.state_dict())
        rewards = [reward_for(one, decision, float(np.sin(t))) for t, decision in enumerate(decisions)]
        for decision, reward in zip(decisions, rewards, strict=True):
            one.update(decision, reward)
        many.update_many(decisions, rewards)
        a, b = one.state_dict(), many.state_dict()
        assert a["rounds"] == b["rounds"] == 10 and a["generator"] == b["generator"]
        torch.testing.assert_close(a["tensors"], b["tensors"], rtol=1e-9, atol=1e-9)

    def test_a_resumed_run_continues_to_the_bit(self, name):
        check_resumed(lambda: build(name), name)

    def test_greedy_selection_is_repeatable_and_draws_nothing(self, name):
        if name == "random":
            return  # it has no greedy choice
        policy = build(name)
        play(policy, 5)
        before = frozen(policy)
        a, b = ask(policy, 9, explore=False), ask(policy, 9, temperature=0.0)
        assert_same_decision(a, b)
        assert frozen(policy) == before

    def test_bad_questions_change_nothing(self, name):
        policy = build(name)
        play(policy, 3)
        before = frozen(policy)
        bad = np.ones((N, D))
        bad[2, 3] = np.nan
        for change, message in (
            ({"contexts": bad}, "contexts must be finite, but entry \\[2, 3\\] is nan"),
            ({"contexts": bad[:, :3]}, r"contexts must have shape \[any, 6\]"),
            ({"contexts": np.zeros((0, D))}, "costs must have shape|values must have shape|at least one patch"),
            ({"covariates": [0.0, np.inf]}, "covariates must be finite"),
            ({"limit": 100}, "limit 100 is infeasible.*already costs 298"),
            ({"costs": -COSTS}, "costs must not be negative"),
            ({"costs": COSTS[:, :3]}, r"costs must have shape \[5, 4\]"),
            ({"price": -1.0}, "price must be at least 0"),
            ({"temperature": float("nan")}, "temperature must be finite"),
            ({"coverage": np.zeros((2, 2))}, r"coverage must have shape \[5, 4\]"),
            ({"contexts": np.full((N, D), 1e250)}, "contexts is too large to square without overflow"),
            ({"covariates": np.full(M, -1e200)}, "covariates is too large to square"),
            ({"coverage": np.full((N, K), 1e250)}, "coverage is too large to square"),
            ({"price": 1e300}, "price is too large to square"),
        ):
            with pytest.raises(ValueError, match=message):
                ask(policy, **change)
            assert frozen(policy) == before

    def test_bad_rewards_change_nothing(self, name):
        policy = build(name)
        decision = play(policy, 3)[-1]
        before = frozen(policy)
        good = reward_for(policy, decision, 0.5)
        with pytest.raises(ValueError, match="reward must be finite"):
            policy.update(decision, reward_for(policy, decision, float("nan")))
        with pytest.raises(ValueError, match="reward must be finite"):
            policy.update_many([decision, decision], [good, reward_for(policy, decision, float("inf"))])
        with pytest.raises(ValueError, match="one reward per decision"):
            policy.update_many([decision], [])
        with pytest.raises(TypeError, match="must be a Decision"):
            policy.update(decision.index, good)
        if policy.feedback != "none":
            with pytest.raises(ValueError, match="feedback"):
                policy.update(decision, [[0.5, 0.5]])
        rows = dataclasses.replace(decision, contexts=np.ones((N + 1, D)))
        none = dataclasses.replace(decision, index=decision.index[:0], contexts=decision.contexts[:0])
        far, low = decision.index.copy(), decision.index.copy()
        far[0], low[0] = K, -1
        for bad, message in (
            (rows, "got 6 contexts and 5 patches"),
            (none, "at least one patch, got 0 contexts and 0 patches"),
            (dataclasses.replace(decision, index=far), "uses arm 4, but the policy has 4 arms"),
            (dataclasses.replace(decision, index=low), "uses arm -1, but the policy has 4 arms"),
            (dataclasses.replace(decision, covariates=np.full(M, 1e120)), "covariates is too large to square"),
        ):
            reward = good if bad is not none or policy.feedback != "semi" else good[:0]
            with pytest.raises(ValueError, match=message):
                policy.update_many([decision, bad], [good, reward])
            assert frozen(policy) == before
        assert frozen(policy) == before

    def test_bad_states_change_nothing(self, name, tmp_path):
        policy = build(name)
        play(policy, 3)
        state = policy.state_dict()
        play(policy, 2, 3)  # so that a part of the state, once loaded, would show
        before = frozen(policy)
        other = "random" if name != "random" else "uniform"
        for change, message in (
            ({"policy": other}, "does not fit"),
            ({"version": 99}, "does not fit"),
            ({"config": {**state["config"], "covariates": M + 1}}, "other options: \\['covariates'\\]"),
            ({"generator": {"bit_generator": "MT19937"}}, "generator is damaged"),
            ({"tensors": {"surprise": torch.zeros(1)}}, "tensor|state must hold"),
            ({"extra": {"surprise": 1}}, "extra state|needs"),
            ({"rounds": None}, "state is damaged"),
        ):
            with pytest.raises(ValueError, match=message):
                policy.load_state_dict({**state, **change})
            assert frozen(policy) == before
        with pytest.raises(ValueError, match="policy state must hold"):
            policy.load_state_dict({"policy": name})
        path = tmp_path / "junk"
        path.write_bytes(b"not a policy at all")
        with pytest.raises(ValueError, match="is not a saved policy"):
            Policy.load(path)
        with pytest.raises(FileNotFoundError, match="no saved policy"):
            Policy.load(tmp_path / "absent")

    def test_decisions_survive_a_json_log(self, name):
        policy, replayed = build(name), build(name)
        for t in range(4):
            decision = ask(policy, t)
            ask(replayed, t)
            logged = Decision.from_dict(json.loads(json.dumps(decision.to_dict())))
            assert_same_decision(decision, logged)
            policy.update(decision, reward_for(policy, decision, 1.0))
            replayed.update(logged, reward_for(policy, decision, 1.0))
        assert frozen(policy) == frozen(replayed)


def test_a_state_older_than_an_option_loads_with_its_default():
    for name, option in (("linucb", "prior_mean"), ("thompson", "collapse")):
        policy = build(name)
        play(policy, 3)
        state = policy.state_dict()
        del state["config"][option]
        fresh = build(name)
        fresh.load_state_dict(state)
        assert frozen(fresh) == frozen(policy)
        with pytest.raises(ValueError, match=f"other options: \\['{option}'\\]"):
            fresh.load_state_dict({**state, "config": {**state["config"], option: 7}})


@pytest.mark.parametrize("name", ["thompson", "neural_linear", "linucb", "cn_ucb"])
def test_a_decision_of_another_size_is_refused_before_anything_is_learned(name):
    policy = build(name)
    decision = play(policy, 2)[-1]
    before = frozen(policy)
    for change in ({"contexts": np.ones((N, D + 1))}, {"covariates": np.ones(M + 1)}):
        other = dataclasses.replace(decision, **change)
        with pytest.raises(ValueError, match="context features and"):
            policy.update_many([decision, other], [reward_for(policy, decision, 0.5)] * 2)
        assert frozen(policy) == before


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "policy.safetensors"
    build("thompson").save(path)
    old = path.read_bytes()

    def no_disk(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", no_disk)
    with pytest.raises(OSError, match="disk full"):
        build("thompson", seed=9).save(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["policy.safetensors"]


def test_registry_names_what_is_wrong():
    with pytest.raises(ValueError, match="did you mean 'thompson'"):
        make_policy("tompson")
    with pytest.raises(TypeError, match="'uniform' has no option 'budget'"):
        make_policy("uniform", budget=3)
    with pytest.raises(ValueError, match="already registered"):
        register_policy("thompson")(Policy)
    for name in LEARNERS:
        with pytest.raises(ValueError, match="needs dim="):
            make_policy(name, arms=3)


def test_the_aggregated_feature_charges_nothing_to_the_floor():
    policy = build("thompson")
    x, z = problem()["contexts"], problem()["covariates"]
    phi = policy._features(x, z, np.array([0, 1, 3, 1, 0]))
    want = np.concatenate([x[1] + x[3], np.zeros(D), x[2], [1.0], z])
    np.testing.assert_allclose(phi, want)


def test_aggregated_thompson_equals_the_bayesian_formula():
    theta0, precision = np.random.default_rng(1).normal(size=(K - 1, D)), np.full((K - 1, D), 4.0)
    policy = build("thompson", prior_mean=theta0, prior_precision=precision, covariate_precision=0.5)
    decisions = play(policy, 30)
    phi = np.stack([decision.features for decision in decisions])
    A0 = np.diag(np.r_[np.full(theta0.size, 4.0), np.full(1 + M, 0.5)])
    b0 = A0 @ np.r_[theta0.ravel(), np.zeros(1 + M)]
    theta = np.linalg.solve(A0 + phi.T @ phi, b0 + phi.T @ np.sin(np.arange(30)))
    np.testing.assert_allclose(policy.posterior.mean, theta, rtol=1e-9)
    greedy = ask(policy, 5, explore=False, limit=None, costs=None)
    values = problem(5)["contexts"] @ theta[: theta0.size].reshape(K - 1, D).T
    np.testing.assert_allclose(greedy.values[:, 1:], values, rtol=1e-9, atol=1e-12)
    assert (greedy.values[:, 0] == 0).all()


def test_many_updates_at_once_equal_one_by_one():
    for name in LEARNERS:
        one, many = build(name, forgetting=0.9), build(name, forgetting=0.9)
        decisions, rewards = [ask(one, t) for t in range(5)], [0.0, 1.0, 0.5, 0.2, 0.9]
        for decision, reward in zip(decisions, rewards, strict=True):
            one.update(decision, reward)
        many.update_many(decisions, rewards)
        torch.testing.assert_close(one.posterior.mean, many.posterior.mean, rtol=1e-10, atol=1e-12)
        assert one.rounds == many.rounds == 5


def test_workers_merge_into_the_policy_that_saw_everything():
    whole, left, right = build("thompson"), build("thompson"), build("thompson")
    for t, decision in enumerate(play(build("random"), 20)):
        (left if t % 2 else right).update(decision, np.sin(t))
        whole.update(decision, np.sin(t))
    left.merge(right)
    torch.testing.assert_close(left.posterior.mean, whole.posterior.mean, rtol=1e-10, atol=1e-12)
    assert left.rounds == 20


@pytest.mark.parametrize("name", ["linucb", "lints", "c2ucb", "linucb_hybrid", "ucb", "boltzmann"])
def test_workers_of_any_linear_method_merge(name):
    whole, left, right = (build(name, seed=seed) for seed in range(3))
    for t, decision in enumerate(play(build("random"), 12)):
        reward = reward_for(whole, decision, np.sin(t))
        (left if t % 3 else right).update(decision, reward)
        whole.update(decision, reward)
    before = frozen(left)
    for other in (build("random"), build("epsilon_greedy"), build(name, prior_precision=3.0)):
        with pytest.raises((TypeError, ValueError), match="merge"):
            left.merge(other)
    with pytest.raises(ValueError, match="built alike can be merged: \\['forgetting'\\] differ"):
        left.merge(build(name, forgetting=0.9))
    assert frozen(left) == before
    left.merge(right)
    torch.testing.assert_close(left.state_dict()["tensors"], whole.state_dict()["tensors"], rtol=1e-10, atol=1e-12)
    assert left.rounds == whole.rounds == 12


def test_a_batch_that_fails_half_way_chose_nothing():
    """The baseline of the second image does not fit its limit, which only shows after the first was answered."""
    policy = build("conservative", baseline="uniform", baseline_options={"arm": 1}, inner="thompson")
    play(policy, 3)
    before = frozen(policy)
    with pytest.raises(ValueError, match="image 1: uniform arm 1 costs 554, above the limit 400"):
        policy.select_many([problem(0), {**problem(1), "limit": 400}])
    assert frozen(policy) == before
    with pytest.raises(ValueError, match="uniform arm 1 costs 554"):
        policy.select(**{**problem(1), "limit": 400})
    assert frozen(policy) == before


def test_a_policy_learns_from_decisions_of_another_method():
    policy = build("thompson")
    decision = ask(build("random"))
    assert decision.features is None
    policy.update(decision, 1.0)
    phi = policy._features(decision.contexts, decision.covariates, decision.index)
    torch.testing.assert_close(policy.posterior.gram, torch.from_numpy(np.outer(phi, phi)))


def test_an_empty_super_arm_in_a_log_is_refused():
    data = ask(build("thompson")).to_dict()
    with pytest.raises(ValueError, match="at least one patch, its super-arm is empty"):
        Decision.from_dict({**data, "index": [], "costs": [], "contexts": []})


def test_price_and_coverage_move_the_choice():
    policy = build("heuristic")
    values = np.tile([0.0, 0.1, 0.2, 0.25], (2, 1))
    costs = [64, 128, 256, 400]

    def chosen(**more):
        return policy.select(np.ones((2, D)), costs=costs, values=values, **more).index.tolist()

    assert chosen() == [3, 3]
    assert chosen(price=0.1 / 100) == [1, 1]
    assert chosen(price=1.0) == [0, 0]
    assert chosen(price=1.0, coverage=[[0, 0, 0, 0], [0, 0, 0, 400.0]]) == [0, 3]


def test_a_floor_binds_every_method_and_its_propensity():
    for name in ("thompson", "boltzmann", "random", "explore_then_commit", "epsilon_greedy", "linucb", "windowed"):
        policy = build(name)
        decision = ask(policy, floor=[100, 0, 0, 200, 50])
        assert decision.costs[0] >= 100 and decision.index[3] == 2 and decision.index[4] == 0
    assert make_policy("random").select(costs=COSTS, floor=100).propensity == pytest.approx(1 / (3**3 * 2 * 1))
    with pytest.raises(ValueError, match="'uniform' gives a patch less than its floor"):
        ask(build("uniform"), floor=200, limit=2000)
    with pytest.raises(ValueError, match="already costs 992"):
        ask(build("thompson"), floor=256)


@pytest.mark.parametrize("name", ["thompson", "ucb", "linucb", "lints", "c2ucb", "neural_ucb", "neural_ts"])
def test_temperature_scales_the_exploration(name):
    """What a method adds to its greedy values is twice as large at twice the temperature, draw by draw."""
    added = []
    for temperature in (0.5, 1.0):
        policy = build(name)
        play(policy, 6)
        added.append(ask(policy, 7, temperature=temperature).values - ask(policy, 7, explore=False).values)
    assert np.abs(added[0]).max() > 1e-4
    np.testing.assert_allclose(added[1], 2 * added[0], rtol=1e-4, atol=1e-9)


def test_heuristic_is_the_prior_of_the_learner():
    theta0 = np.random.default_rng(0).normal(size=(K - 1, D))
    heuristic, learner = build("heuristic", prior_mean=theta0), build("thompson", prior_mean=theta0)
    for seed in range(5):
        a, b = ask(heuristic, seed), ask(learner, seed, explore=False)
        assert a.index.tolist() == b.index.tolist()
    with pytest.raises(ValueError, match="needs prior_mean= when it is built"):
        make_policy("heuristic").select(np.ones((2, 2)), costs=[1, 2])


class TestPropensities:
    """Exact, with and without a limit: they sum to one over all super-arms and match the factors."""

    @pytest.mark.parametrize("name", ["random", "epsilon_greedy", "boltzmann"])
    @pytest.mark.parametrize("limit", [None, 500])
    def test_claimed_probabilities_are_the_frequencies(self, name, limit):
        policy = build(name, **({"epsilon": 0.5} if name == "epsilon_greedy" else {}))
        if name != "random":
            play(policy, 10)
        contexts, covariates = problem()["contexts"][:2], np.zeros(M)
        counts, claimed, rounds = {}, {}, 2000
        for _ in range(rounds):
            decision = policy.select(contexts, covariates, costs=COSTS[2:4], limit=limit)
            key = tuple(decision.index.tolist())
            counts[key] = counts.get(key, 0) + 1
            claimed[key] = decision.propensity
            if limit is None:
                product = decision.probabilities[np.arange(2), decision.index].prod()
                assert product == pytest.approx(decision.propensity)
                np.testing.assert_allclose(decision.probabilities.sum(1), 1.0)
                assert decision.probabilities[1, 3] == 0.0  # the collapsed arm
            else:
                assert decision.probabilities is None
        assert sum(claimed.values()) == pytest.approx(1.0, abs=0.02)
        for key, p in claimed.items():
            assert counts[key] / rounds == pytest.approx(p, abs=5 * np.sqrt(p / rounds))

    def test_epsilon_is_spread_over_the_arms_that_are_open(self):
        """q(k) = epsilon / K_i + (1 - epsilon) [k is greedy]: K_i is 4 for a whole patch, 3 and 1 for ragged ones."""
        policy = build("epsilon_greedy", epsilon=0.3)
        play(policy, 10)
        greedy, decision = ask(policy, 3, limit=None, explore=False), ask(policy, 3, limit=None)
        want = np.repeat([[0.3 / 4]] * 3 + [[0.3 / 3], [0.3]], 4, axis=1)
        want[3, 3] = want[4, 1:] = 0.0
        want[np.arange(N), greedy.index] += 0.7
        np.testing.assert_allclose(decision.probabilities, want)

    def test_boltzmann_is_a_softmax_of_net_values(self):
        policy = build("boltzmann", tau=0.4)
        play(policy, 10)
        decision = ask(policy, 3, limit=None, price=1e-3, temperature=0.5)
        weight = np.exp(decision.values / 0.2)
        weight[3, 3] = weight[4, 1:] = 0.0
        np.testing.assert_allclose(decision.probabilities, weight / weight.sum(axis=1, keepdims=True))

    def test_boltzmann_freezes_into_greed(self):
        policy = build("boltzmann")
        play(policy, 10)
        greedy, cold = ask(policy, 3, explore=False), ask(policy, 3, temperature=1e-4)
        assert cold.index.tolist() == greedy.index.tolist() and cold.propensity == pytest.approx(1.0)
        frozen_over = ask(policy, 3, temperature=1e-310)  # value / temperature would overflow
        assert frozen_over.index.tolist() == greedy.index.tolist() and frozen_over.propensity == 1.0

    def test_deterministic_methods_say_one_and_thompson_says_nothing(self):
        assert ask(build("uniform")).propensity == 1.0
        assert ask(build("ucb")).propensity == 1.0
        assert ask(build("thompson")).propensity is None
        assert ask(build("thompson"), explore=False).propensity == 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["thompson", "ucb", "linucb", "lints", "c2ucb", "linucb_hybrid"])
def test_the_gpu_decides_as_the_cpu_does(name, tmp_path):
    cpu, gpu = build(name), build(name, device="cuda")
    for a, b in zip(play(cpu, 10), play(gpu, 10), strict=True):
        assert a.index.tolist() == b.index.tolist()
        np.testing.assert_allclose(a.values, b.values, rtol=1e-5, atol=1e-6)
    gpu.save(tmp_path / "policy.safetensors")
    cpu.load_state_dict(gpu.state_dict())  # the device is no part of the state
