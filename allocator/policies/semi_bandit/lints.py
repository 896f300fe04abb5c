"""Linear Thompson sampling with disjoint models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...checks import FloatArray, number
from ...problem import Problem
from ...registry import register_policy
from .disjoint import Disjoint


@register_policy("lints")
@dataclass(kw_only=True, eq=False)
class LinTS(Disjoint):
    """Agrawal & Goyal 2013: theta_k ~ N(A_k^-1 b_k, nu^2 A_k^-1) per arm, then the oracle on x_i' theta_k.

    Parameters
    ----------
    nu : float
        Posterior scale.
    **options
        See `Disjoint`.
    """

    randomised: ClassVar[bool] = True

    nu: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        number("nu", self.nu, low=0.0)

    def _score(self, problem: Problem) -> FloatArray:
        scale = self.nu * problem.temperature
        drawn = torch.stack([posterior.sample(self.generator, scale) for posterior in self.posteriors], dim=1)
        return (self._contexts(problem) @ drawn).cpu().numpy()
