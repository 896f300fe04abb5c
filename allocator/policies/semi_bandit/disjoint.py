"""One independent linear model per arm, learned from one reward per patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ...checks import FloatArray, IntArray, count, floats, number
from ...decision import Decision
from ...linalg import tensor
from ...posterior import Posterior
from ...problem import Problem
from ..linear import Linear


@dataclass(kw_only=True, eq=False)
class Disjoint(Linear):
    """Base of the disjoint methods: E[r(i, k)] = x_i' theta_k; by itself it is greedy.

    Covariates are recorded, not modelled, as in `SemiLinear`.

    Parameters
    ----------
    dim, arms : int
        Context dimension d and number of arms K.
    prior_mean : array-like, shape [K, d], optional
        theta0 of every arm; zero if None.
    prior_precision : float
        Ridge strength of every arm.
    forgetting : float
        Discount of all arms per round. D-LinUCB (Russac, Vernade & Cappe 2019) bounds with A^-1 A~ A^-1, where A~
        discounts by gamma^2; that norm is at most the A^-1 norm used here, so the bound stays valid, a little wider.
    device : str
        Where the posteriors live.
    **options
        See `Policy`.
    """

    feedback: ClassVar[Literal["none", "full", "semi"]] = "semi"
    needs_model: ClassVar[bool] = True

    prior_mean: Any = None
    prior_precision: float = 1.0
    forgetting: float = 1.0
    device: str = "cpu"
    posteriors: list[Posterior] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("forgetting", self.forgetting, low=1e-6, high=1.0)
        dim = count("dim", self.dim)
        shape = (count("arms", self.arms), dim)
        means = np.zeros(shape) if self.prior_mean is None else floats("prior_mean", self.prior_mean, shape)
        self.posteriors = [Posterior(dim, precision=self.prior_precision, mean=m, device=self.device) for m in means]

    def _contexts(self, problem: Problem) -> Tensor:
        return tensor(problem.contexts, self.device)

    def _score(self, problem: Problem) -> FloatArray:
        means = torch.stack([posterior.mean for posterior in self.posteriors], dim=1)
        return (self._contexts(problem) @ means).cpu().numpy()

    def _features(self, contexts: FloatArray, covariates: FloatArray, index: IntArray) -> FloatArray:
        return contexts

    def _posteriors(self) -> list[Posterior]:
        return self.posteriors

    def _total(self, decision: Decision) -> FloatArray:
        """Features of the super-arm's whole reward, one block per arm."""
        total = np.zeros((len(self.posteriors), self.posteriors[0].dim))
        np.add.at(total, decision.index, decision.contexts)
        return total.ravel()

    def _learn(self, decisions: Sequence[Decision], rewards: list[FloatArray]) -> None:
        for decision, reward in zip(decisions, rewards, strict=True):
            if self.forgetting < 1.0:
                for posterior in self.posteriors:
                    posterior.forget(self.forgetting)
            for arm in np.unique(decision.index).tolist():
                chosen = decision.index == arm
                self.posteriors[arm].update(decision.contexts[chosen], reward[chosen])

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"posterior.{arm}.{name}": tensor
            for arm, posterior in enumerate(self.posteriors)
            for name, tensor in posterior.state_dict().items()
        }

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        loaded = []
        for arm in range(len(self.posteriors)):
            prefix = f"posterior.{arm}."
            posterior = Posterior(self.posteriors[arm].dim, precision=self.prior_precision, device=self.device)
            names = [name for name in tensors if name.startswith(prefix)]
            posterior.load_state_dict({name.removeprefix(prefix): tensors.pop(name) for name in names})
            loaded.append(posterior)
        if tensors:
            raise ValueError(f"policy {self.name!r} has no tensors {sorted(tensors)}")
        self.posteriors = loaded
