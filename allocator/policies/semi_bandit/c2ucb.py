"""C2UCB: contextual combinatorial upper confidence bounds."""

from __future__ import annotations

from dataclasses import dataclass

from ...registry import register_policy
from .shared import SemiLinear


@register_policy("c2ucb")
@dataclass(kw_only=True, eq=False)
class C2UCB(SemiLinear):
    """One theta for all base arms, an optimistic score per base arm, the oracle over the scores.

    Qin, Chen & Zhu 2014, *Contextual combinatorial bandit and its application on diversified online recommendation*,
    algorithm 1: r(i, k) = f(i, k)' theta + alpha ||f(i, k)||_{V^-1}.

    Parameters
    ----------
    **options
        See `SemiLinear`; the default arm features are slots relative to the floor.
    """
