"""Scoring many contexts at once: means and posterior standard deviations as one float32 GEMM each.

With one covariance P_k = L_k L_k' per arm, sqrt(x' P_k x) = ||x' L_k||, so stacking W = [L_1 | ... | L_K] turns all
sigmas into the block norms of one product X W: 2 n K d^2 FLOPs, which no exact method of dense form can undercut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .linalg import cholesky

_CACHED = 2**17  # float32 entries of the product that stay in a core's cache until their norms are taken


def stack_factors(covariances: Tensor) -> Tensor:
    """Stack the Cholesky factors of per-arm covariances side by side.

    Parameters
    ----------
    covariances : Tensor, shape [K, d, d]
        Symmetric positive definite, float64.

    Returns
    -------
    Tensor, shape [d, K * d], float32
        W = [L_1 | ... | L_K] with P_k = L_k L_k'.
    """
    return cholesky(covariances).permute(1, 0, 2).reshape(covariances.shape[1], -1).to(torch.float32)


def block_sigma(contexts: Tensor, stacked: Tensor, arms: int) -> Tensor:
    """Posterior standard deviation of every arm in every context.

    Parameters
    ----------
    contexts : Tensor, shape [n, d], float32
    stacked : Tensor, shape [d, arms * d], float32
        From `stack_factors`.
    arms : int
        Number of blocks.

    Returns
    -------
    Tensor, shape [n, arms], float32
        sqrt(x' P_k x).
    """
    n, width = len(contexts), stacked.shape[1]
    rows = max(1, n if contexts.is_cuda else _CACHED // width)
    sigma = torch.empty(n, arms, dtype=contexts.dtype, device=contexts.device)
    for start in range(0, n, rows):
        part = contexts[start : start + rows]
        product = (part @ stacked).view(len(part), arms, -1)
        torch.linalg.vector_norm(product, dim=2, out=sigma[start : start + rows])
    return sigma
