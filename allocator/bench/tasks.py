"""What is benchmarked: streams, rounds, and the methods that play them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from allocator.environments import Additive, Concave, Drifting, Environment, Product
from allocator.extras import optional
from allocator.streams import Classification, CNTask

Method = tuple[str, str, dict[str, Any]]  # label, registered name, options

FULL: list[Method] = [
    ("random", "random", {}),
    ("thompson", "thompson", {}),
    ("ucb", "ucb", {"alpha": 0.03}),
    ("epsilon_greedy", "epsilon_greedy", {}),
    ("boltzmann", "boltzmann", {"tau": 0.02}),
    ("explore_then_commit", "explore_then_commit", {"exploration": 150}),
    ("neural_linear", "neural_linear", {}),
]
DRIFT: list[Method] = [
    *FULL[:2],
    ("thompson, forgetting .99", "thompson", {"forgetting": 0.99}),
    ("windowed 200 + drift test", "windowed", {"window": 200, "drift": 1.0}),
]
SEMI: list[Method] = [
    ("random", "random", {}),
    ("c2ucb alpha 1", "c2ucb", {"alpha": 1.0}),
    ("c2ucb alpha .1", "c2ucb", {"alpha": 0.1}),
    ("cn_ucb", "cn_ucb", {"nu": 0.01, "steps": 60, "rate": 1e-2}),
    ("cn_ts", "cn_ts", {"nu": 0.01, "steps": 60, "rate": 1e-2}),
]
CLASSES: list[Method] = [
    ("random", "random", {}),
    ("linucb alpha .25", "linucb", {"alpha": 0.25}),
    ("lints nu .1", "lints", {"nu": 0.1}),
    ("neural_ucb", "neural_ucb", {"nu": 0.01, "steps": 60, "rate": 1e-2}),
]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One stream and who plays it.

    Attributes
    ----------
    build : callable
        Seed -> environment.
    rounds : int
    methods : list of (label, name, options)
    labelled : bool
        A classification stream, which the peers can play too.
    """

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
    "additive": Task(build=lambda seed: Additive(seed=seed), rounds=600, methods=FULL),
    "additive-binary": Task(build=lambda seed: Additive(seed=seed, binary=True), rounds=1500, methods=FULL),
    "concave": Task(build=lambda seed: Concave(seed=seed), rounds=600, methods=FULL),
    "product": Task(build=lambda seed: Product(seed=seed), rounds=600, methods=FULL),
    "drifting": Task(build=lambda seed: Drifting(seed=seed, period=400), rounds=1200, methods=DRIFT),
    "cn-h1": Task(build=lambda seed: CNTask(task="h1", seed=seed), rounds=2000, methods=SEMI),
    "cn-h2": Task(build=lambda seed: CNTask(task="h2", seed=seed), rounds=2000, methods=SEMI),
    "cn-h3": Task(build=lambda seed: CNTask(task="h3", seed=seed), rounds=4000, methods=SEMI),
    "digits": Task(build=_labelled("digits"), rounds=5391, methods=CLASSES, labelled=True),
    "breast_cancer": Task(build=_labelled("breast_cancer"), rounds=1707, methods=CLASSES, labelled=True),
    "wine": Task(build=_labelled("wine"), rounds=534, methods=CLASSES, labelled=True),
    "iris": Task(build=_labelled("iris"), rounds=450, methods=CLASSES, labelled=True),
}
