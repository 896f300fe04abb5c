"""Neural Thompson sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...checks import FloatArray
from ...registry import register_policy
from .neural_base import NeuralSemi


@register_policy("neural_ts")
@dataclass(kw_only=True, eq=False)
class NeuralTS(NeuralSemi):
    """Zhang, Zhou, Li & Gu 2021, algorithm 1: value ~ N(f, nu^2 lambda g' Z^-1 g), independently per patch and arm.

    The factor lambda (`ridge`) makes the deviation before any data nu |g|, whatever the ridge.

    Parameters
    ----------
    **options
        See `NeuralSemi`.
    """

    randomised: ClassVar[bool] = True

    def _explore(self, mean: FloatArray, deviation: FloatArray) -> FloatArray:
        return mean + self.ridge**0.5 * deviation * self.generator.standard_normal(mean.shape)
