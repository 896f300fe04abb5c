"""Departing from the prior on evidence alone, and the mixture of readings that learns which one to follow."""

import numpy as np
import pytest

from allocator import Decision, make_policy, policy_class, policy_names
from allocator.knapsack import solve_many
from allocator.policies.caution import Cautious
from allocator.policies.full_bandit.base import NOISE
from allocator.policies.full_bandit.neural_mixture import SCALES
from allocator.problem import pose

K, D, PRICE = 4, 3, 1e-3
COSTS = np.array([64, 128, 256, 400])
PRIOR = np.array([[0.05, 0.0, 0.0], [0.15, 0.0, 0.0], [0.3, 0.0, 0.0]])


def question(seed, n=4):
    rng = np.random.default_rng(seed)
    return {"contexts": rng.random((n, D)), "covariates": rng.random(2), "costs": COSTS, "price": PRICE / 4}


def learned(name="thompson", rounds=60, **options):
    policy = make_policy(name, dim=D, arms=K, covariates=2, seed=1, prior_mean=PRIOR, **options)
    rng = np.random.default_rng(0)
    for t in range(rounds):
        decision = policy.select(**question(t))
        # The second slot is what earns, which the prior does not know.
        good = (decision.contexts[:, 1] * (decision.index > 0)).sum() > 0.5
        policy.update(decision, float(good if rng.random() < 0.9 else not good))
    return policy


@pytest.mark.parametrize("name", [n for n in policy_names() if issubclass(policy_class(n), Cautious)])
def test_without_rewards_the_prior_plays_and_exploring_is_not_held_back(name):
    policy = make_policy(name, dim=D, arms=K, covariates=2, prior_mean=PRIOR, caution=2.0, seed=3)
    heuristic = make_policy("heuristic", prior_mean=PRIOR)
    for seed in range(5):
        asked = question(seed)
        decision = policy.select(**asked, explore=False)
        prior = heuristic.select(asked["contexts"], costs=COSTS, price=asked["price"])
        assert (decision.index == prior.index).all() and np.allclose(decision.values, prior.values)
        assert decision.policy == name and decision.log_propensity == 0.0
    bold = make_policy(name, dim=D, arms=K, covariates=2, prior_mean=PRIOR, caution=0.0, seed=3)
    for seed in range(5):
        a, b = policy.select(**question(seed)), bold.select(**question(seed))
        assert (a.index == b.index).all()


def test_a_departure_stands_exactly_where_its_lower_bound_does():
    bold, kept, gone = learned(), 0, 0
    theta, cov = bold.posterior.mean.numpy(), bold.posterior.covariance.numpy()
    for caution, surcharge in ((0.5, 0.0), (0.5, 2.0), (2.0, 0.0)):
        policy = make_policy(
            "thompson", dim=D, arms=K, covariates=2, prior_mean=PRIOR, caution=caution, surcharge=surcharge
        )
        policy.load_state_dict({**bold.state_dict(), "config": policy.config()})
        for seed in range(100, 160):
            asked = question(seed)
            wish = bold.select(**asked, explore=False)
            prior = make_policy("heuristic", prior_mean=PRIOR).select(
                asked["contexts"], costs=COSTS, price=asked["price"]
            )
            step = bold._features(wish.contexts, wish.covariates, wish.index)
            step = step - bold._features(wish.contexts, wish.covariates, prior.index)
            beyond = asked["price"] * (wish.cost - prior.cost)
            least = caution * NOISE * np.sqrt(step @ cov @ step) + surcharge * max(beyond, 0)
            depart = step @ theta - beyond > least and (wish.index != prior.index).any()
            want = wish if depart else prior
            got = policy.select(**asked, explore=False)
            assert (got.index == want.index).all() and np.allclose(got.values, want.values)
            same = (wish.index == prior.index).all()
            kept, gone = kept + (not depart and not same), gone + depart
    assert kept > 10 and gone > 10  # both happen


def test_coverage_and_limit_count_in_the_comparison():
    policy = learned(caution=0.0)
    cautious = make_policy("thompson", dim=D, arms=K, covariates=2, prior_mean=PRIOR, caution=1e6)
    cautious.load_state_dict({**policy.state_dict(), "config": cautious.config()})
    asked = question(7)
    pushed = np.zeros((4, K))
    pushed[0, 3] = 5.0
    decision = cautious.select(**asked, coverage=pushed, limit=800, explore=False)
    assert decision.index[0] == 3 and decision.cost <= 800


def test_without_a_prior_nothing_holds_the_mixture_back():
    policy = make_policy("neural_mixture", dim=D, arms=K, covariates=2, caution=2.0, train_every=10, steps=5)
    for t in range(10):
        policy.update(policy.select(**question(t)), 1.0)
    values = policy.select(**question(99), explore=False).values + question(99)["price"] * COSTS
    assert (values[:, 1:] > 0).all()  # its own, which a floor everywhere is not


class TestMixture:
    """Two readings of where the evidence is: the first misleads, the prior trusts it."""

    def make(self, **options):
        prior = np.zeros((K - 1, D))
        prior[:, 0] = [0.05, 0.15, 0.3]
        return make_policy(
            "neural_mixture", dim=D, arms=K, covariates=1, prior_mean=prior, readings=[0, 1], levels=[2],
            reading_prior=[0.0, -5.0, -5.0], need_prior=[-3.0, 6.0], seed=2, **options,
        )  # fmt: skip

    @staticmethod
    def ask(rng):
        """Evidence at one patch, which needs an arm of at least 2 where its third slot is 1, and 1 elsewhere."""
        evidence, wrong = rng.choice(4, 2, replace=False)
        x = np.full((4, D), 0.02)
        x[wrong, 0], x[evidence, 1] = 0.94, 0.94
        x[:, 2] = rng.integers(0, 2, 4)
        return evidence, 1 + int(x[evidence, 2]), x, float(rng.random() < 0.5)

    def play(self, policy, rounds, seed, explore=True):
        rng, right, spent = np.random.default_rng(seed), [], []
        for _ in range(rounds):
            evidence, least, x, hard = self.ask(rng)
            decision = policy.select(x, [hard], COSTS, price=0.05 / 1600, explore=explore)
            right.append(float(not hard or decision.index[evidence] >= least))
            spent.append(decision.cost / 1600)
            if explore:
                policy.update(decision, right[-1])
        return np.mean(right), np.mean(spent)

    def test_it_learns_which_reading_to_follow_and_the_prior_stands_until_then(self):
        policy = self.make(caution=2.0, surcharge=2.0)
        before = self.play(policy, 100, 50, explore=False)
        self.play(policy, 49, 0)
        assert self.play(policy, 100, 50, explore=False) == before  # not trained yet
        self.play(policy, 551, 1)
        after = self.play(policy, 100, 50, explore=False)
        assert before[0] < 0.7 and after[0] > 0.95 and after[1] < 0.8
        gates, trusted = (x["gate"].mean(0).sum(0) for x in (policy.weights, policy.centre))
        assert gates[1] - gates[0] > trusted[1] - trusted[0] + 2

    def test_stakes_are_the_rewards_that_members_expect_and_add_up(self):
        policy = self.make(train_every=100)
        self.play(policy, 99, 0)
        _, _, x, hard = self.ask(np.random.default_rng(9))
        z, index = np.array([hard]), np.array([0, 3, 1, 0])
        one, floor = policy.stakes_of(x, z, index), policy.stakes_of(x, z, np.zeros(4, dtype=int))
        mixed = policy.stakes(x, z, (np.eye(K)[index] + np.eye(K)[[0, 0, 0, 0]]) / 2)
        np.testing.assert_allclose(mixed, (one + floor) / 2)
        need = 1 / (1 + np.exp(-policy.weights["need"].numpy() @ [1.0, hard]))
        np.testing.assert_allclose(floor, 1 - need)
        values = policy.select(x, z, np.zeros(K), explore=False).values
        mean, deviation = policy.weigh(np.stack([one, one - floor]))
        assert mean[1] == pytest.approx(values[np.arange(4), index].sum()) and deviation.min() > 1e3  # not trained yet
        self.play(policy, 1, 1)
        one = policy.stakes_of(x, z, index)
        mean, deviation = policy.weigh(one[None])
        assert mean[0] == pytest.approx(one.mean()) and deviation[0] == pytest.approx(one.std()) and one.std() < 0.5

    def test_what_is_forgotten_holds_no_weight_against_the_prior(self):
        def apart(policy):
            return sum(float((policy.weights[n] - policy.centre[n]).square().sum()) for n in policy.weights)

        policy = self.make(train_every=100, steps=200)
        self.play(policy, 300, 0)
        kept = apart(policy)
        policy.forget(0.0)
        policy._train()
        assert apart(policy) < kept / 10
        with pytest.raises(ValueError, match="gamma"):
            policy.forget(2.0)

    def test_trainings_become_rarer_as_rewards_double(self, monkeypatch):
        policy, at = self.make(train_every=2), []
        monkeypatch.setattr(policy, "_train", lambda: at.append(len(policy.replay)))
        decision = policy.select(np.ones((4, D)), [0.0], COSTS)
        policy.update_many([decision] * 200, [1.0] * 200)
        gaps = np.diff([0, *at])
        assert gaps[0] == 2 and gaps[-1] == 8 and (np.diff(gaps) >= 0).all() and at[-1] == 200

    def test_values_are_gains_of_one_piece_of_evidence(self):
        policy = self.make()
        self.play(policy, 100, 0)
        _, _, x, hard = self.ask(np.random.default_rng(9))
        values = policy.select(x, [hard], np.zeros(4), explore=False, price=0.0).values
        assert (values[:, 0] == 0).all() and (np.diff(values, axis=1) >= 0).all() and values[:, -1].sum() <= 1.0

    def test_training_climbs_the_posterior_of_every_member(self):
        policy = self.make(train_every=200, steps=40, batch=1000)
        self.play(policy, 199, 0)

        def loss():
            """Minus log posterior, written out reward by reward."""
            total = np.zeros(policy.members)
            for x, z, index, y, mass in policy.replay:
                for e in range(policy.members):
                    w = {name: value[e].numpy() for name, value in policy.weights.items()}
                    q = np.concatenate([[1.0], z])
                    gate = np.exp(q @ w["gate"])
                    reads = np.column_stack([x[:, 0] / x[:, 0].sum(), x[:, 1] / x[:, 1].sum(), np.full(4, 0.25)])
                    where = reads @ (gate / gate.sum())
                    need, recovery = (1 / (1 + np.exp(-q @ w[name])) for name in ("need", "recovery"))
                    patch = np.column_stack([np.tile(q, (4, 1)), x[:, 2]])
                    level = patch @ w["level"]
                    step = np.log1p(np.exp(patch @ w["step"][:, 0]))
                    arms = np.column_stack([0 * level, 1 / (1 + np.exp(-level)), 1 / (1 + np.exp(-level - step)),
                                            0 * level + 1])  # fmt: skip
                    right = 1 - need + need * recovery * (where * arms[np.arange(4), index]).sum()
                    right = np.clip(right, 1e-4, 1 - 1e-4)
                    total[e] -= mass[e] * (y * np.log(right) + (1 - y) * np.log(1 - right))
            for name, value in policy.weights.items():
                apart = (((value - policy.centre[name]) / SCALES.get(name, 1)) ** 2).flatten(1).sum(1).numpy()
                total += apart / (2 * policy.prior_scale**2)
            return total

        policy.replay.append(policy.replay[0])  # the reward to come, so that both losses are of the same rewards
        before = loss()
        policy.replay.pop()
        x, z, index, y, mass = policy.replay[0]
        policy._train()
        policy.replay.append((x, z, index, y, mass))
        assert (loss() < before - 1.0).all()

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"readings": [3]}, "readings"), ({"levels": []}, "levels"), ({"reading_prior": [0.0]}, "reading_prior"),
         ({"members": 0}, "members"), ({"rate": 0.0}, "rate must be positive"), ({"caution": -1.0}, "caution")],
    )  # fmt: skip
    def test_bad_options_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            make_policy("neural_mixture", **{"dim": D, "arms": K, "covariates": 1, **options})


def test_many_questions_are_solved_together_unless_caution_looks_at_each(monkeypatch):
    asked = [question(seed) for seed in range(6)]
    for caution, together in ((0.0, 1), (1.0, 0)):
        policy, calls = learned(caution=caution), []
        single = [policy.select(**q, explore=False) for q in asked]
        monkeypatch.setattr(
            "allocator.policy.solve_many", lambda *a, _calls=calls, **k: _calls.append(1) or solve_many(*a, **k)
        )
        many = policy.select_many([{**q, "explore": False} for q in asked])
        assert all((a.index == b.index).all() for a, b in zip(single, many, strict=True)) and len(calls) == together


class TestTrial:
    """Margins that shrink where all questions together show that the prior is wrong, and only there."""

    def make(self, wrong, **options):
        """A mixture whose prior follows the first reading, which misleads or, with the readings swapped, does not."""
        follows = 0 if wrong else 1
        prior = np.zeros((K - 1, D))
        prior[:, follows] = [0.05, 0.15, 0.3]
        gates = [0.0, -5.0, -5.0] if wrong else [-5.0, 0.0, -5.0]
        return make_policy(
            "neural_mixture", dim=D, arms=K, covariates=1, prior_mean=prior, readings=[0, 1], levels=[2],
            reading_prior=gates, need_prior=[-3.0, 6.0], seed=2, caution=1.0, surcharge=5.0, **options,
        )  # fmt: skip

    play = TestMixture.play
    ask = staticmethod(TestMixture.ask)

    def test_they_go_where_the_prior_misleads_and_stay_where_it_is_right(self):
        wrong, right = self.make(True, patience=0.02), self.make(False, patience=0.02)
        assert wrong.margin() == right.margin() == 1.0 and wrong.lead() == (0.0, 0.0)
        for policy in (wrong, right):
            self.play(policy, 300, 0)
        assert wrong.lead()[0] > 0.1 and wrong.margin() < 0.1
        assert right.lead()[0] < 0.03 and right.margin() > 0.5
        assert self.make(True).margin() == 1.0  # without patience they stay

    def test_the_pool_is_what_its_definition_says(self):
        policy = self.make(True, patience=0.02, train_every=20)
        self.play(policy, 20, 0)
        rng, stakes, spent, count = np.random.default_rng(5), np.zeros(policy.members), 0.0, 0.0
        policy.pool = None
        for _ in range(7):
            _, _, x, hard = self.ask(rng)
            decision = policy.select(x, [hard], COSTS, price=0.05 / 1600)
            assert (decision.table == COSTS).all()
            policy.update(decision, 1.0)
            values = policy._member_values(_posed(policy, x, hard)).mean(0)
            prior = np.hstack([np.zeros((4, 1)), x @ np.asarray(policy.prior_mean).T])
            paid = 0.05 / 1600 * COSTS
            mine, theirs = (values - paid).argmax(1), (prior - paid).argmax(1)
            gain = policy.stakes_of(x, np.array([hard]), mine) - policy.stakes_of(x, np.array([hard]), theirs)
            stakes, count = stakes * (1 - 1 / 200) + gain, count * (1 - 1 / 200) + 1
            spent = spent * (1 - 1 / 200) + float((paid[mine] - paid[theirs]).sum())
        mean, deviation = policy.lead()
        assert mean == pytest.approx(((stakes - spent) / count).mean()) and deviation == pytest.approx(
            (stakes / count).std()
        )
        assert policy.margin() == pytest.approx(np.exp(-max(mean - 2 * deviation, 0) / 0.02))

    def test_it_is_kept_in_the_state_fades_with_forgetting_and_outlives_a_log(self):
        policy = self.make(True, patience=0.02, train_every=20)
        self.play(policy, 60, 0)
        other = self.make(True, patience=0.02, train_every=20)
        other.load_state_dict(policy.state_dict())
        assert other.lead() == policy.lead() != (0.0, 0.0)
        _, _, x, hard = self.ask(np.random.default_rng(3))
        decision = policy.select(x, [hard], COSTS, price=0.05 / 1600)
        copy = Decision.from_dict(decision.to_dict())
        assert (copy.table == decision.table).all()
        policy.update(decision, 1.0), other.update(copy, 1.0)
        assert other.lead() == policy.lead()
        lead = policy.lead()[0]
        policy.forget(0.5)
        assert policy.lead()[0] == pytest.approx(lead / 2)
        old = {key: value for key, value in decision.to_dict().items() if key != "table"}
        before = other.pool
        other.update(Decision.from_dict(old), 1.0)  # what a choice would have cost is not known
        assert other.pool is before

    @pytest.mark.parametrize(
        ("pool", "message"),
        [
            ({"stakes": [float("nan")], "spent": 0.0, "count": 1.0}, "stakes"),
            ({"stakes": [0.0], "spent": 0.0, "count": 0.0}, "counts 0.0 questions"),
            ({"stakes": [0.0], "count": 1.0}, "damaged"),
        ],
    )
    def test_a_damaged_pool_is_refused(self, pool, message):
        policy = self.make(True, patience=0.02)
        with pytest.raises(ValueError, match=message):
            policy.load_state_dict({**policy.state_dict(), "extra": {"pool": pool}})
        assert policy.pool is None

    def test_a_table_of_another_shape_is_refused(self):
        policy = self.make(True, patience=0.02)
        _, _, x, hard = self.ask(np.random.default_rng(3))
        data = policy.select(x, [hard], COSTS).to_dict()
        with pytest.raises(ValueError, match=r"table of costs must have shape \[4, 4\], got \[4, 2\]"):
            policy.update(Decision.from_dict({**data, "table": [[1, 2]] * 4}), 1.0)
        assert policy.rounds == 0


def _posed(policy, x, hard):
    return pose(policy, x, [hard], COSTS, price=0.05 / 1600, temperature=0.0)
