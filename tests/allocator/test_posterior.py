"""The posterior against textbook formulas, and its promises about state."""

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator import Posterior
from allocator.linalg import block_sigma, stack_factors


def filled(dim=6, n=40, seed=0, **options):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, dim)), rng.normal(size=n)
    posterior = Posterior(dim, **options)
    posterior.update(x, y)
    return posterior, x, y


def snapshot(posterior):
    return {name: tensor.clone() for name, tensor in posterior.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_mean_and_covariance_are_ridge_with_a_prior_mean():
    precision, theta0 = np.linspace(0.5, 3, 6), np.linspace(-1, 1, 6)
    posterior, x, y = filled(precision=precision, mean=theta0)
    A = np.diag(precision) + x.T @ x
    np.testing.assert_allclose(posterior.mean, np.linalg.solve(A, precision * theta0 + x.T @ y), rtol=1e-10)
    np.testing.assert_allclose(posterior.covariance, np.linalg.inv(A), rtol=1e-9, atol=1e-12)
    phi = torch.from_numpy(x[:3])
    np.testing.assert_allclose(
        posterior.sigma(phi), np.sqrt(np.einsum("ni,ij,nj->n", x[:3], np.linalg.inv(A), x[:3])), rtol=1e-10
    )


def test_prior_mean_survives_updates_because_b_carries_it():
    """Regression: a prior put only into the first mean vanishes at the first update."""
    posterior = Posterior(2, precision=1e6, mean=[1.0, -1.0])
    posterior.update([[1.0, 0.0]], [0.0])
    np.testing.assert_allclose(posterior.mean, [1.0, -1.0], atol=1e-5)


def test_rank_k_equals_k_rank_one_updates_also_with_forgetting_and_weights():
    for forgetting in (1.0, 0.9):
        many, x, y = filled(forgetting=forgetting)
        one = Posterior(6, forgetting=forgetting)
        for row, target in zip(x, y, strict=True):
            one.update(row, target)
        torch.testing.assert_close(many.gram, one.gram, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(many.moment, one.moment, rtol=1e-12, atol=1e-12)
        assert many.rounds == one.rounds == len(y)


def test_forgetting_never_forgets_the_prior():
    """A_t = A0 + sum gamma^(t-s) Phi Phi': without the (1 - gamma) A0 term an idle direction loses its prior."""
    posterior = Posterior(2, precision=2.0, mean=[0.0, 5.0], forgetting=0.9)
    for _ in range(500):
        posterior.update([1.0, 0.0], 1.0)
    np.testing.assert_allclose(posterior.A.numpy(), [[2.0 + 10.0, 0.0], [0.0, 2.0]], rtol=1e-9)
    assert posterior.mean[1] == pytest.approx(5.0)


def test_sound_after_very_many_updates_with_forgetting():
    rng = np.random.default_rng(0)
    posterior = Posterior(8, precision=0.1, forgetting=0.999)
    theta = rng.normal(size=8)
    for _ in range(1000):  # 10^6 observations
        x = rng.normal(size=(1000, 8)) * [1, 1, 1, 1, 1, 1, 1, 1e-4]
        posterior.update(x, x @ theta + 0.1 * rng.normal(size=1000))
    assert torch.linalg.eigvalsh(posterior.A).min() > 0.09
    assert float(posterior.gram.trace()) == pytest.approx(7 * 1000, rel=0.2)
    np.testing.assert_allclose(posterior.mean[:7], theta[:7], atol=0.05)


@pytest.mark.parametrize(("rows", "calls"), [(1000, 1000), (1, 30000)])
def test_a_million_discounted_updates_equal_the_sum_of_those_that_still_count(rows, calls):
    """Rounding must not pile up: what is older than 40,000 rounds weighs 1e-17 at gamma = .999."""
    rng = np.random.default_rng(0)
    posterior = Posterior(4, forgetting=0.999)
    recent: deque = deque(maxlen=max(1, 40000 // rows))
    for _ in range(calls):
        x = rng.normal(size=(rows, 4))
        y = x[:, 0]
        posterior.update(x, y)
        recent.append(x)
    x = np.concatenate(list(recent))
    weight = 0.999 ** np.arange(len(x) - 1, -1, -1)
    np.testing.assert_allclose(posterior.gram, (x * weight[:, None]).T @ x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(posterior.moment, (x * weight[:, None]).T @ x[:, 0], rtol=1e-9, atol=1e-9)
    assert posterior.rounds == rows * calls


def test_draws_have_the_posterior_moments():
    """The covariance is far from diagonal and from a multiple of anything, so L^-1 z in place of L^-T z shows."""
    posterior = Posterior(3)
    posterior.update([[3.0, 1.0, 0.5], [1.0, 1.0, -1.0], [2.0, 2.0, 0.3]], [1.0, 0.5, -0.5])
    rng = np.random.default_rng(1)
    draws = torch.stack([posterior.sample(rng, 2.0) for _ in range(20000)])
    want = 4 * posterior.covariance
    torch.testing.assert_close(draws.mean(0), posterior.mean, rtol=0, atol=0.05)
    torch.testing.assert_close(torch.cov(draws.T), want, rtol=0.06, atol=0.02)
    assert want[~torch.eye(3, dtype=torch.bool)].abs().max() > 0.5


def test_zero_scale_is_the_mean_and_leaves_the_generator_alone():
    posterior, _, _ = filled()
    rng = np.random.default_rng(1)
    before = rng.bit_generator.state
    assert torch.equal(posterior.sample(rng, 0.0), posterior.mean)
    assert rng.bit_generator.state == before


def test_block_sigma_is_the_norm_in_each_slot():
    posterior, _, _ = filled(dim=3 * 4 + 2)
    contexts = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = posterior.block_sigma(contexts, 3)
    for k in range(3):
        phi = torch.zeros(7, 14, dtype=torch.float64)
        phi[:, 4 * k : 4 * k + 4] = contexts
        torch.testing.assert_close(got[:, k].double(), posterior.sigma(phi), rtol=2e-6, atol=1e-7)
    posterior.update(np.ones(14), 1.0)  # the stacked factors must not outlive an update
    assert (posterior.block_sigma(contexts, 3) < got).any()


def test_scoring_one_gemm_equals_the_loop():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 16, 16, dtype=torch.float64, generator=generator)
    covariances = root @ root.transpose(1, 2) + torch.eye(16)
    contexts = torch.randn(50, 16, generator=generator)
    want = torch.stack([(contexts.double() @ p * contexts.double()).sum(1).sqrt() for p in covariances], dim=1)
    torch.testing.assert_close(
        block_sigma(contexts, stack_factors(covariances), 4).double(), want, rtol=1e-5, atol=1e-6
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 30), st.integers(0, 30))
def test_merge_equals_one_posterior_on_all_data(seed, n, m):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n + m, 4)), rng.normal(size=n + m)
    prior = {"precision": 3.0, "mean": rng.normal(size=4)}
    left, right, whole = (Posterior(4, **prior) for _ in range(3))
    left.update(x[:n], y[:n])
    right.update(x[n:], y[n:])
    whole.update(x, y)
    left.merge(right)
    torch.testing.assert_close(left.A, whole.A, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(left.mean, whole.mean, rtol=1e-10, atol=1e-12)
    assert left.rounds == whole.rounds


def test_merge_refuses_another_prior():
    posterior, _, _ = filled()
    before = snapshot(posterior)
    with pytest.raises(ValueError, match="same dimension, prior mean and prior precision"):
        posterior.merge(Posterior(6, precision=2.0))
    with pytest.raises(ValueError, match="same forgetting can be merged, got 1 and 0.9"):
        posterior.merge(Posterior(6, forgetting=0.9))
    assert same(before, snapshot(posterior))


def test_a_singular_update_is_rescued_by_jitter():
    posterior = Posterior(3, precision=1e-12)
    posterior.update([[1e4, 1e4, 1e4]] * 3, [1.0, 1.0, 1.0])
    assert torch.isfinite(posterior.mean).all()
    assert float(posterior.mean.sum()) == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        ([[1.0, np.nan]], [1.0], "features must be finite, but entry \\[0, 1\\] is nan"),
        ([[1.0, np.inf]], [1.0], "features must be finite"),
        ([[1.0, 2.0]], [np.nan], "targets must be finite"),
        ([[1.0, 2.0, 3.0]], [1.0], r"features must have shape \[1, 2\]"),
        ([[1.0, 2.0]], [1.0, 2.0], r"features must have shape \[2, 2\]"),
        ([[1e160, 2.0]], [1.0], "too large to square"),
    ],
)
def test_bad_observations_leave_the_posterior_untouched(features, targets, message):
    posterior = Posterior(2, forgetting=0.5)
    posterior.update([[1.0, 2.0]], [3.0])
    before = snapshot(posterior)
    with pytest.raises(ValueError, match=message):
        posterior.update(features, targets)
    with pytest.raises(ValueError, match="weights must not be negative"):
        posterior.update([[1.0, 2.0]], [1.0], weights=[-1.0])
    assert same(before, snapshot(posterior))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": 0.0}, "precision must be positive"),
        ({"precision": [1.0, -1.0]}, "precision must be positive"),
        ({"mean": [1.0]}, r"mean must have shape \[2\]"),
        ({"forgetting": 0.0}, "forgetting must be above 0"),
        ({"forgetting": 1.5}, "forgetting must be in"),
    ],
)
def test_bad_priors_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Posterior(2, **options)


def test_state_is_copied_and_a_damaged_one_refused():
    posterior, _, _ = filled()
    state = posterior.state_dict()
    state["gram"] += 1.0
    before = snapshot(posterior)
    for damaged in (
        {**before, "gram": before["gram"][:2]},
        {**before, "moment": before["moment"] * float("nan")},
        {name: before[name] for name in ("gram", "moment")},
    ):
        with pytest.raises(ValueError, match="posterior state"):
            posterior.load_state_dict(damaged)
        assert same(before, snapshot(posterior))
    posterior.load_state_dict(state)
    assert not same(before, snapshot(posterior))
