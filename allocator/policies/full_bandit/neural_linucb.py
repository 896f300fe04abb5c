"""Neural-LinUCB."""

from __future__ import annotations

from dataclasses import dataclass

from ...registry import register_policy
from .neural_base import NeuralAggregated
from .ucb import UCB


@register_policy("neural_linucb")
@dataclass(kw_only=True, eq=False)
class NeuralLinUCB(NeuralAggregated, UCB):
    """Confidence bounds on the last layer of a trained encoder (Xu et al. 2020), full-bandit feedback.

    Parameters
    ----------
    **options
        See `NeuralAggregated` and `UCB`.
    """
