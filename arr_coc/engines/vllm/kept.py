"""Features of glances, kept in the worker: a patch that stays at the floor is not encoded again for the answer.

The engine has a cache of features too, but it holds no more tokens than one step; under load the glances of others
have pushed out one's own before its answer comes.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

import torch

MEGABYTES = 256
"""Bound by default; ``ARR_COC_KEPT_MB`` sets another, 0 keeps nothing."""


class Kept:
    """Features by key; beyond the bound the longest unused go.

    Parameters
    ----------
    bound
        In bytes.
    """

    def __init__(self, bound: int) -> None:
        self.bound, self.size = bound, 0
        self.features: OrderedDict[tuple[int, int], torch.Tensor] = OrderedDict()

    @classmethod
    def by_environment(cls) -> Kept:
        """With the bound of ``ARR_COC_KEPT_MB``."""
        return cls(int(float(os.environ.get("ARR_COC_KEPT_MB") or MEGABYTES) * 2**20))

    def of(self, name: Sequence[int]) -> torch.Tensor | None:
        """``[tokens, D]``, or None.

        Parameters
        ----------
        name
            Two halves of a key that holds content and grids; more is not looked at.
        """
        key = (name[0], name[1])
        found = self.features.get(key)
        if found is not None:
            self.features.move_to_end(key)
        return found

    def put(self, name: Sequence[int], features: torch.Tensor) -> None:
        """Keep ``[tokens, D]``, unless that is more than the bound."""
        key = (name[0], name[1])
        if key in self.features or features.nbytes > self.bound:
            return
        self.features[key] = features.clone()  # not the batch that it is a part of
        self.size += features.nbytes
        while self.size > self.bound:
            self.size -= self.features.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget all: the weights are others."""
        self.features.clear()
        self.size = 0
