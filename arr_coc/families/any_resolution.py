"""LLaVA's any-resolution images: an overview, then the tiles put together again, a newline feature after each row.

All rows, newlines too, fill image placeholders. A newline whose row keeps nothing is dropped with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..scene.patches import Patch
from .base import Entry, Family, View, picked, unnormalised

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AnyResolution(Family):
    """llava_next and llava_onevision."""

    def tile(self, model: PreTrainedModel) -> tuple[int, int] | None:
        return _side(model), _side(model)

    def layout(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Entry]:
        sizes, pixels = inputs.get("image_sizes"), inputs["pixel_values"]
        if sizes is None:
            raise ValueError("image_sizes is missing; pass everything that the processor returns.")
        if pixels.ndim != 5 or len(sizes) != len(pixels):
            raise ValueError(
                f"pixel_values has shape {tuple(pixels.shape)} for {len(sizes)} image_sizes; it must be "
                "[images, tiles, 3, H, W] with one size each."
            )
        side = _side(model)
        entries = []
        for tiled, size in zip(_tiled(inputs), torch.as_tensor(sizes), strict=True):
            overview = View(0, side, side)
            if not tiled:
                entries.append(Entry(side * side + 1, (overview,)))
                continue
            height, width = _shape(model, inputs, size)
            view = View(side * side, height, width, width + 1)
            entries.append(Entry(side * side + height * (width + 1), (overview, view)))
        return entries

    def take(self, model: PreTrainedModel, inputs: Mapping[str, Any], entries: Sequence[int]) -> dict[str, Any]:
        taken = {name: picked(inputs[name], entries) for name in ("pixel_values", "image_sizes")}
        if inputs.get("batch_num_images") is not None:
            taken["batch_num_images"] = torch.tensor([len(entries)])
        return taken

    def pixels(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], patches: Sequence[Patch], scale: tuple[Any, Any]
    ) -> list[torch.Tensor] | None:
        entries, crops = self.layout(model, inputs), []
        for patch in patches:
            view = entries[patch.entry].views[patch.view]
            size = torch.as_tensor(inputs["image_sizes"])[patch.entry]
            tiles = inputs["pixel_values"][patch.entry]
            plane = tiles[0] if patch.view == 0 else _canvas(model, tiles, size)
            down, across = plane.shape[-2] / view.height, plane.shape[-1] / view.width
            rows = slice(round(patch.top * down), round(patch.bottom * down))
            crops.append(plane[:, rows, round(patch.left * across) : round(patch.right * across)])
        return unnormalised(crops, scale)


def _side(model: PreTrainedModel) -> int:
    vision = model.config.vision_config
    return int(vision.image_size // vision.patch_size)


def _tiled(inputs: Mapping[str, Any]) -> list[bool]:
    """Whether each image comes in tiles; llava_onevision shows several images of one sample whole."""
    counts = inputs.get("batch_num_images")
    if counts is None:
        return [True] * len(inputs["image_sizes"])
    return [int(count) == 1 for count in counts for _ in range(int(count))]


def _tiling(model: PreTrainedModel, size: torch.Tensor) -> tuple[int, int]:
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    config = model.config
    rows, columns = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
    return int(rows), int(columns)


def _unpadded(plane: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """The part of a plane ``[C, H, W]`` that the image covers, by the model's own rule."""
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    unpadded: torch.Tensor = unpad_image(plane, size)
    return unpadded


def _shape(model: PreTrainedModel, inputs: Mapping[str, Any], size: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of the image's tokens: the tiles, without padding, shrunk where the family sets a maximum."""
    rows, columns = _tiling(model, size)
    side = _side(model)
    height, width = _unpadded(torch.empty(1, rows * side, columns * side), size).shape[-2:]
    ratio = inputs.get("vision_aspect_ratio") or getattr(model.config, "vision_aspect_ratio", None)
    if ratio is not None:
        most = int(ratio.removeprefix("anyres_max_"))
        excess = math.sqrt(height * width / (most * side**2))
        if excess > 1.1:
            height, width = int(height // excess), int(width // excess)
    return height, width


def _canvas(model: PreTrainedModel, tiles: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """``[3, H, W]`` pixels of the tiles put together, without padding (to whole visual tokens)."""
    rows, columns = _tiling(model, size)
    cell = model.config.vision_config.patch_size
    grid = tiles[1 : 1 + rows * columns].unflatten(0, (rows, columns))
    plane = grid.permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)
    height, width = plane.shape[-2] // cell, plane.shape[-1] // cell
    places = torch.arange(height * width).view(1, height, width)
    inside = _unpadded(places, size)[0]
    top, left = divmod(int(inside[0, 0]), width)
    bottom, right = divmod(int(inside[-1, -1]), width)
    return plane[:, top * cell : (bottom + 1) * cell, left * cell : (right + 1) * cell]
