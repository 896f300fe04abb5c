"""Each classic mistake of the trade, as a test that the mistake fails.

Others live beside what they concern: reward splitting and rewards without costs in test_behaviour, cold arms and stale
encoders in test_methods, prior means lost at the first update and priors discounted away in test_posterior, dependent
slates in test_ope.
"""

import itertools

import numpy as np
import pytest
import torch

from allocator import Posterior, make_policy, policy_names, solve
from allocator.linalg import cholesky
from allocator.policies import CNTS, NeuralTS
from allocator.registry import policy_class
from allocator.simulation.environments import Additive
from allocator.simulation.streams import CNTask


def test_jitter_does_not_add_up_over_a_stream():
    """A peer adds eps I to A at every call: the direction it never saw grows certain."""
    posterior = Posterior(2, precision=1.0)
    for _ in range(300):
        posterior.update([1.0, 0.0], 1.0)
        _ = posterior.mean
    assert posterior.sigma(torch.tensor([[0.0, 1.0]], dtype=torch.float64)).item() == 1.0
    good, bad = torch.eye(3, dtype=torch.float64), torch.ones(3, 3, dtype=torch.float64)
    bad[2, 2] -= 1e-14
    factors = cholesky(torch.stack([good, bad]))  # one matrix needs jitter, the other must not get any
    assert torch.equal(factors[0], good) and torch.isfinite(factors[1]).all()
    with pytest.raises(ValueError, match="numerically singular"):
        cholesky(-good)


def test_statistics_are_summed_in_double_precision():
    """float32 sums stop growing at 2^24 and lose small features long before."""
    posterior = Posterior(2, precision=1.0)
    row = np.array([[4096.0, 1e-3]])
    for _ in range(50):
        posterior.update(np.repeat(row, 100, axis=0), np.ones(100))
    assert posterior.gram.dtype == torch.float64
    np.testing.assert_allclose(posterior.gram, 5000 * row.T @ row, rtol=1e-12)


def test_rewards_go_to_the_arms_that_earned_them():
    """A published baseline pairs the chosen arms' features with the rewards of arms 0 to K - 1."""
    world = CNTask(task="h1", seed=0, noise=0.0)
    for name in ("c2ucb", "linucb"):
        policy = make_policy(name, dim=world.dim, arms=2)
        for _ in range(60):
            question = world.draw()
            decision = policy.select(question.contexts, costs=question.costs, limit=question.limit)
            policy.update(decision, world.feedback(question, decision.index, "semi"))
        question = world.draw()
        fitted = policy.select(question.contexts, costs=question.costs, explore=False).values[:, 1]
        assert np.corrcoef(fitted, question.contexts @ world.hidden)[0, 1] > 0.97, name


@pytest.mark.parametrize(("ridge", "nu"), [(1.0, 0.5), (4.0, 0.5), (4.0, 2.0)])
def test_the_deviation_of_neural_draws_is_a_deviation(ridge, nu):
    """nu is a standard deviation, not a variance, and before any data it multiplies |g| whatever the ridge."""
    options = {"dim": 3, "arms": 1, "width": 16, "nu": nu, "ridge": ridge}
    x = np.array([[0.6, -0.3, 0.5]])
    policy = NeuralTS(**options)
    u = policy._joint(x)
    g = policy._gradient(u, policy._forward(u)[1])
    draws = np.array([policy.select(x).values[0, 0] for _ in range(3000)])
    assert draws.std() == pytest.approx(nu * float(g.norm()), rel=0.05)
    best = CNTS(**options, samples=20)
    tops = np.array([best.select(x).values[0, 0] for _ in range(3000)])
    of_twenty = np.random.default_rng(0).standard_normal((20000, 20)).max(axis=1)
    assert tops.mean() == pytest.approx(nu * float(g.norm()) * of_twenty.mean(), rel=0.03)
    assert tops.std() == pytest.approx(nu * float(g.norm()) * of_twenty.std(), rel=0.08)


@pytest.mark.parametrize("name", ["neural_ucb", "cn_ucb"])
def test_the_pull_to_the_start_has_a_gradient(name):
    """A published network adds its ridge term as a plain number: it then trains as if there were none."""
    moved = {}
    for ridge in (1e-6, 1e4):
        policy = make_policy(name, dim=4, arms=2, width=8, train_every=10, steps=60, rate=1e-2, ridge=ridge, nu=0.0)
        rng = np.random.default_rng(0)
        for _ in range(20):
            x = rng.normal(size=(5, 4))
            decision = policy.select(x, costs=[0, 1], limit=3)
            policy.update(decision, x[:, 0] * (decision.index > 0))
        moved[ridge] = sum(float((w - s).square().sum()) for w, s in zip(policy.weights, policy.start, strict=True))
    assert moved[1e4] < 0.1 * moved[1e-6]


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1000.0, -5000.0)])
@pytest.mark.parametrize("name", ["neural_ucb", "neural_linear"])
def test_targets_are_standardised(name, scale, shift):
    """A network that is fed raw rewards of -5000 never gets there at its learning rate."""
    policy = make_policy(
        name,
        dim=2,
        arms=2,
        width=16,
        train_every=100,
        steps=200,
        rate=1e-2,
        **({"ridge": 1e-3} if name == "neural_ucb" else {"covariate_precision": 1e-6}),
    )
    rng, chooser = np.random.default_rng(0), make_policy("random", arms=2, seed=7)
    for _ in range(100):
        x = rng.choice([-1.0, 1.0], size=(1, 2))
        decision = chooser.select(x)
        reward = scale * float(x[0, 0] * x[0, 1] * decision.index[0]) + shift
        policy.update(decision, [reward] if name == "neural_ucb" else reward)
    for x in itertools.product([-1.0, 1.0], repeat=2):
        values = policy.select([x], explore=False).values[0]
        assert values[1] - values[0] == pytest.approx(scale * x[0] * x[1], abs=0.3 * scale)


def test_the_separable_bonus_bounds_the_exact_one():
    """||Phi||_{A^-1} is not a sum over patches; the sum of the patches' norms is an upper bound of it."""
    world = Additive(seed=0)
    policy = make_policy("ucb", dim=world.dim, arms=world.arms, alpha=1.0)
    for _ in range(30):
        question = world.draw()
        decision = policy.select(question.contexts, costs=question.costs, limit=question.limit)
        policy.update(decision, world.reward(question, decision.index))
    question = world.draw()
    rng = np.random.default_rng(0)
    bonus = policy.select(question.contexts).values - policy.select(question.contexts, explore=False).values
    for _ in range(20):
        index = rng.integers(4, size=6)
        phi = policy._features(question.contexts, np.zeros(0), index)
        phi[-1] = 0.0  # the intercept is the same for every super-arm
        exact = policy.posterior.sigma(torch.tensor(phi[None])).item()
        assert bonus[np.arange(6), index].sum() >= exact - 1e-6


def test_greedy_by_ratio_loses_everything_on_small_instances_the_oracle_does_not():
    values, costs = np.array([[0.0, 2.0], [0.0, 10.0]]), np.array([[0, 1], [0, 10]])
    assert solve(values, costs, 10).index.tolist() == [0, 1]  # value per cost prefers the first patch


@pytest.mark.parametrize("name", [n for n in policy_names() if policy_class(n).feedback != "none"])
def test_no_method_starves_at_a_zero_prior(name):
    """Every learner must leave the floor although its first values are all zero (or say so: it is at a baseline)."""
    semi = policy_class(name).feedback == "semi"
    world = CNTask(task="h1", seed=0, patches=6) if semi else Additive(seed=0)
    options = {"baseline_options": {"arm": 0}} if name == "conservative" else {}
    policy = make_policy(name, dim=world.dim, arms=world.arms, **options)
    tried = np.zeros(world.arms)
    for _ in range(60):
        question = world.draw()
        decision = policy.select(question.contexts, costs=question.costs, limit=question.limit)
        policy.update(decision, world.feedback(question, decision.index, policy.feedback))
        tried += np.bincount(decision.index, minlength=world.arms)
    assert (tried[1:] >= 3).all(), tried
