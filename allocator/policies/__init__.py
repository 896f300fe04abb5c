"""The methods, one file each; importing this package registers them."""

from allocator.policies.boltzmann import Boltzmann
from allocator.policies.c2ucb import C2UCB
from allocator.policies.cn_ts import CNTS
from allocator.policies.cn_ucb import CNUCB
from allocator.policies.conservative import Conservative
from allocator.policies.epsilon_greedy import EpsilonGreedy
from allocator.policies.explore_then_commit import ExploreThenCommit
from allocator.policies.fixed import Fixed
from allocator.policies.heuristic import Heuristic
from allocator.policies.lints import LinTS
from allocator.policies.linucb import LinUCB
from allocator.policies.linucb_hybrid import LinUCBHybrid
from allocator.policies.neural_linear import NeuralLinear
from allocator.policies.neural_linucb import NeuralLinUCB
from allocator.policies.neural_ts import NeuralTS
from allocator.policies.neural_ucb import NeuralUCB
from allocator.policies.oracle import Oracle
from allocator.policies.random import Random
from allocator.policies.thompson import Thompson
from allocator.policies.ucb import UCB
from allocator.policies.uniform import Uniform
from allocator.policies.windowed import Windowed

__all__ = [
    "Boltzmann",
    "C2UCB",
    "CNTS",
    "CNUCB",
    "Conservative",
    "EpsilonGreedy",
    "ExploreThenCommit",
    "Fixed",
    "Heuristic",
    "LinTS",
    "LinUCB",
    "LinUCBHybrid",
    "NeuralLinUCB",
    "NeuralLinear",
    "NeuralTS",
    "NeuralUCB",
    "Oracle",
    "Random",
    "Thompson",
    "UCB",
    "Uniform",
    "Windowed",
]
