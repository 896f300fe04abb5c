"""Conservative play: never fall far behind a baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...checks import floats, number
from ...decision import Decision
from ...linalg import tensor
from ...policy import Policy
from ...problem import Problem
from ...registry import register_policy
from ..full_bandit.neural_base import NeuralAggregated
from ..linear import Linear
from .base import Wrapped


@register_policy("conservative")
@dataclass(kw_only=True, eq=False)
class Conservative(Wrapped):
    """Play the inner policy's choice only while the baseline's cumulative reward is safe.

    CLUCB (Kazerouni, Ghavamzadeh, Abbasi-Yadkori & Van Roy 2017) for a baseline of unknown reward. With Phi_t the
    features played so far and Phi^b_t the baseline's, the candidate c is played iff the lower confidence bound of

        (sum_t Phi_t + Phi_c)' theta - (1 - alpha) (sum_t Phi^b_t + Phi^b)' theta

    is not negative, else the baseline's super-arm: one vector of differences carries the whole history. An exploring
    `select` counts as a play.

    Parameters
    ----------
    alpha : float
        Share of the baseline's reward that may be risked.
    confidence_width : float
        Multiple of the posterior deviation in the bound, in reward units.
    baseline : str
        Registered name of the baseline, deterministic.
    baseline_options : dict, optional
        Its options.
    **options
        See `Wrapped`; the inner policy must be a linear one.

    Attributes
    ----------
    balance : Tensor, shape [p]
        sum_t Phi_t - (1 - alpha) sum_t Phi^b_t.
    """

    alpha: float = 0.1
    confidence_width: float = 0.3
    baseline: str = "uniform"
    baseline_options: Any = None
    balance: Tensor = field(init=False, repr=False)
    safe: Policy = field(init=False, repr=False)
    model: Linear = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        number("alpha", self.alpha, low=0.0, high=1.0)
        number("confidence_width", self.confidence_width, low=0.0)
        self.safe = self._build(self.baseline, self.baseline_options)
        if not isinstance(self.policy, Linear) or isinstance(self.policy, NeuralAggregated):
            raise ValueError(f"the inner policy must be a linear one, {self.inner!r} is not")
        if self.safe.randomised:
            raise ValueError(f"the baseline must be deterministic, {self.baseline!r} is not")
        self.model = self.policy
        self.balance = torch.zeros(sum(item.dim for item in self.model._posteriors()), dtype=torch.float64)

    def _undo(self) -> Callable[[], None]:
        draws, balance = super()._undo(), self.balance

        def undo() -> None:
            draws()
            self.balance = balance

        return undo

    def _decide(self, problem: Problem) -> Decision:
        candidate = super()._decide(problem)
        fallback = self.safe._decide(problem)
        mine, other = (tensor(self.model._total(decision)) for decision in (candidate, fallback))
        bound = self._lower_bound(self.balance + mine - (1.0 - self.alpha) * other)
        drawn = candidate.log_propensity != 0.0
        played = mine
        if bound < 0:
            played = other
            features = self._features(fallback.contexts, fallback.covariates, fallback.index)
            decision = replace(fallback, policy=self.name, features=features)
        else:
            decision = candidate
        if drawn:
            # Whether a drawn candidate is safe depends on the draw: patches are no longer independent, and the
            # baseline's super-arm stands for every candidate that was not safe, whose probabilities nobody adds up.
            unknown = bound < 0 or bool((candidate.index == fallback.index).all())
            log_propensity = None if unknown else candidate.log_propensity
            decision = replace(decision, log_propensity=log_propensity, probabilities=None)
        if problem.temperature > 0:
            self.balance = self.balance + played - (1.0 - self.alpha) * other
        return decision

    def _lower_bound(self, direction: Tensor) -> float:
        """Mean of direction' theta minus its deviation times the width; independent posteriors add their variances."""
        mean, variance, start = 0.0, 0.0, 0
        for posterior in self.model._posteriors():
            part = direction[start : start + posterior.dim].to(posterior.device)
            mean += float(part @ posterior.mean)
            variance += float(posterior.sigma(part[None])) ** 2
            start += posterior.dim
        return mean - self.confidence_width * variance**0.5

    def _learn(self, decisions: Any, rewards: Any) -> None:
        self.policy.update_many(decisions, rewards)

    def _tensors(self) -> dict[str, Tensor]:
        return super()._tensors() | {"balance": self.balance.clone()}

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        if "balance" not in tensors:
            raise ValueError(f"state of policy {self.name!r} lacks the tensor 'balance'")
        balance = floats("balance", tensors.pop("balance"), tuple(self.balance.shape))
        super()._load_tensors(tensors)
        self.balance = tensor(balance)
