"""Combinatorial contextual bandits that spend a budget: exact oracle, exact propensities, exact resume.

One question puts N patches (base arms' slots) with K arms each; a policy selects one arm per patch (the super-arm)
under a limit or at a price, and learns from one scalar reward (full-bandit) or one per patch (semi-bandit).

    policy = make_policy("thompson", dim=8, arms=4)
    decision = policy.select(contexts, costs=[64, 128, 256, 400], limit=1000)
    policy.update(decision, reward=1.0)
"""

from . import policies
from .decision import Decision
from .knapsack.solver import KnapsackSolution, solve, solve_knapsack, solve_many
from .policy import Policy
from .posterior import Posterior
from .registry import make_policy, policy_class, policy_names, register_policy
from .trackers.price import PriceTracker
from .trackers.share import ShareTracker

__all__ = [
    "Decision",
    "KnapsackSolution",
    "Policy",
    "Posterior",
    "PriceTracker",
    "ShareTracker",
    "make_policy",
    "policies",
    "policy_class",
    "policy_names",
    "register_policy",
    "solve",
    "solve_knapsack",
    "solve_many",
]
