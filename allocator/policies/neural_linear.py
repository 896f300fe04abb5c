"""Neural-linear Thompson sampling."""

from __future__ import annotations

from dataclasses import dataclass

from allocator.policies.neural_aggregated import NeuralAggregated
from allocator.policies.thompson import Thompson
from allocator.registry import register_policy


@register_policy("neural_linear")
@dataclass(kw_only=True, eq=False)
class NeuralLinear(NeuralAggregated, Thompson):
    """Thompson sampling on the last layer of a trained encoder (Riquelme et al. 2018), full-bandit feedback.

    Parameters
    ----------
    **options
        See `NeuralAggregated` and `Thompson`.
    """
