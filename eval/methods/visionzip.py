"""VisionZip: dominant tokens kept, the others merged into contextual ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import register_method
from .pruned import Pruned, kept

if TYPE_CHECKING:
    from ..model.question import Tokens


@register_method("visionzip")
@dataclass(kw_only=True)
class VisionZip(Pruned):
    """Dominant tokens by the attention they receive in the tower's last layer but one; from the rest, every so-manieth
    is a target into which the others are averaged, each into the one whose key is most similar.

    After Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models" (CVPR 2025), without
    its fine-tuning. Blind to the question. Merging is done on what the projector made of the tokens, not before it.

    Attributes
    ----------
    contextual
        Share of the kept tokens that are contextual; 10 of 64 in the paper.
    """

    contextual: float = 10 / 64
    reads_tower: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.contextual < 1:
            raise ValueError(f"contextual={self.contextual!r} must be a share of the kept tokens in [0, 1)")

    def choose(self, tokens: Tokens, count: int) -> Tensor:
        assert tokens.tower is not None
        return dominant_and_contextual(tokens.tower.received, tokens.tower.keys, count, self.contextual)


def dominant_and_contextual(received: Tensor, keys: Tensor, count: int, contextual: float) -> Tensor:
    """Owners ``[N]`` of ``count`` tokens.

    Parameters
    ----------
    received
        ``[N]`` attention that ranks the dominant tokens.
    keys
        ``[N, d]`` by whose cosine the others are merged.
    count
        Tokens that stay.
    contextual
        Share of them that stands for others.
    """
    targets = round(count * contextual) if count < len(received) else 0
    ranked = received.argsort(descending=True, stable=True)
    owner = kept(ranked[: count - targets], len(received))
    if not targets:
        return owner
    rest = ranked[count - targets :].sort().values
    chosen = rest[torch.arange(targets) * len(rest) // targets]
    similarity = F.normalize(keys[rest], dim=-1) @ F.normalize(keys[chosen], dim=-1).T
    owner[rest] = chosen[similarity.argmax(1)]
    owner[chosen] = chosen  # two targets with equal keys must not stand for one another
    return owner
