"""The methods, one file each; importing this package registers them."""

from .baselines.fixed import Fixed
from .baselines.heuristic import Heuristic
from .baselines.oracle import Oracle
from .baselines.random import Random
from .baselines.uniform import Uniform
from .full_bandit.boltzmann import Boltzmann
from .full_bandit.epsilon_greedy import EpsilonGreedy
from .full_bandit.explore_then_commit import ExploreThenCommit
from .full_bandit.neural_linear import NeuralLinear
from .full_bandit.neural_linucb import NeuralLinUCB
from .full_bandit.neural_mixture import NeuralMixture
from .full_bandit.thompson import Thompson
from .full_bandit.ucb import UCB
from .modifiers.conservative import Conservative
from .modifiers.windowed import Windowed
from .semi_bandit.c2ucb import C2UCB
from .semi_bandit.cn_ts import CNTS
from .semi_bandit.cn_ucb import CNUCB
from .semi_bandit.lints import LinTS
from .semi_bandit.linucb import LinUCB
from .semi_bandit.linucb_hybrid import LinUCBHybrid
from .semi_bandit.neural_ts import NeuralTS
from .semi_bandit.neural_ucb import NeuralUCB

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
    "NeuralMixture",
    "NeuralTS",
    "NeuralUCB",
    "Oracle",
    "Random",
    "Thompson",
    "UCB",
    "Uniform",
    "Windowed",
]
