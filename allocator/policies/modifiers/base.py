"""Policies around another policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...decision import Choice
from ...policy import Policy
from ...problem import Problem
from ...registry import make_policy


@dataclass(kw_only=True, eq=False)
class Wrapped(Policy):
    """Base of the modifiers: it owns an inner policy and decides when and on what that one learns.

    Parameters
    ----------
    dim, arms, covariates, collapse, seed
        See `Policy`; handed to the inner policy.
    inner : str
        Registered name of the inner policy.
    inner_options : dict, optional
        Its further options.
    """

    inner: str = "thompson"
    inner_options: Any = None
    policy: Policy = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.policy = self._build(self.inner, self.inner_options)
        if isinstance(self.policy, Wrapped):
            raise ValueError(f"policy {self.name!r} cannot wrap {self.inner!r}: modifiers do not nest")
        self.policy.generator = self.generator  # one stream of draws, saved once
        self.feedback = self.policy.feedback  # type: ignore[misc]
        self.randomised = self.policy.randomised  # type: ignore[misc]

    def _build(self, name: str, options: Any) -> Policy:
        shape = {option: getattr(self, option) for option in ("dim", "arms", "covariates", "collapse", "seed")}
        return make_policy(name, **{**shape, **(options or {})})

    def _score(self, problem: Problem) -> Any:
        return self.policy._score(problem)

    def _choose(self, problem: Problem, net: Any) -> Choice:
        return self.policy._choose(problem, net)

    def _features(self, contexts: Any, covariates: Any, index: Any) -> Any:
        return self.policy._features(contexts, covariates, index)

    def _tensors(self) -> dict[str, Tensor]:
        return {f"inner.{name}": tensor for name, tensor in self.policy._tensors().items()}

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.policy._load_tensors({name.removeprefix("inner."): value for name, value in tensors.items()})

    def _extra(self) -> dict[str, Any]:
        return {"inner_rounds": self.policy.rounds, "inner": self.policy._extra()}

    def _load_extra(self, extra: dict[str, Any]) -> None:
        if set(extra) != {"inner_rounds", "inner"}:
            raise ValueError(f"state of policy {self.name!r} needs inner_rounds and inner, got {sorted(extra)}")
        self.policy._load_extra(extra["inner"])
        self.policy.rounds = int(extra["inner_rounds"])
