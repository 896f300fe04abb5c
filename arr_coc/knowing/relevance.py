"""Relevance as a role: where the question looks, by every scorer that reads the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base import Scorer, spread

if TYPE_CHECKING:
    from ..scene.contract import Scene


class Relevance(Scorer):
    """The scorers with ``reads_question``, as one.

    One reader speaks for itself. Of several, each counts relative to its most relevant patch, so that shares of an
    attention and cosines are on one scale, and they are averaged. Without a reader, the mean of all scores stands in:
    what stands out is then taken for what is asked.

    Parameters
    ----------
    scorers
        All scorers of a planner, each under a name of its own.

    Attributes
    ----------
    readers
        Those that read the question.
    blind
        The others.
    voices
        Those that are joined: the readers, or else the others.

    Raises
    ------
    ValueError
        Without scorers, or if two have one name.
    """

    reads_question = True

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        names = [scorer.name for scorer in scorers]
        if not names:
            raise ValueError("a policy that looks at the image needs at least one scorer; name one in scorers=")
        if len(set(names)) < len(names):
            raise ValueError(f"scorers={names!r} have a name twice; give each a `name` of its own.")
        self.readers = [scorer for scorer in scorers if scorer.reads_question]
        self.blind = [scorer for scorer in scorers if not scorer.reads_question]
        self.voices = self.readers or self.blind
        self.name = self.readers[0].name if len(self.readers) == 1 else "relevance"
        self.needs = frozenset().union(*(scorer.needs for scorer in self.voices))

    def join(self, scores: Mapping[str, Tensor]) -> Tensor:
        """``[N]`` relevance from the scores ``[N]`` by name; only those that count are read."""
        found = self._weighed(scores)
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)

    def _weighed(self, scores: Mapping[str, Tensor]) -> list[Tensor]:
        found = [scores[scorer.name].float().cpu() for scorer in self.voices]
        return [score / score.max().clamp_min(1e-6) for score in found] if len(self.readers) > 1 else found

    def score(self, scene: Scene) -> Tensor:
        """``[N]`` scores; see the class."""
        return self.join({scorer.name: scorer(scene) for scorer in self.voices})

    @torch.no_grad()
    def cell_map(self, scene: Scene, scores: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """Per patch ``[g_i]``: relevance of every glance cell.

        That of the one reader as it is; of several, each patch's cells add up to its joint relevance. ``scores``, if
        they are known, spare a scorer without a map of its own a second call.
        """
        if scores is None:
            scores = {scorer.name: scorer(scene) for scorer in self.voices}
        maps = [
            spread(scores[scorer.name], scene) if type(scorer).cell_map is Scorer.cell_map else scorer.cell_map(scene)
            for scorer in self.voices
        ]
        if len(maps) == 1:
            return maps[0]
        joined = []
        for i in range(len(scene.patches)):
            cells = [each[i].float().cpu() for each in maps]
            parts = [s[i] * c / c.sum().clamp_min(1e-9) for s, c in zip(self._weighed(scores), cells, strict=True)]
            joined.append(torch.stack(parts).mean(0))
        return joined
