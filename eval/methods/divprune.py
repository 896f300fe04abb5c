"""DivPrune: the most diverse tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import register_method
from .pruned import Pruned, kept

if TYPE_CHECKING:
    from ..model.question import Tokens


@register_method("divprune")
@dataclass(kw_only=True)
class DivPrune(Pruned):
    """Tokens whose smallest mutual cosine distance is as large as a greedy choice makes it.

    After Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models" (CVPR 2025). Blind
    to the question.
    """

    def choose(self, tokens: Tokens, count: int) -> Tensor:
        unit = F.normalize(tokens.features, dim=-1)
        return kept(max_min(1 - unit @ unit.T, count), len(unit))


def max_min(distance: Tensor, count: int) -> Tensor:
    """Greedy max-min diversity: ``[count]`` indices in the order of their choice.

    The first is the token farthest from its nearest neighbour; each further one is farthest from its nearest chosen
    one. Ties go to the lower index.

    Parameters
    ----------
    distance
        ``[N, N]`` symmetric distances; the diagonal is not read.
    count
        Tokens to choose, from 1 to N.
    """
    apart = distance.clone()
    apart.fill_diagonal_(torch.inf)
    nearest = apart.amin(1)
    chosen = []
    for number in range(count):
        best = int(nearest.argmax())
        chosen.append(best)
        # The first choice measures from all tokens; from then on only chosen ones count.
        nearest = apart[best].clone() if number == 0 else torch.minimum(nearest, apart[best])
        nearest[chosen] = -torch.inf
    return torch.tensor(chosen)
