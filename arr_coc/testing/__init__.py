"""Contract tests for parts of your own: each `check_...` raises `Broken` with the rule that does not hold.

They are ordinary functions, to be called from any test: ``check_scorer(MyScorer())``. Our own parts pass the same
ones.
"""

from .base import Broken
from .models import check_family, check_realizer
from .policies import check_policy
from .rewards import check_reward
from .scorers import check_scorer, make_scene

__all__ = [
    "Broken",
    "check_family",
    "check_policy",
    "check_realizer",
    "check_reward",
    "check_scorer",
    "make_scene",
]
