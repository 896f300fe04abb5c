"""Semi-bandit and classification streams with published or known reference points."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..checks import Array, FloatArray, IntArray, floats, ints
from .environments import Environment, Round


@dataclass(kw_only=True, eq=False)
class Groups(Environment):
    """Two groups of patches whose needs differ: without a share constraint the needier one takes everything.

    The first half of the patches is group 0 (large gains), the second half group 1 (small gains).
    """

    groups: IntArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.groups = (np.arange(self.patches) >= self.patches // 2).astype(np.int64)

    def _draw(self) -> Round:
        x = self._contexts()
        x[:, 1] *= np.where(self.groups == 0, 1.0, 0.2)
        gains = x[:, 1:2] * np.array([0.0, 0.35, 0.8, 1.0]) / self.patches
        return self._separable(x, gains, base=0.35)


@dataclass(kw_only=True, eq=False)
class SemiBandit(Environment):
    """Base of the streams with one reward per patch, `rewards`; the scalar reward is their sum."""

    def rewards(self, question: Round, index: IntArray) -> FloatArray:
        """Noisy reward of every patch, [N]."""
        if question.arm_means is None:
            raise ValueError("this round has no per-patch rewards")
        means = question.arm_means[np.arange(len(index)), index]
        return means + self.noise * self.generator.standard_normal(len(index)) * (means != 0.0)

    def reward(self, question: Round, index: IntArray) -> float:
        return float(self.rewards(question, index).sum())

    def feedback(self, question: Round, index: IntArray, kind: str) -> float | FloatArray:
        return self.rewards(question, index) if kind == "semi" else self.reward(question, index)

    def _subset(self, x: FloatArray, means: FloatArray, size: int) -> Round:
        """Choose `size` of the patches: arm 1 costs one unit, arm 0 is free and worth nothing."""
        rows = np.arange(len(x))
        table = np.stack([np.zeros(len(x)), means], axis=1)
        return Round(
            contexts=x,
            covariates=np.zeros(0),
            costs=np.array([0, 1], dtype=np.int64),
            limit=size,
            expected=lambda index: float(table[rows, index].sum()),
            optimum=float(np.sort(np.maximum(means, 0.0))[-size:].sum()),
            arm_means=table,
        )


@dataclass(kw_only=True, eq=False)
class CNTask(SemiBandit):
    """The simulated tasks of Hwang, Chai & Oh 2023: 20 arms, d = 80, choose 4; noise .01.

    Contexts and the hidden a are uniform on the unit sphere; h1 = x'a, h2 = (x'a)^2, h3 = cos(pi x'a).

    Parameters
    ----------
    task : {"h1", "h2", "h3"}
        Score function.
    """

    task: Literal["h1", "h2", "h3"] = "h1"
    patches: int = 20
    noise: float = 0.01
    chosen: int = 4

    dim = 80
    arms = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in ("h1", "h2", "h3"):
            raise ValueError(f"task must be 'h1', 'h2' or 'h3', got {self.task!r}")
        self.hidden = self._sphere(1)[0]

    def _sphere(self, n: int) -> FloatArray:
        x = self.generator.standard_normal((n, self.dim))
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def _draw(self) -> Round:
        x = self._sphere(self.patches)
        score = x @ self.hidden
        means = {"h1": score, "h2": score**2, "h3": np.cos(np.pi * score)}[self.task]
        return self._subset(x, means, self.chosen)


@dataclass(kw_only=True, eq=False)
class Classification(SemiBandit):
    """A labelled data set as a bandit: one patch, the classes are the arms, reward 1 for the right one.

    Features are standardised on the whole set, a constant is appended, and all are divided by the root of the mean
    squared norm. The set is shuffled anew for each pass.

    Parameters
    ----------
    data : array-like, shape [n, features]
    labels : array-like of int, shape [n]
    """

    data: Array = None
    labels: Array = None
    order: IntArray = field(init=False, repr=False)
    shuffler: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        x = floats("data", self.data, (None, None))
        x = np.hstack([(x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0), np.ones((len(x), 1))])
        self.data = x / np.sqrt(np.square(x).sum(axis=1).mean())
        self.labels = ints("labels", self.labels, (len(x),))
        self.dim, self.arms, self.noise = x.shape[1], int(self.labels.max()) + 1, 0.0
        # The legacy generator reproduces the stream on which the reference rewards of the peers were measured.
        self.shuffler = np.random.RandomState(self.seed)
        self.order = np.zeros(0, dtype=np.int64)

    def _draw(self) -> Round:
        at = (self.time - 1) % len(self.labels)
        if at == 0:
            self.order = self.shuffler.permutation(len(self.labels))
        row = self.order[at]
        table = (np.arange(self.arms) == self.labels[row]).astype(np.float64)[None]
        return Round(
            contexts=self.data[row : row + 1],
            covariates=np.zeros(0),
            costs=np.zeros(self.arms, dtype=np.int64),
            limit=None,
            expected=lambda index: float(table[0, index[0]]),
            optimum=1.0,
            arm_means=table,
        )
