"""CN-UCB: combinatorial neural upper confidence bounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...checks import FloatArray
from ...registry import register_policy
from .neural_ucb import NeuralUCB


@register_policy("cn_ucb")
@dataclass(kw_only=True, eq=False)
class CNUCB(NeuralUCB):
    """Hwang, Chai & Oh 2023, algorithm 1: neural scores u = f + nu sqrt(g' Z^-1 g), then the oracle over super-arms.

    Parameters
    ----------
    **options
        See `NeuralSemi`; the default arm features are slots relative to the floor, which is worth 0, so with two arms
        the super-arm is the subset of chosen patches.
    """

    def _default_features(self, arms: int) -> FloatArray:
        return np.eye(arms)[:, 1:] if arms > 1 else np.ones((1, 1))
