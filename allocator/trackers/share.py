"""Long-run shares: no group of patches is starved over a stream of decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checks import Array, FloatArray, floats, ints, number
from ..decision import Decision


@dataclass(kw_only=True, eq=False)
class ShareTracker:
    """Virtual queues: a group that got less than its share of the tokens is subsidised until it caught up.

    Q_g <- max(0, Q_g + (share_g spent - spent_g) / spent) after every decision, and each token of group g is worth
    eta Q_g more (Li, Liu & Ji 2019). The subsidy is a sum over patches, so it enters `Policy.select` as `coverage`
    and the oracle stays exact. A floor for every single decision is `select(floor=)` instead.

    Parameters
    ----------
    shares : array-like, shape [G]
        Least long-run share of the spent tokens per group; they add up to at most 1.
    eta : float
        Subsidy per token and unit of queue, in reward units; larger catches up sooner and costs more reward.

    Attributes
    ----------
    queues : FloatArray, shape [G]
    spent : FloatArray, shape [G]
        Tokens per group so far.
    """

    shares: Any
    eta: float
    queues: FloatArray = field(init=False)
    spent: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self.shares = floats("shares", self.shares, (None,))
        if self.shares.min(initial=0.0) < 0 or self.shares.sum() > 1 + 1e-9:
            raise ValueError(f"shares must be non-negative and add up to at most 1, got {self.shares.tolist()}")
        if number("eta", self.eta) <= 0:
            raise ValueError(f"eta must be positive, got {self.eta}")
        self.queues = np.zeros(len(self.shares))
        self.spent = np.zeros(len(self.shares))

    def coverage(self, groups: Array, costs: Array) -> FloatArray:
        """The subsidy of every patch and arm, [N, K].

        Parameters
        ----------
        groups : array-like of int, shape [N]
            Group of each patch.
        costs : array-like of int, shape [N, K]
        """
        members = self._members(groups)
        return self.eta * self.queues[members][:, None] * ints("costs", costs, (len(members), None))

    def update(self, groups: Array, decision: Decision) -> None:
        """Account for a decision.

        Raises
        ------
        TypeError, ValueError
            For unknown groups or another number of patches; the tracker is unchanged then.
        """
        members = self._members(groups)
        if len(members) != len(decision.costs):
            raise ValueError(f"{len(members)} groups were given for a decision on {len(decision.costs)} patches")
        spent = np.bincount(members, weights=decision.costs, minlength=len(self.shares))
        if spent.any():  # where nothing is spent nobody falls behind
            self.queues = np.maximum(0.0, self.queues + self.shares - spent / spent.sum())
        self.spent = self.spent + spent

    def _members(self, groups: Array) -> np.ndarray:
        members = ints("groups", groups, (None,))
        if len(members) == 0 or members.min() < 0 or members.max() >= len(self.shares):
            raise ValueError(f"groups must be 0 to {len(self.shares) - 1}, got {members.tolist()}")
        return members

    def state_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        arrays = {"shares": self.shares, "queues": self.queues, "spent": self.spent}
        return {"eta": self.eta, **{name: array.tolist() for name, array in arrays.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            If the state is incomplete or malformed; the tracker is unchanged then.
        """
        if set(state) != set(self.state_dict()):
            raise ValueError(f"share tracker state must hold {sorted(self.state_dict())}, got {sorted(state)}")
        restored = ShareTracker(shares=state["shares"], eta=state["eta"])
        restored.queues = floats("queues", state["queues"], restored.shares.shape)
        restored.spent = floats("spent", state["spent"], restored.shares.shape)
        self.__dict__.update(restored.__dict__)
