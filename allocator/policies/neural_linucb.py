"""Neural-LinUCB."""

from __future__ import annotations

from dataclasses import dataclass

from allocator.policies.neural_aggregated import NeuralAggregated
from allocator.policies.ucb import UCB
from allocator.registry import register_policy


@register_policy("neural_linucb")
@dataclass(kw_only=True, eq=False)
class NeuralLinUCB(NeuralAggregated, UCB):
    """Confidence bounds on the last layer of a trained encoder (Xu et al. 2020), full-bandit feedback.

    Parameters
    ----------
    **options
        See `NeuralAggregated` and `UCB`.
    """
