"""Bayesian ridge regression in sufficient statistics: the memory of every linear method.

The data enter as S = sum Phi Phi' and m = sum Phi y (float64) and are kept apart from the prior, so that

    A = A0 + S,   b = A0 theta0 + m,   theta | data ~ N(A^-1 b, nu^2 A^-1).

Forgetting then is S <- gamma S + Phi Phi': the prior never decays, which is the (1 - gamma) A0 term that plain
discounting of A forgets (Russac, Vernade & Cappe 2019, eq. 4). And posteriors of several workers add up exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import Array, count, floats, moderate, number
from .linalg import block_sigma, cholesky, stack_factors, tensor


class Posterior:
    """Gaussian posterior of a linear model with diagonal prior precision.

    Parameters
    ----------
    dim : int
        Number of features p.
    precision : float or array-like, shape [p]
        Diagonal of A0, positive.
    mean : array-like, shape [p], optional
        Prior mean theta0; zero if None. It enters b as A0 theta0, so no update can overwrite it.
    forgetting : float
        gamma in (0, 1]: weight that each update leaves to the data before it.
    device : str or torch.device
        Where the statistics live.

    Raises
    ------
    TypeError, ValueError
        For a malformed prior; every message names the argument.
    """

    def __init__(
        self,
        dim: int,
        *,
        precision: Array = 1.0,
        mean: Array | None = None,
        forgetting: float = 1.0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.dim = count("dim", dim)
        diagonal = np.full(dim, number("precision", precision)) if np.ndim(precision) == 0 else precision
        diagonal = floats("precision", diagonal, (dim,))
        if diagonal.min() <= 0:
            raise ValueError(f"precision must be positive, got {diagonal.min():g}: the posterior would be improper")
        self.forgetting = number("forgetting", forgetting, low=0.0, high=1.0)
        if self.forgetting == 0.0:
            raise ValueError("forgetting must be above 0 (1 keeps everything)")
        self.device = torch.device(device)
        theta0 = np.zeros(dim) if mean is None else floats("mean", mean, (dim,))
        self.precision = self._tensor(diagonal)
        self.prior_mean = self._tensor(theta0)
        self.gram = torch.zeros(dim, dim, dtype=torch.float64, device=self.device)
        self.moment = torch.zeros(dim, dtype=torch.float64, device=self.device)
        self.rounds = 0
        self._forget_caches()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return tensor(array, self.device)

    def _forget_caches(self) -> None:
        self._cholesky: Tensor | None = None
        self._mean: Tensor | None = None
        self._stacked: dict[tuple[int, int], Tensor] = {}

    @property
    def A(self) -> Tensor:
        """Posterior precision A0 + S, shape [p, p], in units of the noise precision."""
        matrix = self.gram.clone()
        matrix.diagonal().add_(self.precision)
        return matrix

    @property
    def b(self) -> Tensor:
        """A0 theta0 + sum Phi y, shape [p]."""
        return self.moment + self.precision * self.prior_mean

    @property
    def cholesky(self) -> Tensor:
        """Lower factor L of A = L L', shape [p, p]; computed once per update.

        Raises
        ------
        ValueError
            If A is not positive definite even with the largest jitter.
        """
        if self._cholesky is None:
            self._cholesky = cholesky(self.A)
        return self._cholesky

    @property
    def mean(self) -> Tensor:
        """Posterior mean A^-1 b, shape [p]."""
        if self._mean is None:
            self._mean = torch.cholesky_solve(self.b[:, None], self.cholesky)[:, 0]
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """A^-1, shape [p, p]; multiply by nu^2 for the posterior covariance."""
        return torch.cholesky_inverse(self.cholesky)

    def update(self, features: Array, targets: Array, weights: Array | None = None) -> None:
        """Add observations; with forgetting, row by row in the order given.

        Parameters
        ----------
        features : array-like, shape [n, p] or [p]
            Phi of each observation.
        targets : array-like, shape [n] or scalar
            Observed rewards.
        weights : array-like, shape [n], optional
            Non-negative weight per observation (1 if None).

        Raises
        ------
        TypeError, ValueError
            For a wrong shape, NaN, infinity or overflow; the posterior is then unchanged.
        """
        rows, y = self._observations(features, targets)
        n = len(y)
        if n == 0:
            return
        if weights is None:
            weight = np.ones(n)
        else:
            weight = floats("weights", weights, (n,))
            if weight.min() < 0:
                raise ValueError(f"weights must not be negative, got {weight.min():g}")
        if self.forgetting < 1.0:
            weight = weight * self.forgetting ** np.arange(n - 1, -1, -1)
        weighted = self._tensor(rows * weight[:, None])
        if self.forgetting < 1.0:
            self.gram *= self.forgetting**n
            self.moment *= self.forgetting**n
        # Through one GEMM: rank n at once instead of n outer products.
        self.gram.addmm_(weighted.T, self._tensor(rows))
        self.moment.addmv_(weighted.T, self._tensor(y))
        self.rounds += n
        self._forget_caches()

    def forget(self, gamma: float) -> None:
        """Scale the data's weight by gamma, for methods that discount once per round; the prior stays."""
        gamma = number("gamma", gamma, low=0.0, high=1.0)
        self.gram *= gamma
        self.moment *= gamma
        self._forget_caches()

    def _observations(self, features: Array, targets: Array) -> tuple[np.ndarray, np.ndarray]:
        if np.ndim(targets) == 0:
            features, targets = np.asarray(features)[None], np.asarray(targets)[None]
        y = floats("targets", targets, (None,))
        rows = floats("features", features, (len(y), self.dim))
        moderate("features", rows)
        moderate("targets", y)
        return np.ascontiguousarray(rows), y

    def sample(self, generator: np.random.Generator, scale: float = 1.0) -> Tensor:
        """Draw theta ~ N(A^-1 b, scale^2 A^-1), shape [p]; scale 0 returns the mean without touching the generator."""
        if scale == 0.0:
            return self.mean
        noise = self._tensor(generator.standard_normal(self.dim))
        return self.mean + scale * torch.linalg.solve_triangular(self.cholesky.T, noise[:, None], upper=True)[:, 0]

    def sigma(self, features: Tensor) -> Tensor:
        """sqrt(phi' A^-1 phi) for full feature rows [n, p] (float64), shape [n]."""
        return torch.linalg.vector_norm(torch.linalg.solve_triangular(self.cholesky, features.T, upper=False), dim=0)

    def block_sigma(self, contexts: Tensor, blocks: int) -> Tensor:
        """sigma of x (x) e_k for every context and block, as one GEMM.

        The first `blocks * d` features are read as `blocks` blocks of d, so entry [i, k] is the norm of context i
        placed into block k.

        Parameters
        ----------
        contexts : Tensor, shape [n, d]
            On the posterior's device.
        blocks : int
            Number of blocks K.

        Returns
        -------
        Tensor, shape [n, blocks], float32
        """
        d = contexts.shape[1]
        key = (blocks, d)
        if key not in self._stacked:
            covariance = self.covariance[: blocks * d, : blocks * d]
            diagonal = covariance.reshape(blocks, d, blocks, d).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
            self._stacked[key] = stack_factors(diagonal)
        return block_sigma(contexts.to(torch.float32), self._stacked[key], blocks)

    def merge(self, other: Posterior) -> None:
        """Add another worker's data: equals one posterior that saw all of it, up to rounding.

        With forgetting each worker's data keep the age they have in their own stream, as if the streams had run side
        by side; one stream after the other would have aged the first.

        Raises
        ------
        ValueError
            If the priors or the forgetting differ; this posterior is then unchanged.
        """
        self.check_mergeable(other)
        self.gram += other.gram.to(self.device)
        self.moment += other.moment.to(self.device)
        self.rounds += other.rounds
        self._forget_caches()

    def check_mergeable(self, other: Posterior) -> None:
        """Raise the ValueError of `merge` if the other posterior cannot be added."""
        if self.dim != other.dim or not (
            torch.equal(self.precision.cpu(), other.precision.cpu())
            and torch.equal(self.prior_mean.cpu(), other.prior_mean.cpu())
        ):
            raise ValueError("only posteriors with the same dimension, prior mean and prior precision can be merged")
        if self.forgetting != other.forgetting:
            raise ValueError(
                f"only posteriors with the same forgetting can be merged, got {self.forgetting:g} and "
                f"{other.forgetting:g}"
            )

    def reset(self) -> None:
        """Forget all data and keep the prior."""
        self.gram.zero_()
        self.moment.zero_()
        self.rounds = 0
        self._forget_caches()

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all tensors, on the CPU."""
        tensors = {name: getattr(self, name) for name in ("precision", "prior_mean", "gram", "moment")}
        state = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        state["rounds"] = torch.tensor(self.rounds, dtype=torch.int64)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            For missing or unknown tensors, another dimension or non-finite entries; nothing is changed then.
        """
        shapes = {"precision": (self.dim,), "prior_mean": (self.dim,), "gram": (self.dim,) * 2, "moment": (self.dim,)}
        if set(state) != {*shapes, "rounds"}:
            raise ValueError(f"posterior state must hold {sorted([*shapes, 'rounds'])}, got {sorted(state)}")
        loaded = {name: floats(f"posterior state {name!r}", state[name], shape) for name, shape in shapes.items()}
        if loaded["precision"].min() <= 0:
            raise ValueError("posterior state 'precision' must be positive")
        gram = loaded["gram"]
        if not np.allclose(gram, gram.T, rtol=1e-6, atol=1e-9 * (1.0 + np.abs(gram).max())):
            raise ValueError("posterior state 'gram' must be symmetric")
        try:
            cholesky(self._tensor(gram + np.diag(loaded["precision"])))
        except ValueError:
            raise ValueError("posterior state 'gram' plus 'precision' must be positive definite") from None
        for name, array in loaded.items():
            setattr(self, name, self._tensor(array))
        self.rounds = int(state["rounds"])
        self._forget_caches()
