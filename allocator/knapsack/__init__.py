"""The exact oracle: multiple-choice knapsack, solved, approximated with a bound, and sampled from.

``from allocator.knapsack import solve_knapsack`` is the everyday call.
"""

from .solver import KnapsackSolution, solve, solve_knapsack, solve_many

__all__ = ["KnapsackSolution", "solve", "solve_knapsack", "solve_many"]
