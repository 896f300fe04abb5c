"""pool and select: reduce the tower's tokens *after* it. Every family can; the tower itself saves nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .base import Encoded, Realised, Realizer, register_realizer
from .call import Call, Grid


@register_realizer
class Select(Realizer):
    """Keep the token at the centre of each cell and drop the others."""

    name = "select"

    def reduce(self, call: Call, grids: Sequence[Grid], known: Encoded) -> Realised:
        full = call.borrowed or call.full
        keep = torch.ones(call.starts[-1], dtype=torch.bool)
        streams = list(full.streams)
        for index, grid in enumerate(grids):
            if call.native(index, grid):
                continue
            patch = call.patches[index]
            rows, anchors = call.rows(patch), call.anchors(patch, grid)
            keep[rows.reshape(-1)] = False
            keep[anchors] = True
            streams = [self.merge(stream, rows, anchors, grid) for stream in streams]
        keep = call.without_orphans(keep)
        chosen = keep.nonzero().squeeze(1)
        kept = tuple(stream[chosen.to(stream.device)] for stream in streams)
        return Realised(keep, kept, full.output, None, [False] * len(call.entries))

    def merge(self, stream: torch.Tensor, rows: torch.Tensor, anchors: torch.Tensor, grid: Grid) -> torch.Tensor:
        """The stream ``[rows, D]`` with the patch's cells written at their anchors."""
        return stream


@register_realizer
class Pool(Select):
    """Average the tokens of each cell (adaptive average pooling), in every DeepStack level alike.

    Averages have smaller norms than the tokens that the language model was trained on.
    """

    name = "pool"

    def merge(self, stream: torch.Tensor, rows: torch.Tensor, anchors: torch.Tensor, grid: Grid) -> torch.Tensor:
        plane = stream[rows.to(stream.device)].permute(2, 0, 1)
        cells = F.adaptive_avg_pool2d(plane[None].float(), grid)[0].to(stream.dtype)
        return stream.index_copy(0, anchors.to(stream.device), cells.flatten(1).T)
