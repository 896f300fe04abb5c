"""What a question's sequence becomes at given grids: which placeholders stay, and where the tokens then stand.

Both sides of an engine ask this, the one that writes prompts and the one that runs the model, and neither has features
at hand. The rules are those of the wrapper, and `tests/engines` holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..realizing.call import Call, Grid


def kept_rows(call: Call, grids: Sequence[Grid]) -> torch.Tensor:
    """Which feature rows of a call keep their placeholder, ``[rows]`` bool.

    Parameters
    ----------
    call
        The question.
    grids
        Per patch (rows, columns).
    """
    keep = torch.ones(call.starts[-1], dtype=torch.bool)
    for index, grid in enumerate(grids):
        if not call.native(index, grid):
            keep[call.rows(call.patches[index]).reshape(-1)] = False
            keep[call.anchors(call.patches[index], grid)] = True
    return call.without_orphans(keep)


def kept_tokens(call: Call, keep: torch.Tensor) -> torch.Tensor:
    """Which tokens of the one prompt of a call stay, ``[L]`` bool: its words, and the placeholders in ``keep``."""
    stays = torch.ones(call.placeholders.shape, dtype=torch.bool)
    stays[call.placeholders.cpu()] = keep
    return (stays & ~call.orphaned_text(keep))[0]


def compact_entries(call: Call, grids: Sequence[Grid], resized: bool) -> list[bool]:
    """Per entry, whether its tokens take the positions of the smaller image: a reduced image of one resized patch."""
    members: list[list[int]] = [[] for _ in call.entries]
    for index, patch in enumerate(call.patches):
        members[patch.entry].append(index)
    return [resized and len(own) == 1 and not call.native(own[0], grids[own[0]]) for own in members]
