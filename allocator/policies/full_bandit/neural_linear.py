"""Neural-linear Thompson sampling."""

from __future__ import annotations

from dataclasses import dataclass

from ...registry import register_policy
from .neural_base import NeuralAggregated
from .thompson import Thompson


@register_policy("neural_linear")
@dataclass(kw_only=True, eq=False)
class NeuralLinear(NeuralAggregated, Thompson):
    """Thompson sampling on the last layer of a trained encoder (Riquelme et al. 2018), full-bandit feedback.

    Parameters
    ----------
    **options
        See `NeuralAggregated` and `Thompson`.
    """
