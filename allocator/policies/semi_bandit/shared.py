"""Shared-parameter linear models for semi-bandit feedback: one reward per patch.

The reward of arm k on patch i is f(i, k)' theta with f(i, k) = x_i (x) phi_k. The arm features phi [K, q] decide what
is shared: the identity shares nothing (disjoint), one column shares one theta scaled by that column, both together are
the hybrid model of Li et al. 2010.
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
from ..linear import Linear


@dataclass(kw_only=True, eq=False)
class SemiLinear(Linear):
    """Base of the semi-bandit methods with one shared parameter; by itself it is optimistic.

    Covariates are recorded, not modelled: facts about the question that change what an arm earns belong into every
    patch's context, those that change every arm alike need no model.

    Parameters
    ----------
    dim, arms : int
        Context dimension d and number of arms K.
    arm_features : array-like, shape [K, q], optional
        phi. None: the method's own default.
    alpha : float
        Width of the confidence bound.
    prior_mean : array-like, shape [q, d], optional
        theta0, one row per column of phi; zero if None.
    prior_precision : float
        Ridge strength.
    forgetting : float
        Discount per round.
    device : str
        Where the posterior lives.
    **options
        See `Policy`.
    """

    feedback: ClassVar[Literal["none", "full", "semi"]] = "semi"
    needs_model: ClassVar[bool] = True

    arm_features: Any = None
    alpha: float = 0.25
    prior_mean: Any = None
    prior_precision: float = 1.0
    forgetting: float = 1.0
    device: str = "cpu"
    phi: FloatArray = field(init=False, repr=False)
    posterior: Posterior = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        arms = count("arms", self.arms)
        number("alpha", self.alpha, low=0.0)
        number("forgetting", self.forgetting, low=1e-6, high=1.0)
        given = self._default_features() if self.arm_features is None else self.arm_features
        self.phi = floats("arm_features", given, (arms, None))
        shape = (self.phi.shape[1], count("dim", self.dim))
        mean = None if self.prior_mean is None else floats("prior_mean", self.prior_mean, shape).ravel()
        self.posterior = Posterior(shape[0] * shape[1], precision=self.prior_precision, mean=mean, device=self.device)

    def _default_features(self) -> FloatArray:
        """phi where the caller gives none: floor-relative slots, so the floor is worth 0 for certain."""
        return np.eye(count("arms", self.arms))[:, 1:] if self.arms != 1 else np.ones((1, 1))

    def _score(self, problem: Problem) -> FloatArray:
        joint = np.einsum("nd,kq->nkqd", problem.contexts, self.phi).reshape(-1, self.posterior.dim)
        features = tensor(joint, self.posterior.device)
        values = features @ self.posterior.mean
        if problem.temperature > 0:
            values = values + self.alpha * problem.temperature * self.posterior.sigma(features)
        return values.view(problem.costs.shape).cpu().numpy()

    def _features(self, contexts: FloatArray, covariates: FloatArray, index: IntArray) -> FloatArray:
        return np.einsum("nd,nq->nqd", contexts, self.phi[index]).reshape(len(index), -1)

    def _posteriors(self) -> list[Posterior]:
        return [self.posterior]

    def _total(self, decision: Decision) -> FloatArray:
        """Features of the super-arm's whole reward: those of its patches add up."""
        return self._features(decision.contexts, decision.covariates, decision.index).sum(axis=0)

    def _learn(self, decisions: Sequence[Decision], rewards: list[FloatArray]) -> None:
        rows = [self._features(decision.contexts, decision.covariates, decision.index) for decision in decisions]
        if self.forgetting == 1.0 and rows:
            self.posterior.update(np.concatenate(rows), np.concatenate(rewards))
            return
        for features, reward in zip(rows, rewards, strict=True):
            self.posterior.forget(self.forgetting)
            self.posterior.update(features, reward)

    def _tensors(self) -> dict[str, Tensor]:
        return {f"posterior.{name}": tensor for name, tensor in self.posterior.state_dict().items()}

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.posterior.load_state_dict({name.removeprefix("posterior."): value for name, value in tensors.items()})
