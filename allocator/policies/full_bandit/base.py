"""One linear model of the whole super-arm's reward: full-bandit feedback without splitting the credit.

The reward of an allocation s is modelled as

    y = c' z + sum_i f(i, s_i)' theta + noise,    f(i, 0) = 0,   f(i, k) = x_i (x) e_k,

so the regressor is Phi(s) = [sum_i f(i, s_i); 1; z] and one scalar reward teaches all slots at once. Values relative
to the floor are separable over patches, which keeps the knapsack oracle exact. Broadcasting or splitting the reward
over the patches would instead teach every patch the others' luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from ...checks import FloatArray, IntArray, count, floats, number
from ...decision import Decision
from ...linalg import tensor
from ...posterior import Posterior
from ...problem import Problem
from ..caution import Cautious
from ..linear import Linear
from ..valued import NOISE


@dataclass(kw_only=True, eq=False)
class Aggregated(Cautious, Linear):
    """Base of the full-bandit methods; by itself it is greedy in the posterior mean.

    Parameters
    ----------
    dim, arms : int
        Context dimension d and number of arms K; arm 0 is the floor.
    covariates : int
        Number m of covariates z.
    prior_mean : array-like, shape [K-1, d], optional
        theta0 of the slots, e.g. a score heuristic; zero if None.
    prior_precision : float or array-like, shape [K-1, d]
        Diagonal of A0 for the slots, in observations of unit noise: 10 to 50 makes a prior mean count.
    covariate_precision : float
        Precision of the intercept and the covariates, whose prior mean is zero.
    forgetting : float
        gamma in (0, 1]; below 1 for drifting rewards.
    device : str
        Where the posterior lives.
    **options
        See `Cautious` and `Policy`.
    """

    feedback: ClassVar[Literal["none", "full", "semi"]] = "full"
    needs_model: ClassVar[bool] = True

    prior_mean: Any = None
    prior_precision: Any = 1.0
    covariate_precision: float = 0.1
    forgetting: float = 1.0
    device: str = "cpu"
    slots: tuple[int, int] = field(init=False, repr=False)  # (K - 1, features per patch)
    posterior: Posterior = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slots = shape = (count("arms", self.arms, low=2) - 1, self._width())
        mean = np.zeros(shape) if self.prior_mean is None else floats("prior_mean", self.prior_mean, shape)
        precision = self.prior_precision
        if np.ndim(precision) == 0:
            precision = np.full(shape, number("prior_precision", precision))
        precision = floats("prior_precision", precision, shape)
        other = np.full(1 + self.covariates, number("covariate_precision", self.covariate_precision))
        self.posterior = Posterior(
            mean.size + other.size,
            precision=np.concatenate([precision.ravel(), other]),
            mean=np.concatenate([mean.ravel(), np.zeros(other.size)]),
            forgetting=self.forgetting,
            device=self.device,
        )

    def _width(self) -> int:
        """Number of features per patch and arm."""
        return count("dim", self.dim)

    def _encode(self, contexts: FloatArray) -> FloatArray:
        """Features [N, width] of contexts [N, d]; the identity for linear methods."""
        return contexts

    def _slots(self, theta: Tensor) -> FloatArray:
        """The [K-1, width] slot weights of a parameter vector."""
        return theta[: self.slots[0] * self.slots[1]].view(self.slots).cpu().numpy()

    def _values(self, problem: Problem, theta: Tensor) -> FloatArray:
        values = np.zeros(problem.costs.shape)
        values[:, 1:] = self._encode(problem.contexts) @ self._slots(theta).T
        return values

    def _score(self, problem: Problem) -> FloatArray:
        return self._values(problem, self.posterior.mean)

    def _prior_values(self, problem: Problem) -> FloatArray | None:
        return self._values(problem, self.posterior.prior_mean)

    def stakes(self, contexts: FloatArray, covariates: FloatArray, probabilities: FloatArray) -> FloatArray:
        """The expected Phi, ``[p]``: it is a sum over patches."""
        slots = probabilities[:, 1:].T @ self._encode(contexts)
        return np.concatenate([slots.ravel(), [1.0], covariates])

    def weigh(self, stakes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """By the posterior; see `Valued`."""
        rows = tensor(stakes, self.posterior.device)
        return (rows @ self.posterior.mean).cpu().numpy(), NOISE * self.posterior.sigma(rows).cpu().numpy()

    def forget(self, gamma: float) -> None:
        """See `Posterior.forget`."""
        self.posterior.forget(gamma)
        self._acquit(gamma)

    def _features(self, contexts: FloatArray, covariates: FloatArray, index: IntArray) -> FloatArray:
        return self.stakes_of(contexts, covariates, index)

    def _posteriors(self) -> list[Posterior]:
        return [self.posterior]

    def _total(self, decision: Decision) -> FloatArray:
        return self._phi(decision)

    def _phi(self, decision: Decision) -> FloatArray:
        """Phi of any decision, also one that another method took."""
        if decision.features is not None and decision.features.shape == (self.posterior.dim,):
            return decision.features
        return self._features(decision.contexts, decision.covariates, decision.index)

    def _learn(self, decisions: Sequence[Decision], rewards: list[FloatArray]) -> None:
        if decisions:
            self.posterior.update(np.stack([self._phi(decision) for decision in decisions]), np.array(rewards))

    def _tensors(self) -> dict[str, Tensor]:
        return {f"posterior.{name}": tensor for name, tensor in self.posterior.state_dict().items()}

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.posterior.load_state_dict({name.removeprefix("posterior."): value for name, value in tensors.items()})

    def _sigmas(self, problem: Problem) -> FloatArray:
        """Posterior norm of every (patch, arm) above the floor, [N, K-1]."""
        features = tensor(self._encode(problem.contexts), self.posterior.device)
        return self.posterior.block_sigma(features, self.slots[0]).cpu().numpy()
