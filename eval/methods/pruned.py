"""Methods that let the tower see everything and then keep some of its tokens: they save prefill, not the tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .base import Method, register_method, wanted_share

if TYPE_CHECKING:
    from arr_coc.learning.tasks import Sample

    from ..model.bench import Answer, Bench
    from ..model.question import Tokens


@dataclass(kw_only=True)
class Pruned(Method):
    """A choice among the tower's tokens at a share of full detail; a subclass writes `choose`.

    Every question keeps the same share of its tokens, at their own positions.
    """

    share: float | None = None
    reads_tower: ClassVar[bool] = False

    def prepare(self, bench: Bench) -> None:
        self._share = wanted_share(self, bench)

    def choose(self, tokens: Tokens, count: int) -> Tensor:
        """``[N]`` per token the one that stands for it, itself if it is kept, -1 if it is dropped; see
        `eval.model.question.reduced`. ``count`` tokens stay."""
        raise TypeError(f"{type(self).__name__} must define choose()")

    def answer(self, bench: Bench, samples: Sequence[Sample]) -> list[Answer]:
        return bench.pruned(samples, self.choose, self._share, self.reads_tower)


def kept(indices: Tensor, count: int) -> Tensor:
    """The owners ``[count]`` where some tokens are kept as they are and all others dropped."""
    indices = indices.cpu()
    owner = torch.full((count,), -1)
    owner[indices] = indices
    return owner


@register_method("random-tokens")
@dataclass(kw_only=True)
class RandomTokens(Pruned):
    """Tokens drawn at random: what every other choice must beat."""

    seed: int = 0
    short: ClassVar[str] = "seed"

    def choose(self, tokens: Tokens, count: int) -> Tensor:
        total = len(tokens.features)
        return kept(torch.from_numpy(tokens.rng.choice(total, size=count, replace=False)), total)
