"""Realizing: from a grid per patch to feature rows and the placeholders they fill."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from allocator.registry import load_installed_plugins

from ..config import nearest
from ..families import Family, Features, Streams
from ..scene.patches import Patch, budget_grid
from .call import Call, Grid

Encoded = dict[tuple[tuple[int, Grid], ...], Features]
"""What a tower made of patches that saw each other: by the index and the grid of each, the rows of all, in order."""


@dataclass
class Realised:
    """Features that fill a part of a call's placeholders.

    Attributes
    ----------
    keep
        ``[rows]`` bool on the CPU: which placeholders of the call stay, in order.
    streams
        ``[kept, D]`` per stream: merged tokens, then DeepStack levels.
    like
        An output object of the model, for its class.
    output
        The model's own output where nothing was reduced; handed over as it is.
    compact
        Per entry: whether its tokens take the positions of the smaller image rather than keep their own.
    encoded
        What was encoded before the tower's end for patches alone or together; it may be used again wherever the same
        patches see each other at the same grids.
    """

    keep: torch.Tensor
    streams: Streams
    like: Any
    output: Any = None
    compact: list[bool] = field(default_factory=list)
    encoded: Encoded = field(default_factory=dict)

    def of_patch(self, call: Call, index: int, grid: Grid) -> Features:
        """The features of one patch, ``[rows * columns, D]`` per stream."""
        places = self.keep.cumsum(0) - 1
        chosen = places[call.anchors(call.patches[index], grid)]
        return Features(tuple(stream[chosen.to(stream.device)] for stream in self.streams), self.like)


class Realizer(ABC):
    """The base of all realizers.

    Attributes
    ----------
    before_tower
        Whether patches are reduced before the vision tower, so that it runs on less.
    joint
        Whether patches of one image see each other in the tower after that.
    full
        Visual tokens of the patch that the budgets are meant for; a smaller patch gets its share of them. ``None``
        takes budgets as they are, whatever the size of the patch.
    """

    name: str = ""
    before_tower: bool = False
    joint: bool = False
    full: int | None = None

    def check(self, family: Family) -> None:  # noqa: B027 - most realizers suit every family
        """Raise ``ValueError`` if the family can't be realized this way."""

    def grid(self, family: Family, patch: Patch, budget: int) -> Grid:
        """The grid (rows, columns) that a budget buys on a patch."""
        if self.full is not None:
            budget = max(1, budget * patch.native // self.full)
        return self.bought(family, patch, budget)

    def bought(self, family: Family, patch: Patch, tokens: int) -> Grid:
        """The largest grid of at most so many tokens."""
        return budget_grid(patch.height, patch.width, tokens)

    def realize(self, call: Call, grids: Sequence[Grid], known: Encoded | None = None) -> Realised:
        """Bring every patch to its grid.

        Where nothing is to be reduced, the untouched model's own call is made, so full detail is exact to the bit.

        Parameters
        ----------
        call
            The call.
        grids
            One (rows, columns) per patch of the call.
        known
            What has been encoded of the same pictures already; it is used again where nothing that it saw has changed.
        """
        if all(call.native(index, grid) for index, grid in enumerate(grids)):
            full = call.full
            keep = torch.ones(call.starts[-1], dtype=torch.bool)
            return Realised(keep, full.streams, full.output, full.output, [False] * len(call.entries))
        return self.reduce(call, grids, known or {})

    @abstractmethod
    def reduce(self, call: Call, grids: Sequence[Grid], known: Encoded) -> Realised:
        """:meth:`realize` where at least one patch is reduced."""


_REALIZERS: dict[str, type[Realizer]] = {}


def register_realizer(kind: type[Realizer]) -> type[Realizer]:
    """Class decorator: make a realizer known by its ``name``; one that is taken is refused."""
    if not kind.name or _REALIZERS.get(kind.name, kind) is not kind or kind.name == "auto":
        raise ValueError(f"a realizer can't be called {kind.name!r}, which is taken or empty; give it another `name`")
    _REALIZERS[kind.name] = kind
    return kind


def make_realizer(name: str, family: Family | None = None) -> Realizer:
    """The realizer of a name; ``"auto"`` asks the family.

    Raises
    ------
    ValueError
        If the name is unknown (the message names the near match), or the family can't be realized this way.
    """
    if name == "auto" and family is not None:
        name = family.auto_realizer
    if name not in _REALIZERS:
        load_installed_plugins()
    if name not in _REALIZERS:
        raise ValueError(f"realizer={name!r} is unknown. {nearest(name, ['auto', *_REALIZERS])}")
    made = _REALIZERS[name]()
    if family is not None:
        made.check(family)
    return made
