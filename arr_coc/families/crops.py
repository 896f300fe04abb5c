"""Crops of one size, padded to the same number per sample: ``pixel_values`` ``[B, crops, 3, S, S]``.

An image is split into crops with the overview last; each stands between text tokens of its own. Which crops are
padding is the families' own rule: those that are zero throughout, or that ``pixel_attention_mask`` ``[B, crops]``
leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .pictures import Pictures

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Crops(Pictures):
    """idefics3, smolvlm and granite_docling."""

    def tile(self, model: PreTrainedModel) -> tuple[int, int] | None:
        return self.fixed(model)

    def pictures(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        pixels = inputs["pixel_values"]
        if pixels.ndim != 5:
            raise ValueError(f"pixel_values has shape {tuple(pixels.shape)}, it must be [batch, crops, 3, H, W].")
        crops, mask = pixels.flatten(0, 1), inputs.get("pixel_attention_mask")
        if mask is not None and mask.ndim == 2:
            return list(crops[mask.flatten().bool()])
        return list(crops[(crops != 0).flatten(1).any(1)])

    def image_inputs(self, inputs: Mapping[str, Any], pictures: Sequence[torch.Tensor]) -> dict[str, Any]:
        pixels = torch.stack(list(pictures))[None]
        taken = {"pixel_values": pixels}
        if inputs.get("pixel_attention_mask") is not None:
            mask = inputs["pixel_attention_mask"]
            if mask.ndim == 2:
                return taken | {"pixel_attention_mask": mask.new_ones((1, len(pictures)))}
            if not bool(mask[(inputs["pixel_values"] != 0).any(2)].all()):
                raise ValueError("pixel_attention_mask hides a part of a crop; crops must fill their square.")
            taken["pixel_attention_mask"] = mask.new_ones((1, len(pictures), *pixels.shape[-2:]))
        return taken
