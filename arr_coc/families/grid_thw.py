"""Qwen-VL and its relatives: images of any size, laid out by ``image_grid_thw``, resizable before the tower.

``pixel_values`` holds one row per ViT patch, ``merge x merge`` of them per visual token and in that order, so an image
can be put together again, cut, resized and taken apart on the model's device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ..compat import position_taps
from ..patches import Patch
from .base import Entry, Features, RescalingFamily, Segment, View

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Geometry:
    """Sizes of one tower: ViT patch in pixels, ViT patches per token side, frames per ViT patch."""

    pixels: int
    merge: int
    frames: int

    def image(self, rows: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Rows ``[height * width * merge**2, C * frames * pixels**2]`` as an image ``[C * frames, H, W]``."""
        m, p = self.merge, self.pixels
        x = rows.reshape(height, width, m, m, -1, p, p)
        return x.permute(4, 0, 2, 5, 1, 3, 6).reshape(-1, height * m * p, width * m * p)

    def rows(self, image: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`image`."""
        m, p = self.merge, self.pixels
        height, width = image.shape[-2] // (m * p), image.shape[-1] // (m * p)
        x = image.reshape(-1, height, m, p, width, m, p)
        return x.permute(1, 4, 2, 5, 0, 3, 6).reshape(height * width * m * m, -1)


class GridThw(RescalingFamily):
    """qwen2_vl, qwen2_5_vl, qwen3_vl and what shares their inputs."""

    def layout(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Entry]:
        grid, pixels = inputs.get("image_grid_thw"), inputs["pixel_values"]
        if grid is None:
            raise ValueError("image_grid_thw is missing; pass everything that the processor returns.")
        merge = _geometry(model).merge
        sizes = grid.tolist()
        if any(h % merge or w % merge for _, h, w in sizes):
            raise ValueError(f"image_grid_thw={sizes} must have heights and widths that are multiples of {merge}.")
        described = sum(t * h * w for t, h, w in sizes)
        if described != pixels.shape[0]:
            raise ValueError(
                f"image_grid_thw describes {described} ViT patches, pixel_values holds {pixels.shape[0]}."
            )
        entries = []
        for t, h, w in sizes:
            height, width = h // merge, w // merge
            views = tuple(View(frame * height * width, height, width) for frame in range(t))
            entries.append(Entry(t * height * width, views))
        return entries

    def take(self, model: PreTrainedModel, inputs: Mapping[str, Any], entries: Sequence[int]) -> dict[str, Any]:
        grid = inputs["image_grid_thw"]
        parts = inputs["pixel_values"].split(grid.prod(-1).tolist())
        return {"pixel_values": torch.cat([parts[e] for e in entries]), "image_grid_thw": grid[list(entries)]}

    def cut_multiple(self, model: PreTrainedModel) -> int:
        vision = model.config.vision_config
        window = getattr(vision, "window_size", None)
        return window // (vision.patch_size * vision.spatial_merge_size) if window else 1

    def pixels(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], patches: Sequence[Patch], scale: tuple[Any, Any]
    ) -> list[torch.Tensor] | None:
        geometry = _geometry(model)
        crops = [
            crop.unflatten(0, (-1, geometry.frames))[:, 0].float().cpu() for crop in _crops(model, inputs, patches)
        ]
        mean, deviation = (torch.as_tensor(s, dtype=torch.float32).reshape(-1, 1, 1) for s in scale)
        return [(crop * deviation + mean).clamp(0, 1) for crop in crops]

    def encode_resized(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], segments: Sequence[Segment]
    ) -> Features:
        geometry, grid = _geometry(model), inputs["image_grid_thw"]
        parts = inputs["pixel_values"].split(grid.prod(-1).tolist())
        crops = iter(_crops(model, inputs, [patch for segment in segments for patch in segment.patches]))
        rows, sizes = [], []
        for segment in segments:
            if segment.untouched:
                rows.append(parts[segment.entry])
                sizes.append(grid[segment.entry].tolist())
            for height, width in segment.grids:
                side = geometry.merge * geometry.pixels
                rows.append(geometry.rows(_resize(next(crops), height * side, width * side)))
                sizes.append([1, height * geometry.merge, width * geometry.merge])
        call = {"pixel_values": torch.cat(rows), "image_grid_thw": torch.tensor(sizes, device=grid.device)}
        joint = any(s.patches and not s.own for s in segments)
        extra = _places(model, grid.tolist(), segments, call["pixel_values"].device) if joint else {}
        return self.encode(model, call, **extra)


def _geometry(model: PreTrainedModel) -> _Geometry:
    vision = model.config.vision_config
    return _Geometry(vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)


def _crops(model: PreTrainedModel, inputs: Mapping[str, Any], patches: Sequence[Patch]) -> list[torch.Tensor]:
    """The normalised pixels ``[C * frames, H, W]`` of each patch."""
    geometry = _geometry(model)
    grid = inputs["image_grid_thw"]
    parts = inputs["pixel_values"].split(grid.prod(-1).tolist())
    images: dict[tuple[int, int], torch.Tensor] = {}
    crops = []
    for patch in patches:
        key = patch.entry, patch.view
        if key not in images:
            t, h, w = grid[patch.entry].tolist()
            view = parts[patch.entry].reshape(t, h * w, -1)[patch.view]
            images[key] = geometry.image(view, h // geometry.merge, w // geometry.merge)
        side = geometry.merge * geometry.pixels
        crops.append(images[key][:, patch.top * side : patch.bottom * side, patch.left * side : patch.right * side])
    return crops


def _resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if image.shape[-2:] == (height, width):
        return image
    resized = F.interpolate(image[None].float(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].to(image.dtype)


def _places(
    model: PreTrainedModel, sizes: list[list[int]], segments: Sequence[Segment], device: torch.device
) -> dict[str, torch.Tensor]:
    """Attention segments and positions for a call in which some patches share a segment.

    Patches of one image see each other and stand where they stood: the rotary (and learned) position of a resized
    patch's cell is the centre of the area that it covers, in ViT patches of the whole image.
    """
    geometry, tower = _geometry(model), model.base_model.visual
    lengths, coordinates, extents = [], [], []
    for segment in segments:
        t, h, w = sizes[segment.entry]
        if segment.untouched:
            whole = _centres(
                0, h // geometry.merge, 0, w // geometry.merge, h // geometry.merge, w // geometry.merge, geometry
            )
            coordinates += [whole] * t
            lengths += [h * w] * t
            extents.append(torch.tensor([h, w]).expand(t * h * w, 2))
            continue
        length = 0
        for patch, (rows, columns) in zip(segment.patches, segment.grids, strict=True):
            count = rows * columns * geometry.merge**2
            if segment.own:
                coordinates.append(_centres(0, rows, 0, columns, rows, columns, geometry))
                h, w = rows * geometry.merge, columns * geometry.merge
            else:
                coordinates.append(_centres(patch.top, patch.bottom, patch.left, patch.right, rows, columns, geometry))
            extents.append(torch.tensor([h, w]).expand(count, 2))
            length += count
        lengths.append(length)
    places, extent = torch.cat(coordinates).to(device), torch.cat(extents).to(device)
    ends = F.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0)).to(device)
    extra = {"image_cu_seqlens": ends, "image_position_ids": places}
    if hasattr(tower, "num_grid_per_side"):  # learned positions besides the rotary ones
        taps, weights = position_taps(tower, places, extent)
        extra |= {"image_interp_indices": taps, "image_interp_weights": weights}
    return extra


def _centres(
    top: int, bottom: int, left: int, right: int, rows: int, columns: int, geometry: _Geometry
) -> torch.Tensor:
    """``[rows * columns * merge**2, 2]`` coordinates of a patch's ViT patches after resizing, in merge order."""
    m = geometry.merge
    down = top * m + (torch.arange(rows * m) + 0.5) * ((bottom - top) / rows) - 0.5
    across = left * m + (torch.arange(columns * m) + 0.5) * ((right - left) / columns) - 0.5
    plane = torch.stack(torch.meshgrid(down, across, indexing="ij"), -1)
    return plane.reshape(rows, m, columns, m, 2).transpose(1, 2).reshape(-1, 2)
