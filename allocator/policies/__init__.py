"""The methods, one file each; importing this package registers them."""

from allocator.policies.boltzmann import Boltzmann
from allocator.policies.epsilon_greedy import EpsilonGreedy
from allocator.policies.fixed import Fixed
from allocator.policies.heuristic import Heuristic
from allocator.policies.oracle import Oracle
from allocator.policies.random import Random
from allocator.policies.thompson import Thompson
from allocator.policies.ucb import UCB
from allocator.policies.uniform import Uniform

__all__ = ["UCB", "Boltzmann", "EpsilonGreedy", "Fixed", "Heuristic", "Oracle", "Random", "Thompson", "Uniform"]
