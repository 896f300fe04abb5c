"""NeuralUCB."""

from __future__ import annotations

from dataclasses import dataclass

from ...checks import FloatArray
from ...registry import register_policy
from .neural_base import NeuralSemi


@register_policy("neural_ucb")
@dataclass(kw_only=True, eq=False)
class NeuralUCB(NeuralSemi):
    """Zhou, Li & Gu 2020, algorithm 1: value = f + nu sqrt(g' Z^-1 g).

    Parameters
    ----------
    **options
        See `NeuralSemi`.
    """

    def _explore(self, mean: FloatArray, deviation: FloatArray) -> FloatArray:
        return mean + deviation
