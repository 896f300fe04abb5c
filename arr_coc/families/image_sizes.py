"""Pictures of any size, padded to the largest: ``pixel_values`` ``[n, 3, H, W]`` with ``image_sizes`` ``[n, 2]``.

In the prompt a text token stands between two rows of an image's placeholders; it goes with the row above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from .pictures import Pictures

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ImageSizes(Pictures):
    """mistral3, lighton_ocr, and llava with a Pixtral tower."""

    def pictures(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        pixels, sizes = inputs["pixel_values"], inputs.get("image_sizes")
        if sizes is None:
            raise ValueError("image_sizes is missing; pass everything that the processor returns.")
        sizes = torch.as_tensor(sizes).tolist()
        if len(sizes) != len(pixels):
            raise ValueError(f"image_sizes names {len(sizes)} images, pixel_values holds {len(pixels)}.")
        for height, width in sizes:
            if height > pixels.shape[-2] or width > pixels.shape[-1]:
                raise ValueError(f"image_sizes={sizes} leaves pixel_values of shape {tuple(pixels.shape)}.")
        return [picture[:, :height, :width] for picture, (height, width) in zip(pixels, sizes, strict=True)]

    def image_inputs(self, inputs: Mapping[str, Any], pictures: Sequence[torch.Tensor]) -> dict[str, Any]:
        sizes = [tuple(picture.shape[-2:]) for picture in pictures]
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        padded = [F.pad(p, (0, width - p.shape[-1], 0, height - p.shape[-2])) for p in pictures]
        given = inputs["image_sizes"]
        kept = torch.as_tensor(sizes, device=given.device) if isinstance(given, torch.Tensor) else sizes
        return {"pixel_values": torch.stack(padded), "image_sizes": kept}
