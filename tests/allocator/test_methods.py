"""Each method against its paper's formula, and each modifier by what it is for."""

import numpy as np
import pytest
import torch

from allocator import make_policy
from allocator.simulation.environments import Additive, simulate
from allocator.simulation.streams import Classification, CNTask

D, K, N = 4, 3, 5


def semi_played(policy, rounds=6, seed=0):
    """Feed a semi-bandit policy random super-arms; returns contexts, arms and rewards, stacked."""
    rng = np.random.default_rng(seed)
    chooser = make_policy("random", arms=K, seed=seed)
    xs, arms, ys = [], [], []
    for _ in range(rounds):
        x = rng.normal(size=(N, D))
        decision = chooser.select(x, limit=None)
        y = rng.normal(size=N)
        policy.update(decision, y)
        xs.append(x)
        arms.append(decision.index)
        ys.append(y)
    return np.concatenate(xs), np.concatenate(arms), np.concatenate(ys)


def test_linucb_disjoint_is_algorithm_1():
    policy = make_policy("linucb", dim=D, arms=K, alpha=0.7, prior_precision=2.0)
    x, arms, y = semi_played(policy)
    new = np.random.default_rng(9).normal(size=(N, D))
    got = policy.select(new).values
    for k in range(K):
        A = 2.0 * np.eye(D) + x[arms == k].T @ x[arms == k]
        theta = np.linalg.solve(A, x[arms == k].T @ y[arms == k])
        bonus = 0.7 * np.sqrt(np.einsum("nd,de,ne->n", new, np.linalg.inv(A), new))
        np.testing.assert_allclose(got[:, k], new @ theta + bonus, rtol=1e-9)


def test_a_cold_arm_has_the_prior_deviation_whatever_the_ridge():
    """Regression (a peer inverts lambda wrongly): sigma of an untouched arm is |x| / sqrt(lambda)."""
    x = np.array([[1.0, 0.0]])
    decision = make_policy("linucb", dim=2, arms=1, alpha=1.0, prior_precision=10.0).select(x)
    assert decision.values[0, 0] == pytest.approx(1 / np.sqrt(10))


def test_linucb_hybrid_is_algorithm_2():
    """The joint ridge equals the paper's block elimination."""
    shared = np.array([[1.0, 0.0], [0.5, 1.0], [2.0, -1.0]])
    policy = make_policy("linucb_hybrid", dim=D, arms=K, alpha=0.5, arm_features=shared)
    x, arms, y = semi_played(policy)
    q = 2 * D
    A0, b0 = np.eye(q), np.zeros(q)
    A, B, b = [np.eye(D) for _ in range(K)], [np.zeros((D, q)) for _ in range(K)], [np.zeros(D) for _ in range(K)]
    for row, k, r in zip(x, arms, y, strict=True):
        z = np.outer(row, shared[k]).T.ravel()
        A0 += B[k].T @ np.linalg.inv(A[k]) @ B[k]
        b0 += B[k].T @ np.linalg.inv(A[k]) @ b[k]
        A[k] += np.outer(row, row)
        B[k] += np.outer(row, z)
        b[k] += r * row
        A0 += np.outer(z, z) - B[k].T @ np.linalg.inv(A[k]) @ B[k]
        b0 += r * z - B[k].T @ np.linalg.inv(A[k]) @ b[k]
    beta, A0inv = np.linalg.solve(A0, b0), np.linalg.inv(A0)
    new = np.random.default_rng(9).normal(size=D)
    got = policy.select(new[None]).values[0]
    for k in range(K):
        Ainv = np.linalg.inv(A[k])
        theta = Ainv @ (b[k] - B[k] @ beta)
        z = np.outer(new, shared[k]).T.ravel()
        s = z @ A0inv @ z - 2 * z @ A0inv @ B[k].T @ Ainv @ new + new @ Ainv @ new
        s += new @ Ainv @ B[k] @ A0inv @ B[k].T @ Ainv @ new
        assert got[k] == pytest.approx(z @ beta + new @ theta + 0.5 * np.sqrt(s), rel=1e-8)


def test_c2ucb_gives_the_floor_nothing_and_shares_one_theta():
    policy = make_policy("c2ucb", dim=D, arms=K, alpha=0.5)
    x, arms, y = semi_played(policy)
    assert (policy.select(x[:N]).values[:, 0] == 0).all()
    features = np.einsum("nd,nq->nqd", x, np.eye(K)[:, 1:][arms]).reshape(len(x), -1)
    theta = np.linalg.solve(np.eye(2 * D) + features.T @ features, features.T @ y)
    np.testing.assert_allclose(policy.posterior.mean, theta, rtol=1e-8)


def test_discounted_semi_bandits_forget_once_per_round():
    policy = make_policy("linucb", dim=1, arms=1, forgetting=0.5)
    for _ in range(30):
        policy.update(policy.select(np.ones((3, 1))), np.ones(3))
    assert float(policy.posteriors[0].gram) == pytest.approx(6.0)


@pytest.mark.parametrize("name", ["neural_ucb", "neural_ts", "cn_ucb", "cn_ts"])
def test_written_gradients_equal_autograd_and_the_diagonal_shortcut(name):
    policy = make_policy(name, dim=D, arms=K, width=6, train_every=4, steps=5)
    semi_played(policy, rounds=5)
    u = policy._joint(np.random.default_rng(1).normal(size=(2, D)))
    u = u[u.abs().sum(1) > 0]
    weights = [w.clone().requires_grad_() for w in policy.weights]
    fitted, hidden = policy._forward(u)
    gradients = policy._gradient(u, hidden)
    for row in range(len(u)):
        f = torch.relu(u[row] @ weights[0].T) @ weights[1]
        want = torch.cat([g.ravel() for g in torch.autograd.grad(f, weights)])
        torch.testing.assert_close(gradients[row], want)
        torch.testing.assert_close(fitted[row], f.detach())
    torch.testing.assert_close(policy._variance(u, hidden), (gradients.square() / policy.diagonal).sum(1))
    assert (policy.diagonal > policy.ridge).any()


def test_neural_bandits_start_as_the_zero_function_and_the_full_matrix_is_exact():
    policy = make_policy("neural_ucb", dim=D, arms=K, width=4, full=True, train_every=1000)
    x = np.random.default_rng(0).normal(size=(N, D))
    assert np.abs(policy.select(x, explore=False).values).max() < 1e-12
    semi_played(policy, rounds=4)
    u = policy._joint(x)
    g = policy._gradient(u, policy._forward(u)[1])
    Z = policy.matrix.A
    torch.testing.assert_close(policy._variance(u, policy._forward(u)[1]), ((g @ torch.linalg.inv(Z)) * g).sum(1))
    off = ~torch.eye(len(Z), dtype=torch.bool)
    assert Z[off].abs().max() > 0.01


@pytest.mark.parametrize("name", ["neural_ts", "cn_ts"])
def test_a_full_matrix_resumes_to_the_bit(name, tmp_path):
    options = {"dim": D, "arms": K, "width": 4, "full": True, "train_every": 4, "steps": 3, "seed": 5}
    policy = make_policy(name, **options)
    semi_played(policy, rounds=6)
    policy.save(tmp_path / "policy")
    twin = make_policy(name, **options).load(tmp_path / "policy")
    x = np.random.default_rng(1).normal(size=(N, D))
    for _ in range(3):
        a, b = policy.select(x), twin.select(x)
        np.testing.assert_array_equal(a.values, b.values)
        policy.update(a, x[:, 0])
        twin.update(b, x[:, 0])
    state = policy.state_dict()
    lame = {key: value for key, value in state["tensors"].items() if not key.startswith("matrix.")}
    with pytest.raises(ValueError, match="needs the tensors"):
        policy.load_state_dict({**state, "tensors": lame})
    assert torch.equal(policy.matrix.gram, twin.matrix.gram)


@pytest.mark.parametrize(("name", "options"), [("c2ucb", {}), ("neural_ucb", {"memory": 20, "train_every": 2})])
def test_memory_does_not_grow_with_the_rounds(name, options):
    policy = make_policy(name, dim=D, arms=K, **options)

    def size():
        return sum(tensor.nbytes for tensor in policy.state_dict()["tensors"].values())

    semi_played(policy, rounds=10)
    before = size()
    semi_played(policy, rounds=30, seed=1)
    assert size() == before


def test_statistics_are_rebuilt_when_the_encoder_changes():
    """Regression: a posterior over features of an encoder that no longer exists."""
    policy = make_policy("neural_linear", dim=6, arms=4, width=8, train_every=20, steps=20, seed=1)
    world = Additive(seed=0)
    decisions = []
    before = policy.hidden.weight.detach().clone()
    for _ in range(20):
        question = world.draw()
        decision = policy.select(question.contexts, costs=question.costs, limit=question.limit)
        policy.update(decision, world.reward(question, decision.index))
        decisions.append(decision)
    assert not torch.equal(before, policy.hidden.weight)
    phi = np.stack([policy._features(d.contexts, d.covariates, d.index) for d in decisions])
    torch.testing.assert_close(policy.posterior.gram, torch.from_numpy(phi.T @ phi))
    stale = np.stack([d.features for d in decisions])
    assert not np.allclose(stale, phi)
    with pytest.raises(ValueError, match="policy 'neural_linear'"):
        policy.merge(policy)


def test_the_replay_keeps_the_newest_rewards():
    policy = make_policy("neural_linear", dim=D, arms=K, width=4, train_every=10, steps=2, memory=4)
    rng, decisions = np.random.default_rng(0), []
    for t in range(10):
        decisions.append(policy.select(rng.normal(size=(N, D))))
        policy.update(decisions[-1], float(t))
    assert [reward for *_, reward in policy.replay] == [6.0, 7.0, 8.0, 9.0]
    phi = np.stack([policy._features(d.contexts, d.covariates, d.index) for d in decisions[-4:]])
    torch.testing.assert_close(policy.posterior.gram, torch.from_numpy(phi.T @ phi))
    semi = make_policy("neural_ucb", dim=D, arms=K, width=4, train_every=6, steps=2, memory=7)
    _, _, rewards = semi_played(semi, rounds=6)
    np.testing.assert_array_equal(np.concatenate(semi.targets), rewards[-7:])


class Twisted(Additive):
    """Gains depend on the product of two signs: no linear model of x can see them."""

    def _draw(self):
        x = self._contexts()
        x[:, 1:3] = self.generator.choice([-1.0, 1.0], size=(self.patches, 2))
        need = (x[:, 1] * x[:, 2] > 0).astype(float)
        return self._separable(x, need[:, None] * np.array([0.0, 0.35, 0.8, 1.0]) / self.patches, base=0.3)


def test_an_encoder_sees_what_a_linear_model_cannot():
    rounds, late = 250, []
    for seed in range(3):
        losses = []
        for name, options in (("thompson", {}), ("neural_linear", {"train_every": 50, "steps": 120, "rate": 1e-2})):
            world = Twisted(seed=seed)
            policy = make_policy(name, dim=world.dim, arms=world.arms, seed=seed, **options)
            losses.append(simulate(policy, world, rounds).regret[-60:].mean())
        late.append(losses)
    linear, neural = np.mean(late, axis=0)
    assert neural < 0.7 * linear


def test_c2ucb_learns_the_linear_combinatorial_task():
    regret = simulate(make_policy("c2ucb", dim=80, arms=2, alpha=1.0), CNTask(task="h1", seed=0), 300).regret
    assert regret[-60:].mean() < 0.05 * 0.6  # a random choice loses 0.6 per round
    assert regret.sum() < 20


def test_neural_combinatorial_beats_linear_on_the_quadratic_task():
    linear = simulate(make_policy("c2ucb", dim=80, arms=2, alpha=0.1), CNTask(task="h2", seed=0), 350).regret
    policy = make_policy("cn_ucb", dim=80, arms=2, nu=0.01, steps=60, rate=1e-2)
    neural = simulate(policy, CNTask(task="h2", seed=0), 350).regret
    assert neural[-100:].mean() < 0.7 * linear[-100:].mean()


def test_linucb_learns_a_labelled_set():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, size=400)
    data = np.eye(4)[labels] + 0.4 * rng.normal(size=(400, 4))
    world = Classification(data=data, labels=labels)
    trace = simulate(make_policy("linucb", dim=world.dim, arms=world.arms), world, 400)
    assert trace.reward[-200:].mean() > 0.85
    assert trace.reward.mean() + trace.regret.mean() == pytest.approx(1.0)


def test_explore_then_commit_commits():
    world = Additive(seed=0)
    policy = make_policy("explore_then_commit", dim=world.dim, arms=world.arms, exploration=60)
    first = simulate(policy, world, 60)
    frozen = policy.posterior.gram.clone()
    second = simulate(policy, world, 60)
    assert torch.equal(frozen, policy.posterior.gram)
    assert second.regret.mean() < 0.8 * first.regret.mean()


@pytest.mark.parametrize(("name", "rows"), [("linucb", 3), ("lints", 3), ("c2ucb", 2), ("linucb_hybrid", 5)])
def test_semi_bandits_take_a_prior_mean(name, rows):
    theta0 = np.random.default_rng(0).normal(size=(rows, D))
    policy = make_policy(name, dim=D, arms=K, prior_mean=theta0, prior_precision=1e9)
    x, _, _ = semi_played(policy)
    got = policy.select(x[:2], explore=False).values
    if name in ("linucb", "lints"):
        want = x[:2] @ theta0.T
    elif name == "c2ucb":
        want = np.hstack([np.zeros((2, 1)), x[:2] @ theta0.T])
    else:
        phi = np.hstack([np.ones((K, 1)), np.linspace(0, 1, K)[:, None], np.eye(K)])
        want = x[:2] @ theta0.T @ phi.T
    np.testing.assert_allclose(got, want, atol=1e-6)
    with pytest.raises(ValueError, match="prior_mean must have shape"):
        make_policy(name, dim=D, arms=K, prior_mean=theta0[:1])
