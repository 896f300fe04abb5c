"""The optional JAX scorer equals the torch one."""

import numpy as np
import pytest
import torch

from allocator.linalg import block_sigma, stack_factors


def test_jax_equals_torch():
    pytest.importorskip("jax")
    from eval.bandits.jax_scoring import make_scorer

    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 16, 16, dtype=torch.float64, generator=generator)
    covariances = root @ root.transpose(1, 2) / 16 + torch.eye(16)
    x, theta = torch.randn(200, 16, generator=generator), torch.randn(4, 16, generator=generator)
    mean, sigma = make_scorer()(x.numpy(), theta.numpy(), torch.linalg.cholesky(covariances).float().numpy())
    np.testing.assert_allclose(np.asarray(mean), (x @ theta.T).numpy(), rtol=1e-5, atol=1e-5)
    want = block_sigma(x, stack_factors(covariances), 4).numpy()
    np.testing.assert_allclose(np.asarray(sigma), want, rtol=1e-5, atol=1e-5)
