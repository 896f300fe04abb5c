"""Peer libraries behind one small contract, each with LinUCB (disjoint, lambda 1, alpha .25) or its nearest equal.

They are optional and installed apart from the project: `make bench-peers`, or pip install 'arr-coc[peers]'.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

from allocator.checks import FloatArray

from .extras import optional


class Peer(Protocol):
    """One context in, one arm out."""

    def choose(self, x: FloatArray) -> int: ...

    def learn(self, x: FloatArray, arm: int, reward: float) -> None: ...


class MABWiser:
    """mabwiser.mab.MAB with LearningPolicy.LinUCB(alpha, l2_lambda=1)."""

    def __init__(self, arms: int, dim: int, seed: int) -> None:
        module = optional("mabwiser.mab", "mabwiser")
        policy = module.LearningPolicy.LinUCB(alpha=0.25, l2_lambda=1.0)
        self.mab = module.MAB(arms=list(range(arms)), learning_policy=policy, seed=seed)
        # The library must be fitted before it predicts; a zero context with zero reward teaches nothing.
        self.mab.fit([0], [0.0], [np.zeros(dim).tolist()])

    def choose(self, x: FloatArray) -> int:
        return int(self.mab.predict([x.tolist()]))

    def learn(self, x: FloatArray, arm: int, reward: float) -> None:
        self.mab.partial_fit([arm], [reward], [x.tolist()])


class ContextualBandits:
    """contextualbandits.online.LinUCB(alpha, lambda_=1, fit_intercept=False)."""

    def __init__(self, arms: int, dim: int, seed: int, alpha: float = 0.25) -> None:
        module = optional("contextualbandits.online", "contextualbandits")
        # random_state=0 fails an assertion of the library.
        self.model = module.LinUCB(
            nchoices=arms, alpha=alpha, lambda_=1.0, fit_intercept=False, beta_prior=None, random_state=seed + 1
        )
        self.model.partial_fit(np.zeros((1, dim)), np.zeros(1, dtype=int), np.zeros(1))

    def choose(self, x: FloatArray) -> int:
        return int(self.model.predict(x[None])[0])

    def learn(self, x: FloatArray, arm: int, reward: float) -> None:
        self.model.partial_fit(x[None], np.array([arm]), np.array([reward]))


class VowpalWabbit:
    """vowpalwabbit --cb_explore K --squarecb, the best on digits of 13 settings tried (the runner-up was --bag 5)."""

    def __init__(self, arms: int, dim: int, seed: int) -> None:
        module = optional("vowpalwabbit", "vowpalwabbit")
        options = f"--cb_explore {arms} --squarecb --gamma_scale 1000 -l 2"
        self.workspace = module.Workspace(f"{options} --quiet --random_seed {seed + 1}")
        self.generator = np.random.default_rng(seed)
        self.probability = 1.0

    def _line(self, x: FloatArray, label: str) -> str:
        return f"{label} | " + " ".join(f"f{j}:{v:.6g}" for j, v in enumerate(x) if v != 0.0)

    def choose(self, x: FloatArray) -> int:
        p = np.asarray(self.workspace.predict(self._line(x, "")), dtype=np.float64)
        arm = int(self.generator.choice(len(p), p=p / p.sum()))
        self.probability = float(p[arm])
        return arm

    def learn(self, x: FloatArray, arm: int, reward: float) -> None:
        self.workspace.learn(self._line(x, f"{arm + 1}:{-reward}:{self.probability}"))


PEERS: dict[str, Callable[[int, int, int], Any]] = {
    "peer: mabwiser LinUCB": MABWiser,
    "peer: contextualbandits LinUCB": ContextualBandits,
    "peer: contextualbandits LinUCB alpha .5": partial(ContextualBandits, alpha=0.5),
    "peer: vowpalwabbit squarecb": VowpalWabbit,
}
