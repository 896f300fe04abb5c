"""Pictures of one fixed size, side by side: ``pixel_values`` ``[n, 3, S, S]``, or ``[images, tiles, 3, S, S]``.

Families that cut an image into tiles of that size (InternVL, Aya, Cohere, GOT-OCR) pass every tile as a picture of its
own, the overview last or first; each is an entry, and so is each frame that their processors slip in for a video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .base import picked
from .pictures import Pictures

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SquareGrid(Pictures):
    """llava (CLIP, SigLIP), paligemma, gemma3, internvl and their like.

    ``companions`` names inputs that hold the same pictures for a second tower, in the same order.
    """

    companions: tuple[str, ...] = ()

    def tile(self, model: PreTrainedModel) -> tuple[int, int] | None:
        return self.fixed(model)

    def pictures(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        pixels = inputs["pixel_values"]
        if not isinstance(pixels, torch.Tensor) or pixels.ndim not in (4, 5):
            shape = tuple(pixels.shape) if isinstance(pixels, torch.Tensor) else type(pixels).__name__
            raise ValueError(
                f"pixel_values is {shape}, it must be a tensor [pictures, 3, H, W] or [images, tiles, 3, H, W]."
            )
        return list(pixels.reshape(-1, *pixels.shape[-3:]))

    def image_inputs(self, inputs: Mapping[str, Any], pictures: Sequence[torch.Tensor]) -> dict[str, Any]:
        stacked = torch.stack(list(pictures))
        return {"pixel_values": stacked if inputs["pixel_values"].ndim == 4 else stacked[None]}

    def take(self, model: PreTrainedModel, inputs: Mapping[str, Any], entries: Sequence[int]) -> dict[str, Any]:
        taken = super().take(model, inputs, entries)
        return taken | {name: picked(inputs[name], entries) for name in self.companions}
