"""What is benchmarked: streams, rounds, and the methods that play them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from allocator.policy import Policy
from allocator.simulation.environments import Additive, Concave, Drifting, Environment, Product
from allocator.simulation.streams import Classification, CNTask

from .extras import optional
from .split import SplitReward

Method = tuple[str, str | type[Policy], dict[str, Any]]  # label, registered name or class, options

SHORT: list[Method] = [
    ("random", "random", {}),
    ("thompson", "thompson", {}),
    ("ucb", "ucb", {"alpha": 0.03}),
    ("epsilon_greedy", "epsilon_greedy", {}),
    ("boltzmann", "boltzmann", {"tau": 0.02}),
    ("thompson on split rewards", SplitReward, {}),
]
FULL: list[Method] = [
    *SHORT,
    ("explore_then_commit", "explore_then_commit", {"exploration": 100}),
    ("neural_linear", "neural_linear", {}),
    ("neural_linucb", "neural_linucb", {"alpha": 0.03}),
    ("neural_mixture", "neural_mixture", {}),
]
DRIFT: list[Method] = [
    *SHORT[:2],
    ("thompson, forgetting .99", "thompson", {"forgetting": 0.99}),
    ("windowed 200 + drift test", "windowed", {"window": 200, "drift": 1.0}),
]
NEURAL = {"nu": 0.01, "steps": 60, "rate": 1e-2}
SUBSETS: list[Method] = [
    ("random", "random", {}),
    ("c2ucb alpha 1", "c2ucb", {"alpha": 1.0}),
    ("cn_ucb", "cn_ucb", NEURAL),
    ("cn_ts", "cn_ts", NEURAL),
]
CLASSES: list[Method] = [
    ("random", "random", {}),
    ("linucb alpha .25", "linucb", {"alpha": 0.25}),
    ("linucb alpha .5", "linucb", {"alpha": 0.5}),
    ("lints nu .1", "lints", {"nu": 0.1}),
    ("neural_ucb", "neural_ucb", {**NEURAL, "width": 32, "train_every": 40}),
]
FEW: list[Method] = [  # whose work grows with the square or cube of dim x arms
    *CLASSES,
    ("linucb_hybrid", "linucb_hybrid", {}),
    ("neural_ts", "neural_ts", {**NEURAL, "width": 32, "train_every": 40}),
    ("neural_ts, full matrix", "neural_ts", {**NEURAL, "width": 8, "train_every": 40, "full": True}),
]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One stream and who plays it.

    Attributes
    ----------
    about : str
        What it is, in a few words.
    build : callable
        Seed -> environment.
    rounds : int
    methods : list of (label, name, options)
    labelled : bool
        A classification stream, which the peers can play too.
    """

    about: str
    build: Callable[[int], Environment]
    rounds: int
    methods: list[Method]
    labelled: bool = False


def _labelled(name: str) -> Callable[[int], Environment]:
    def build(seed: int) -> Environment:
        data, labels = getattr(optional("sklearn.datasets", "scikit-learn"), f"load_{name}")(return_X_y=True)
        return Classification(data=data, labels=labels, seed=seed)

    return build


TASKS: dict[str, Task] = {
    "iris": Task(about="3 classes, 4 features", build=_labelled("iris"), rounds=450, methods=FEW, labelled=True),
    "wine": Task(about="3 classes, 13 features", build=_labelled("wine"), rounds=534, methods=FEW, labelled=True),
    "breast_cancer": Task(
        about="2 classes, 30 features", build=_labelled("breast_cancer"), rounds=1707, methods=CLASSES, labelled=True
    ),
    "digits": Task(
        about="10 classes, 64 features", build=_labelled("digits"), rounds=5391, methods=CLASSES, labelled=True
    ),
    "cn-h1": Task(
        about="20 arms, choose 4, score x'a",
        build=lambda seed: CNTask(task="h1", seed=seed),
        rounds=2000,
        methods=SUBSETS,
    ),
    "cn-h2": Task(
        about="20 arms, choose 4, score (x'a)^2",
        build=lambda seed: CNTask(task="h2", seed=seed),
        rounds=600,
        methods=SUBSETS,
    ),
    "cn-h3": Task(
        about="20 arms, choose 4, score cos(pi x'a)",
        build=lambda seed: CNTask(task="h3", seed=seed),
        rounds=500,
        methods=SUBSETS,
    ),
    "additive": Task(
        about="6 patches, 4 budgets, one reward: the model holds",
        build=lambda seed: Additive(seed=seed),
        rounds=400,
        methods=FULL,
    ),
    "additive-binary": Task(
        about="the same with a reward of 0 or 1",
        build=lambda seed: Additive(seed=seed, binary=True),
        rounds=500,
        methods=SHORT,
    ),
    "concave": Task(
        about="gains with diminishing returns", build=lambda seed: Concave(seed=seed), rounds=250, methods=SHORT
    ),
    "product": Task(
        about="two patches must be legible at once", build=lambda seed: Product(seed=seed), rounds=300, methods=FULL
    ),
    "drifting": Task(
        about="the useful cue changes every 400 rounds",
        build=lambda seed: Drifting(seed=seed, period=400),
        rounds=800,
        methods=DRIFT,
    ),
}
# The slowest methods play this many seeds at most, unless --all-seeds: a core is not free.
SLOW = {
    ("digits", "lints nu .1"): 2,
    ("digits", "peer: mabwiser LinUCB"): 3,
    ("breast_cancer", "neural_ucb"): 5,
    ("cn-h1", "random"): 2,
    ("cn-h1", "cn_ucb"): 3,
    ("cn-h1", "cn_ts"): 3,
}


def noise_floor(task: str, seed: int, rounds: int) -> float:
    """What the oracle itself loses on a CN task against the best *noisy* rewards, which the published code counts.

    The regret recorded here is that of expected rewards; a published figure is this much higher.
    """
    world = TASKS[task].build(seed)
    if not isinstance(world, CNTask):
        raise ValueError(f"task {task!r} is not one of the CN tasks")
    noise, lost = np.random.default_rng(seed), 0.0
    for _ in range(rounds):
        means = np.asarray(world.draw().arm_means)[:, 1]
        seen = means + world.noise * noise.standard_normal(len(means))
        lost += float(np.sort(seen)[-world.chosen :].sum() - seen[np.argsort(means)[-world.chosen :]].sum())
    return lost
