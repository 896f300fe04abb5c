"""CDPruner: tokens that are diverse and matter to the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import register_method
from .pruned import Pruned, kept

if TYPE_CHECKING:
    from ..model.bench import Bench
    from ..model.question import Tokens


@register_method("cdpruner")
@dataclass(kw_only=True)
class CDPruner(Pruned):
    """The likeliest subset under a determinantal point process whose kernel is the tokens' cosine similarity, weighted
    on both sides by their relevance to the question; found greedily.

    After Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs"
    (NeurIPS 2025). Their relevance comes from CLIP's text encoder; here it is the coupling of token and question in
    the language model's own embedding space, or its attention, as this project's participatory scorer has it. A kernel
    over D-dimensional features has rank D at most; where more tokens are wanted, the rest starts a new process.

    Attributes
    ----------
    relevance
        "embedding" or "attention": the variant of the scorer.
    """

    relevance: str = "embedding"

    def __post_init__(self) -> None:
        if self.relevance not in ("embedding", "attention"):
            raise ValueError(f"relevance={self.relevance!r} must be 'embedding' or 'attention'")

    def prepare(self, bench: Bench) -> None:
        super().prepare(bench)
        self._reader = self._read(bench.arr.model)

    def _read(self, model: Any = None) -> Any:
        from arr_coc.knowing import make_scorer
        from arr_coc.knowing.reading import suited

        return make_scorer(suited({"name": "participatory", "variant": self.relevance}, model))

    def choose(self, tokens: Tokens, count: int) -> Tensor:
        reader = getattr(self, "_reader", None) or self._read()
        relevance = torch.cat(reader.cell_map(tokens.scene)).to(tokens.features)
        unit = F.normalize(tokens.features, dim=-1)
        return kept(likeliest(conditioned(unit @ unit.T, relevance), count), len(unit))


def conditioned(similarity: Tensor, relevance: Tensor) -> Tensor:
    """``diag(r) L diag(r)`` with relevance ``[N]`` brought to [0, 1] by its range; a flat one changes nothing."""
    low, high = relevance.min(), relevance.max()
    scaled = (relevance - low) / (high - low) if high > low else torch.ones_like(relevance)
    return scaled[:, None] * similarity * scaled


def likeliest(kernel: Tensor, count: int, least: float = 1e-5) -> Tensor:
    """Greedy MAP of a determinantal point process: ``[count]`` indices in the order of their choice.

    Each step adds the item that raises the determinant of the chosen submatrix most, by incremental Cholesky
    factors (Chen, Zhang and Zhou, "Fast Greedy MAP Inference for Determinantal Point Process", NeurIPS 2018). Where no
    item raises it above ``least`` times the largest diagonal entry, the kernel is exhausted, and the search begins
    anew among the items that are left; items of no weight at all come last, in their order.

    Parameters
    ----------
    kernel
        ``[N, N]`` positive semi-definite.
    count
        Items to choose, from 1 to N.
    """
    diagonal = kernel.diagonal()
    floor = least * float(diagonal.max())
    free = torch.ones(len(kernel), dtype=torch.bool, device=kernel.device)
    chosen: list[int] = []
    while len(chosen) < count:
        gain = diagonal.masked_fill(~free, -torch.inf)
        if float(gain.max()) <= floor:
            chosen += free.nonzero().squeeze(1)[: count - len(chosen)].tolist()
            break
        factors, used = kernel.new_zeros(count - len(chosen), len(kernel)), 0
        while len(chosen) < count and float(gain.max()) > floor:
            best = int(gain.argmax())
            known = factors[:used]
            factors[used] = (kernel[best] - known[:, best] @ known) / gain[best].sqrt()
            gain = gain - factors[used].square()
            gain[best], free[best] = -torch.inf, False
            used += 1
            chosen.append(best)
    return torch.tensor(chosen)
