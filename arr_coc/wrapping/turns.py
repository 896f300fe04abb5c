"""Conversations: later turns on a kept cache find the tokens that the first turn dropped already gone.

The allocation of the first turn stays for as long as its cache is passed on, because the dropped tokens are not in it.
A new allocation for a new question needs the whole conversation without a cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..realizing import SEQUENCE_KEYS, Call, Spliced, gather


@dataclass
class Turn:
    """What a cache was filled from.

    Attributes
    ----------
    ids
        ``[B, L]`` prompt as given.
    kept
        Per sample the places that are in the cache; ``None`` if all are.
    rope_deltas
        ``[B, 1]`` from which an M-RoPE model numbers what comes next.
    positions
        ``[B, L]`` explicit positions of a one-dimensional model, if it was given such.
    """

    ids: torch.Tensor
    kept: list[torch.Tensor] | None
    rope_deltas: torch.Tensor | None
    positions: torch.Tensor | None = None

    @classmethod
    def of(cls, call: Call, spliced: Spliced) -> Turn:
        """The turn that a call begins."""
        base = call.model.base_model
        flat = None
        if spliced.dropped and spliced.inputs.get("position_ids") is not None and spliced.rope_deltas is None:
            flat = call.family.flat_positions(call.inputs["attention_mask"])
        kept = spliced.kept if spliced.dropped else None
        return cls(call.inputs["input_ids"], kept, getattr(base, "rope_deltas", None), flat)

    def shorten(self, inputs: Mapping[str, Any], image_token: int, pixel_inputs: tuple[str, ...]) -> dict[str, Any]:
        """The inputs of a later turn as the cache knows them.

        Raises
        ------
        ValueError
            If the conversation does not begin as the cached one did, or brings a new image.
        """
        ids, length = inputs["input_ids"], self.ids.shape[1]
        if ids.shape[0] != self.ids.shape[0] or not torch.equal(ids[:, :length].to(self.ids.device), self.ids):
            raise ValueError(
                "The cache was filled by a wrapped call, but input_ids do not begin with that call's prompt; pass the "
                "whole conversation in the same padding, or no cache."
            )
        if bool((ids[:, length:] == image_token).any()):
            raise ValueError(
                "The new turn brings an image while the cache holds tokens already; pass the whole conversation "
                "without the cache, so that its images are budgeted together."
            )
        short = {key: value for key, value in inputs.items() if key not in pixel_inputs}
        if self.kept is None:
            return short
        mask = short.get("attention_mask")
        short["attention_mask"] = mask = torch.ones_like(ids) if mask is None else mask
        if self.positions is not None:
            later = mask[:, length:].long().cumsum(-1) + self.positions[:, -1:]
            grown = torch.cat([self.positions.to(later), later], 1)
            short["position_ids"] = self._cut(grown, 0)
        for key in SEQUENCE_KEYS:
            if short.get(key) is not None:
                short[key] = self._cut(short[key], 0)
        return short

    def _cut(self, values: torch.Tensor, padding: int) -> torch.Tensor:
        length, kept = self.ids.shape[1], self.kept or []
        return torch.cat([gather(values[:, :length], kept, True, padding), values[:, length:]], 1)
