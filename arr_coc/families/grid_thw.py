"""Qwen-VL and its relatives: images of any size, laid out by ``image_grid_thw``, resizable before the tower.

``pixel_values`` holds one row per ViT patch, either those of a visual token after one another, or in raster order;
either way an image can be put together again, cut, resized and taken apart on the model's device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ..scene.patches import Patch
from .base import Entry, Features, RescalingFamily, Segment, View, picked, resize, unnormalised
from .compat import position_taps

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Geometry:
    """Sizes of one image: ViT patch in pixels, ViT patches per token side, frames per ViT patch; and their order."""

    pixels: int
    merge: int
    frames: int
    raster: bool

    @property
    def side(self) -> int:
        """Pixels along the side of one visual token."""
        return self.pixels * self.merge

    def image(self, rows: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Rows ``[height * width * merge**2, C * frames * pixels**2]`` as an image ``[C * frames, H, W]``."""
        m, p = self.merge, self.pixels
        if self.raster:
            x = rows.reshape(height * m, width * m, -1, p, p).permute(2, 0, 3, 1, 4)
        else:
            x = rows.reshape(height, width, m, m, -1, p, p).permute(4, 0, 2, 5, 1, 3, 6)
        return x.reshape(-1, height * m * p, width * m * p)

    def rows(self, image: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`image`."""
        m, p = self.merge, self.pixels
        height, width = image.shape[-2] // (m * p), image.shape[-1] // (m * p)
        if self.raster:
            x = image.reshape(-1, height * m, p, width * m, p).permute(1, 3, 0, 2, 4)
        else:
            x = image.reshape(-1, height, m, p, width, m, p).permute(1, 4, 2, 5, 0, 3, 6)
        return x.reshape(height * width * m * m, -1)


class GridThw(RescalingFamily):
    """qwen2_vl, qwen3_vl, glm4v, paddleocr_vl, video_llama_3 and what shares their inputs.

    Parameters
    ----------
    can_join
        Whether patches of one image can share an attention segment at positions of that image.
    raster
        Whether ViT patches come in raster order rather than visual token by visual token.
    frames_first
        Whether the values of a ViT patch are ordered by frame, then channel, rather than by channel, then frame.
    compact_only
        As in :class:`Family`.
    """

    auto_realizer = "rescale"

    def __init__(
        self, can_join: bool = True, raster: bool = False, frames_first: bool = False, compact_only: bool = False
    ) -> None:
        self.can_join, self.raster, self.frames_first = can_join, raster, frames_first
        self.compact_only = compact_only

    def geometry(self, model: PreTrainedModel, inputs: Mapping[str, Any], entry: int) -> _Geometry:
        """The sizes of one image entry."""
        vision = model.config.vision_config
        if inputs.get("image_merge_sizes") is not None:
            merge = int(inputs["image_merge_sizes"][entry])
        else:
            merge = _first(vision, ("merge_kernel_size", "spatial_merge_size", "merge_size"))
        frames = _first(vision, ("temporal_patch_size", "patch_temporal"))
        return _Geometry(vision.patch_size, merge, frames, self.raster)

    def layout(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Entry]:
        grid, pixels = inputs.get("image_grid_thw"), inputs["pixel_values"]
        if grid is None:
            raise ValueError("image_grid_thw is missing; pass everything that the processor returns.")
        if "image_merge_sizes" in self.feature_inputs(model) and inputs.get("image_merge_sizes") is None:
            raise ValueError("image_merge_sizes is missing; pass everything that the processor returns.")
        sizes = grid.tolist()
        entries = []
        for entry, (t, h, w) in enumerate(sizes):
            merge = self.geometry(model, inputs, entry).merge
            if h % merge or w % merge:
                raise ValueError(f"image_grid_thw={sizes} must have heights and widths that are multiples of {merge}.")
            height, width = h // merge, w // merge
            views = tuple(View(frame * height * width, height, width) for frame in range(t))
            entries.append(Entry(t * height * width, views))
        described = sum(t * h * w for t, h, w in sizes)
        if described != pixels.shape[0]:
            raise ValueError(
                f"image_grid_thw describes {described} ViT patches, pixel_values holds {pixels.shape[0]}."
            )
        return entries

    def take(self, model: PreTrainedModel, inputs: Mapping[str, Any], entries: Sequence[int]) -> dict[str, Any]:
        grid, pixels = inputs["image_grid_thw"], inputs["pixel_values"]
        counts, first, last = grid.prod(-1).tolist(), entries[0], entries[-1] + 1
        if list(entries) == list(range(first, last)):
            start = sum(counts[:first])
            pixels = pixels[start : start + sum(counts[first:last])]  # a view: pixels are large
        else:
            parts = pixels.split(counts)
            pixels = torch.cat([parts[e] for e in entries])
        taken = {"pixel_values": pixels, "image_grid_thw": picked(grid, entries)}
        if inputs.get("image_merge_sizes") is not None:
            taken["image_merge_sizes"] = picked(inputs["image_merge_sizes"], entries)
        return taken

    def tower_tokens(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> int:
        return int(inputs["pixel_values"].shape[0])

    def cut_multiple(self, model: PreTrainedModel) -> int:
        vision = model.config.vision_config
        window = getattr(vision, "window_size", None)
        return window // (vision.patch_size * vision.spatial_merge_size) if window else 1

    def pixels(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], patches: Sequence[Patch], scale: tuple[Any, Any]
    ) -> list[torch.Tensor] | None:
        frames = self.geometry(model, inputs, 0).frames
        order = (frames, -1) if self.frames_first else (-1, frames)
        crops = [shown.unflatten(0, order) for shown in self._crops(model, inputs, patches)]
        return unnormalised([shown[0] if self.frames_first else shown[:, 0] for shown in crops], scale)

    def encode_resized(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], segments: Sequence[Segment]
    ) -> Features:
        call = self._resized(model, inputs, segments)
        joint = any(s.patches and not s.own for s in segments)
        extra = self._places(model, inputs, segments, call["pixel_values"].device) if joint else {}
        return self.encode(model, call, **extra)

    def _resized(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], segments: Sequence[Segment]
    ) -> dict[str, torch.Tensor]:
        """The image inputs of a call with resized patches; what they are made from lasts no longer than this."""
        grid, pixels = inputs["image_grid_thw"], inputs["pixel_values"]
        parts = pixels.split(grid.prod(-1).tolist())
        crops = self._crops(model, inputs, [patch for segment in segments for patch in segment.patches])
        rows, sizes, merges = [], [], []
        for segment in segments:
            geometry = self.geometry(model, inputs, segment.entry)
            if segment.untouched:
                rows.append(parts[segment.entry])
                sizes.append(grid[segment.entry].tolist())
                merges.append(geometry.merge)
            for height, width in segment.grids:
                made = geometry.rows(resize(next(crops), height * geometry.side, width * geometry.side))
                rows.append(made.unflatten(-1, pixels.shape[1:]) if pixels.ndim > 2 else made)
                sizes.append([1, height * geometry.merge, width * geometry.merge])
                merges.append(geometry.merge)
        call = {"pixel_values": torch.cat(rows), "image_grid_thw": torch.tensor(sizes, device=grid.device)}
        if inputs.get("image_merge_sizes") is not None:
            call["image_merge_sizes"] = torch.tensor(merges, device=grid.device)
        return call

    def _crops(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], patches: Sequence[Patch]
    ) -> Iterator[torch.Tensor]:
        """The normalised pixels ``[C * frames, H, W]`` of each patch, put together when its turn comes."""
        grid = inputs["image_grid_thw"]
        parts = inputs["pixel_values"].split(grid.prod(-1).tolist())
        for patch in patches:
            geometry = self.geometry(model, inputs, patch.entry)
            t, h, w = grid[patch.entry].tolist()
            step = geometry.merge if geometry.raster else 1  # ViT patches, or all those of a token, stand side by side
            rows, columns = h * step // geometry.merge, w * step // geometry.merge
            view = parts[patch.entry].reshape(t, rows, columns, -1)[patch.view]
            part = view[patch.top * step : patch.bottom * step, patch.left * step : patch.right * step]
            yield geometry.image(part, patch.height, patch.width)

    def _places(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], segments: Sequence[Segment], device: torch.device
    ) -> dict[str, torch.Tensor]:
        """Attention segments and positions for a call in which some patches share a segment.

        Patches of one image see each other and stand where they stood: the rotary (and learned) position of a resized
        patch's cell is the centre of the area that it covers, in ViT patches of the whole image.
        """
        sizes: list[list[int]] = inputs["image_grid_thw"].tolist()
        lengths, coordinates, extents = [], [], []
        for segment in segments:
            t, h, w = sizes[segment.entry]
            geometry = self.geometry(model, inputs, segment.entry)
            m = geometry.merge
            if segment.untouched:
                coordinates += [_centres(0, h // m, 0, w // m, h // m, w // m, geometry)] * t
                lengths += [h * w] * t
                extents.append(torch.tensor([h, w]).expand(t * h * w, 2))
                continue
            length = 0
            for patch, (rows, columns) in zip(segment.patches, segment.grids, strict=True):
                count = rows * columns * m**2
                if segment.own:
                    coordinates.append(_centres(0, rows, 0, columns, rows, columns, geometry))
                    h, w = rows * m, columns * m
                else:
                    edges = patch.top, patch.bottom, patch.left, patch.right
                    coordinates.append(_centres(*edges, rows, columns, geometry))
                extents.append(torch.tensor([h, w]).expand(count, 2))
                length += count
            lengths.append(length)
        places, extent = torch.cat(coordinates).to(device), torch.cat(extents).to(device)
        ends = F.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0)).to(device)
        extra = {"image_cu_seqlens": ends, "image_position_ids": places}
        if (tower := learned_grid(model)) is not None:  # learned positions besides the rotary ones
            taps, weights = position_taps(tower, places, extent)
            extra |= {"image_interp_indices": taps, "image_interp_weights": weights}
        return extra


def _first(config: Any, names: Sequence[str]) -> int:
    """The first of the settings that a config has, 1 if none; where it names a height and a width they are equal."""
    value = next((getattr(config, name) for name in names if getattr(config, name, None)), 1)
    return int(value if isinstance(value, int) else value[0])


def learned_grid(model: PreTrainedModel) -> Any:
    """The module of a tower that holds a square grid of learned positions, if one does."""
    tower = getattr(model.base_model, "visual", None)
    return next((m for m in tower.modules() if hasattr(m, "num_grid_per_side")), None) if tower is not None else None


def _centres(
    top: int, bottom: int, left: int, right: int, rows: int, columns: int, geometry: _Geometry
) -> torch.Tensor:
    """``[rows * columns * merge**2, 2]`` coordinates of a patch's ViT patches after resizing, in their order."""
    m = geometry.merge
    down = top * m + (torch.arange(rows * m) + 0.5) * ((bottom - top) / rows) - 0.5
    across = left * m + (torch.arange(columns * m) + 0.5) * ((right - left) / columns) - 0.5
    plane = torch.stack(torch.meshgrid(down, across, indexing="ij"), -1)
    if geometry.raster:
        return plane.reshape(-1, 2)
    return plane.reshape(rows, m, columns, m, 2).transpose(1, 2).reshape(-1, 2)
