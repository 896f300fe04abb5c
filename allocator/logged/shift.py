"""Drift: has the reward fallen, do the questions look different?

Two detectors, used by the server (live, over its own traffic) and by retraining (over the log). What they trigger: the
server raises an alarm metric and a log line, from which an operator or an alert rule acts; retraining, after a fall of
the reward, learns from what came after it alone. Neither changes what is served: only a judged promotion does that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import Decision
from ..checks import FloatArray, floats
from ..trackers.drift import PageHinkley

WINDOW = 500
PSI_ALARM = 0.2
"""Population stability index from which a shift is called significant by convention; the noise of two samples of 500
in ten bins has mean 0.036."""


def reward_test() -> PageHinkley:
    """The test of rewards in [0, 1]: a fall by 0.2 is seen after about 170 rewards.

    At the largest variance, 1/4, rewards that do not fall are alarmed once in about 10^6.
    """
    return PageHinkley(threshold=25.0, slack=0.05)


def describe(decision: Decision) -> FloatArray:
    """What is compared of a question: its contexts' mean over the patches, and its covariates; shape [d + m]."""
    return np.concatenate([decision.contexts.mean(axis=0), decision.covariates])


class ContextReference:
    """Distribution of every feature over past questions, in up to ten bins of equal weight.

    Parameters
    ----------
    edges
        Per feature its inner bin edges, rising.
    shares
        Per feature the share of questions in each bin.
    """

    def __init__(self, edges: list[FloatArray], shares: list[FloatArray]) -> None:
        self.edges, self.shares = edges, shares

    @classmethod
    def of(cls, rows: FloatArray) -> ContextReference:
        """From described questions, shape [n, F]."""
        rows = floats("rows", rows, (None, None))
        edges = [np.unique(np.quantile(column, np.linspace(0.1, 0.9, 9))) for column in rows.T]
        return cls(edges, [_shares(column, inner) for column, inner in zip(rows.T, edges, strict=True)])

    def psi(self, rows: FloatArray) -> FloatArray:
        """Population stability index of every feature of other questions [n, F], shape [F]."""
        found = (_shares(column, inner) for column, inner in zip(np.asarray(rows).T, self.edges, strict=True))
        pairs = zip(found, self.shares, strict=True)
        return np.array([float(((new - old) * np.log(new / old)).sum()) for new, old in pairs])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"edges": [e.tolist() for e in self.edges], "shares": [s.tolist() for s in self.shares]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ContextReference:
        """Read back `to_dict`."""
        arrays = ([floats(name, row, (None,)) for row in data[name]] for name in ("edges", "shares"))
        return cls(*arrays)


def _shares(column: FloatArray, edges: FloatArray) -> FloatArray:
    counts = np.bincount(np.searchsorted(edges, column), minlength=len(edges) + 1)
    # Half a question for each bin, so that no logarithm is infinite.
    return (counts + 0.5) / (counts.sum() + 0.5 * len(counts))


class Watch:
    """Both detectors over a live stream.

    Parameters
    ----------
    reference
        Of the served version; None takes the first `window` questions.
    window
        Questions that are compared at a time.
    """

    def __init__(self, reference: ContextReference | None = None, window: int = WINDOW) -> None:
        self.reference, self.window = reference, window
        self.rewards = reward_test()
        self.psi = 0.0
        self._recent: deque[FloatArray] = deque(maxlen=window)
        self._seen = 0

    def question(self, decision: Decision) -> bool:
        """Take a question; True if the contexts have just gone beyond the alarm level."""
        self._recent.append(describe(decision))
        self._seen += 1
        if self._seen % (self.window // 5) or len(self._recent) < self.window:
            return False
        rows = np.stack(self._recent)
        if self.reference is None:
            self.reference = ContextReference.of(rows)
            self._recent.clear()
            return False
        before, self.psi = self.psi, float(self.reference.psi(rows).max())
        return self.psi > PSI_ALARM >= before

    def reward(self, value: float) -> bool:
        """Take a reward; True on an alarm."""
        return self.rewards.update(value)
