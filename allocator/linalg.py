"""Linear algebra that must not fail in the middle of a stream, and must not depend on where an array lies.

Many contexts are scored at once: with one covariance P_k = L_k L_k' per arm, sqrt(x' P_k x) = ||x' L_k||, so stacking
W = [L_1 | ... | L_K] turns all sigmas into the block norms of one product X W: 2 n K d^2 FLOPs, which no exact method
of dense form can undercut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_JITTERS = (1e-12, 1e-10, 1e-8, 1e-6)  # relative to the mean of the diagonal, tried in turn
_CACHED = 2**17  # float32 entries of the product that stay in a core's cache until their norms are taken


def tensor(array: np.ndarray, device: Any = None) -> Tensor:
    """Copy a NumPy array into memory that PyTorch allocated.

    MKL rounds differently for differently aligned operands, and `from_numpy` inherits NumPy's alignment: then a
    resumed run would leave the unbroken one in the last bit.
    """
    return torch.tensor(array, device=device)


def cholesky(matrices: Tensor) -> Tensor:
    """Lower Cholesky factors of symmetric matrices [..., p, p], with as little jitter as each of them needs.

    A matrix that is positive definite to working precision gets none. The jitter goes into the factor alone, so it
    cannot add up over a stream.

    Raises
    ------
    ValueError
        If a matrix is not positive definite even with the largest jitter.
    """
    scale = matrices.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    factor, failed = torch.linalg.cholesky_ex(matrices)
    for jitter in _JITTERS:
        if not failed.any():
            break
        raised = matrices.clone()
        raised.diagonal(dim1=-2, dim2=-1).add_((jitter * scale * (failed > 0))[..., None])
        again, failed_again = torch.linalg.cholesky_ex(raised)
        factor = torch.where((failed > 0)[..., None, None], again, factor)
        failed = torch.where(failed > 0, failed_again, failed)
    if failed.any():
        raise ValueError("the posterior is numerically singular; raise the prior precision or rescale the features")
    return factor


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
