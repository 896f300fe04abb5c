"""Pictures of any size as rows of ViT patches, padded to the longest: ``pixel_values`` ``[n, rows, pixels * 3]``.

The patches of a picture follow one another in raster order; a second input says how many rows and columns they are.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .base import picked
from .pictures import Pictures

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PatchRows(Pictures):
    """What the two families of this layout share."""

    auto_realizer = "rescale"

    @abstractmethod
    def sizes(self, inputs: Mapping[str, Any]) -> list[tuple[int, int]]:
        """(rows, columns) of ViT patches of each picture."""

    @abstractmethod
    def described(self, inputs: Mapping[str, Any], sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """The inputs that say that pictures of one size have these (rows, columns) of ViT patches."""

    def pictures(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        rows, cell = inputs["pixel_values"], self.cell(model)
        if rows.ndim != 3:
            raise ValueError(f"pixel_values has shape {tuple(rows.shape)}, it must be [pictures, ViT patches, 3 P P].")
        sizes, side = self.sizes(inputs), math.isqrt(rows.shape[-1] // 3)
        shown = []
        for picture, (height, width) in zip(rows, sizes, strict=True):
            if height * width > len(picture) or height * side % cell or width * side % cell:
                raise ValueError(
                    f"A picture of {height} x {width} ViT patches does not fit pixel_values of shape "
                    f"{tuple(rows.shape)}, or is not made of whole visual tokens of {cell // side} x {cell // side}."
                )
            plane = picture[: height * width].reshape(height, width, side, side, 3)
            shown.append(plane.permute(4, 0, 2, 1, 3).reshape(3, height * side, width * side))
        return shown

    def image_inputs(self, inputs: Mapping[str, Any], pictures: Sequence[torch.Tensor]) -> dict[str, Any]:
        side = math.isqrt(inputs["pixel_values"].shape[-1] // 3)
        sizes = [(picture.shape[-2] // side, picture.shape[-1] // side) for picture in pictures]
        rows = [
            picture.reshape(3, height, side, width, side).permute(1, 3, 2, 4, 0).reshape(height * width, -1)
            for picture, (height, width) in zip(pictures, sizes, strict=True)
        ]
        return {"pixel_values": torch.stack(rows)} | self.described(inputs, sizes)

    def take(self, model: PreTrainedModel, inputs: Mapping[str, Any], entries: Sequence[int]) -> dict[str, Any]:
        # With its padding, so that the tower adds up the same numbers in the same order.
        names = self.feature_inputs(model)
        return {name: picked(inputs[name], entries) for name in names if inputs.get(name) is not None}


class SpatialShapes(PatchRows):
    """lfm2_vl: ``spatial_shapes`` ``[n, 2]`` and ``pixel_attention_mask`` ``[n, rows]``."""

    def sizes(self, inputs: Mapping[str, Any]) -> list[tuple[int, int]]:
        shapes = inputs.get("spatial_shapes")
        if shapes is None:
            raise ValueError("spatial_shapes is missing; pass everything that the processor returns.")
        if len(shapes) != len(inputs["pixel_values"]):
            raise ValueError(
                f"spatial_shapes names {len(shapes)} pictures, pixel_values holds {len(inputs['pixel_values'])}."
            )
        return [(height, width) for height, width in shapes.tolist()]

    def described(self, inputs: Mapping[str, Any], sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
        shapes, mask = inputs["spatial_shapes"], inputs["pixel_attention_mask"]
        ones = mask.new_ones(len(sizes), math.prod(sizes[0]))
        return {"spatial_shapes": shapes.new_tensor(sizes), "pixel_attention_mask": ones}


class PatchPositions(PatchRows):
    """gemma4: ``image_position_ids`` ``[n, rows, 2]``, column and row of each ViT patch, -1 where it is padding."""

    def sizes(self, inputs: Mapping[str, Any]) -> list[tuple[int, int]]:
        places, rows = inputs.get("image_position_ids"), inputs["pixel_values"]
        if places is None:
            raise ValueError("image_position_ids is missing; pass everything that the processor returns.")
        if places.shape[:2] != rows.shape[:2]:
            raise ValueError(
                f"image_position_ids has shape {tuple(places.shape)}, pixel_values {tuple(rows.shape)}: they must "
                "name the same pictures and ViT patches."
            )
        found = []
        for place in places:
            width, height = (int(most) + 1 for most in place.amax(0))
            if not torch.equal(place[: height * width], _raster(height, width).to(place)) or bool(
                (place[height * width :] >= 0).any()
            ):
                raise ValueError(
                    f"image_position_ids of a picture of {height} x {width} ViT patches are not in raster order; pass "
                    "what the processor returns."
                )
            found.append((height, width))
        return found

    def described(self, inputs: Mapping[str, Any], sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
        return {"image_position_ids": torch.stack([_raster(*size) for size in sizes]).to(inputs["image_position_ids"])}


def _raster(height: int, width: int) -> torch.Tensor:
    """``[height * width, 2]`` column and row."""
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([across, down], -1).reshape(-1, 2)
