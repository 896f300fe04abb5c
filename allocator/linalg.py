"""Linear algebra that must not fail in the middle of a stream, and must not depend on where an array lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_JITTERS = (1e-12, 1e-10, 1e-8, 1e-6)  # relative to the mean of the diagonal, tried in turn


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
