"""What all linear methods share: posteriors that other workers' posteriors add to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..checks import FloatArray
from ..decision import Decision
from ..policy import Policy
from ..posterior import Posterior


@dataclass(kw_only=True, eq=False)
class Linear(Policy):
    """Base of the methods whose whole memory is one posterior, or one per arm.

    Parameters
    ----------
    **options
        See `Policy`.
    """

    def _posteriors(self) -> list[Posterior]:
        raise NotImplementedError

    def _total(self, decision: Decision) -> FloatArray:
        """Features of the super-arm's whole reward, for the posteriors side by side."""
        raise NotImplementedError

    def merge(self, other: Any) -> None:
        """Add what another worker's policy learned; equals one policy that saw all rewards, up to rounding.

        Parameters
        ----------
        other : Linear
            The same method with the same prior and forgetting; its seed and its exploration may differ.

        Raises
        ------
        TypeError, ValueError
            If the methods, the priors or the forgetting differ; this policy is unchanged then.
        """
        if type(other) is not type(self):
            raise TypeError(f"policy {self.name!r} merges only with its like, got {type(other).__name__}")
        keys = ("dim", "arms", "covariates", "forgetting", "arm_features")
        mine, theirs = ({key: item.config().get(key) for key in keys} for item in (self, other))
        if mine != theirs:
            differ = sorted(key for key in keys if mine[key] != theirs[key])
            raise ValueError(f"only policies built alike can be merged: {differ} differ")
        pairs = list(zip(self._posteriors(), other._posteriors(), strict=True))
        for own, added in pairs:
            own.check_mergeable(added)
        for own, added in pairs:
            own.merge(added)
        self.rounds += other.rounds
