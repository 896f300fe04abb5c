"""LinUCB with shared and per-arm parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...checks import FloatArray, count
from ...registry import register_policy
from .shared import SemiLinear


@register_policy("linucb_hybrid")
@dataclass(kw_only=True, eq=False)
class LinUCBHybrid(SemiLinear):
    """Li, Chu, Langford & Schapire 2010, algorithm 2: E[r(i, k)] = (x_i (x) a_k)' beta + x_i' theta_k.

    Ridge regression on the joint features is the same model as the paper's block elimination, with one factorisation.

    Parameters
    ----------
    **options
        See `SemiLinear`. `arm_features` [K, q] are the shared part's a_k, by default a constant and the arm's rank
        k / (K - 1); the K per-arm slots are appended.
    """

    def __post_init__(self) -> None:
        arms = count("arms", self.arms)
        if self.arm_features is not None and np.shape(self.arm_features)[:1] != (arms,):
            raise ValueError(f"arm_features must have shape [{arms}, any], got {list(np.shape(self.arm_features))}")
        shared = self._default_features() if self.arm_features is None else self.arm_features
        given, self.arm_features = self.arm_features, np.hstack([shared, np.eye(arms)])
        super().__post_init__()
        self.arm_features = given  # config() must return what the caller gave

    def _default_features(self) -> FloatArray:
        arms = count("arms", self.arms)
        return np.stack([np.ones(arms), np.linspace(0, 1, arms)], axis=1)
