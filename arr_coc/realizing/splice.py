"""Splice: shorten a call's sequences to the placeholders that stay, and hand the features over.

One gather serves ids, mask, labels, token types and positions alike, because each cell of a reduced patch takes over
one existing placeholder. Positions come from the model's own code on the original sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .base import Realised
from .call import SEQUENCE_KEYS, Call

_PADDING = {"attention_mask": 0, "labels": -100}


@dataclass
class Spliced:
    """A shortened call.

    Attributes
    ----------
    inputs
        Keyword arguments for the model: ``mm_encoder_outputs`` in place of pixels.
    kept
        Per sample the original places of the tokens that stayed.
    dropped
        By how much the padded sequence became shorter.
    rope_deltas
        ``[B, 1]`` for M-RoPE models whose positions were set here, else ``None``.
    """

    inputs: dict[str, Any]
    kept: list[torch.Tensor]
    dropped: int
    rope_deltas: torch.Tensor | None = None


def splice(call: Call, realised: Realised, positions: str, for_generate: bool) -> Spliced:
    """Shorten a call.

    Parameters
    ----------
    call
        The call; its inputs are not changed.
    realised
        What its patches became.
    positions
        ``"keep"``, ``"compact"`` or ``"auto"``, as in :class:`arr_coc.ArrCocConfig`.
    for_generate
        Pad on the left, as generation needs; otherwise on the side where the call is padded.

    Returns
    -------
    Spliced
        Where nothing is dropped the sequences are those of the call, untouched.
    """
    inputs, ids = dict(call.inputs), call.inputs["input_ids"]
    length = ids.shape[1]
    mask = call.inputs["attention_mask"]
    valid = mask.bool().cpu()
    if realised.output is not None:
        for name in call.family.feature_inputs(call.model):
            if "pixel" in name:
                inputs.pop(name, None)
        inputs["mm_encoder_outputs"] = {"image": realised.output}
        return Spliced(inputs, [row.nonzero().squeeze(1) for row in valid], 0)

    stays = torch.ones(ids.shape, dtype=torch.bool)
    stays[call.placeholders.cpu()] = realised.keep
    stays &= ~call.orphaned_text(realised.keep)
    kept = [row.nonzero().squeeze(1) for row in stays & valid]
    left = for_generate or (not bool(valid[:, 0].all()) and bool(valid[:, -1].all()))

    for name in call.family.feature_inputs(call.model):
        inputs.pop(name, None)
    placed, deltas = positions_of(call, realised, positions, stays, 0 if for_generate else call.family.first_position)
    for key in SEQUENCE_KEYS:
        if inputs.get(key) is not None:
            padding = _pad_token(call) if key == "input_ids" else _PADDING.get(key, 0)
            inputs[key] = gather(inputs[key], kept, left, padding)
    if placed is not None:
        placed = gather(placed, kept, left, 0)
        if placed.ndim == 3 and placed.shape[0] == 3:
            # A gap-free text channel in front: gaps would be read as several sequences packed into one.
            text = (inputs["attention_mask"].long().cumsum(-1) - 1).clamp(min=0)
            placed = torch.cat([text[None].to(placed), placed])
        inputs["position_ids"] = placed
    counts = [count for count in call.per_sample(realised.keep) if count]
    inputs["mm_encoder_outputs"] = {"image": call.family.hand_over(realised.like, realised.streams, counts)}
    return Spliced(inputs, kept, length - inputs["input_ids"].shape[1], deltas)


def positions_of(
    call: Call, realised: Realised, mode: str, stays: torch.Tensor, first: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Positions ``[..., B, L]`` on the original sequence (or None: leave them to the model) and new rope deltas.

    ``first`` is where a one-dimensional model begins to count; ``generate`` adds that itself.
    """
    mask = call.inputs["attention_mask"]
    if call.inputs.get("position_ids") is not None:
        return call.inputs["position_ids"], None
    own = call.own_positions
    if own is None:
        return (call.family.flat_positions(mask) + first if mode == "keep" else None), None
    positions, deltas = own
    compact = {"keep": [False], "compact": [True], "auto": realised.compact}[mode]
    compact = compact * len(call.entries) if mode != "auto" else compact
    positions, closed = _close_gaps(call, positions, compact, stays)
    dropped = (~stays & mask.bool().cpu()).sum(1)
    return positions, deltas + (dropped - closed).to(deltas).unsqueeze(1)


def _close_gaps(
    call: Call, positions: torch.Tensor, compact: Sequence[bool], stays: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Number the kept rows and columns of compact entries anew, and move up what follows.

    For an image that is one patch this gives the very positions that the model would give the resized image.

    Returns
    -------
    (LongTensor, LongTensor)
        ``[3, B, L]`` positions, and ``[B]`` by how much each sample's end moved up.
    """
    positions = positions.clone()
    closed = torch.zeros(call.batch, dtype=torch.long)
    samples, places = call.placeholders.cpu().nonzero(as_tuple=True)
    for entry, close in enumerate(compact):
        if not close:
            continue
        cells = slice(call.starts[entry], call.starts[entry + 1])
        sample, place = int(samples[cells][0]), places[cells]
        plane = positions[1:, sample, place]
        start, end = int(plane[:, 0].min()), int(plane.max()) + 1
        left = place[stays[sample, place]]
        ranks = [positions[axis, sample, left].unique(return_inverse=True)[1] for axis in (1, 2)]
        positions[1:, sample, left] = (torch.stack(ranks) + start).to(positions)
        moved = end - start - max(int(rank.max()) for rank in ranks) - 1
        positions[:, sample, int(place[-1]) + 1 :] -= moved
        closed[sample] += moved
    return positions, closed


def gather(values: torch.Tensor, kept: Sequence[torch.Tensor], left: bool, padding: int) -> torch.Tensor:
    """``[..., B, L]`` to ``[..., B, L']`` with the kept places of every sample, padded on one side."""
    length = max(len(places) for places in kept)
    out = values.new_full((*values.shape[:-1], length), padding)
    for sample, places in enumerate(kept):
        span = slice(length - len(places), length) if left else slice(0, len(places))
        out[..., sample, span] = values[..., sample, :].index_select(-1, places.to(values.device))
    return out


def _pad_token(call: Call) -> int:
    """An id for padding; never the placeholder, which would ask for a feature row."""
    configured = getattr(getattr(call.model, "generation_config", None), "pad_token_id", None)
    image = call.family.image_token(call.model)
    if isinstance(configured, int) and configured != image:
        return configured
    return 0 if image != 0 else 1
