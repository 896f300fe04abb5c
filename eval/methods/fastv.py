"""FastV: attention top-k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .base import NotApplicable, register_method
from .pruned import Pruned, kept

if TYPE_CHECKING:
    from ..model.question import Tokens


@register_method("fastv")
@dataclass(kw_only=True)
class FastV(Pruned):
    """The tokens that get most of the last prompt token's attention in layer ``layer`` of the language model.

    After Chen et al., "An Image is Worth 1/2 Tokens After Layer 2" (ECCV 2024). There the first K layers see all
    tokens and the later ones those that are left. Here the tokens are ranked by the same attention of the same layer,
    from a pass that stops behind it, and dropped *before* the first layer, which is the only place where any model
    can be shortened from outside. So the early layers see fewer tokens than in the paper, and the pass that ranks is
    paid on top.

    Attributes
    ----------
    layer
        K, counted from 1.
    """

    layer: int = 2

    def choose(self, tokens: Tokens, count: int) -> Tensor:
        try:
            attention = tokens.scene.read_attention([self.layer - 1])
        except (IndexError, NotImplementedError) as error:
            raise NotApplicable(f"the attention of layer {self.layer} can't be read: {error}") from error
        score = attention[0].float().mean(0)
        return kept(score.topk(count).indices, len(score))
