"""Towers that are given pictures: what the layouts over ``[..., 3, H, W]`` pixel values share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..scene.patches import Patch
from .base import Entry, Features, RescalingFamily, Segment, View, crop, resize, unnormalised

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Pictures(RescalingFamily):
    """One entry per picture, whose tokens are a grid of square cells.

    Parameters
    ----------
    cell
        ``model -> pixels`` along the side of one visual token.
    resizes
        What the tower takes besides its native size: ``"no"``, ``"square"`` pictures, or ``"any"``.
    options
        Arguments of the feature call that a picture of another size needs.
    settings
        Further attributes of :class:`Family` to set, such as ``auto_realizer``.
    """

    def __init__(
        self,
        cell: Callable[[PreTrainedModel], int],
        resizes: str = "no",
        options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.cell, self.options = cell, dict(options or {})
        self.can_rescale, self.square_only = resizes != "no", resizes == "square"
        for name, value in settings.items():
            setattr(self, name, value)

    @abstractmethod
    def pictures(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        """``[3, H, W]`` normalised pixels of every entry."""

    @abstractmethod
    def image_inputs(self, inputs: Mapping[str, Any], pictures: Sequence[torch.Tensor]) -> dict[str, Any]:
        """The image inputs of a call with these pictures."""

    def fixed(self, model: PreTrainedModel) -> tuple[int, int] | None:
        """Rows and columns of visual tokens of the one size that the tower was made for, if its configuration says."""
        size = getattr(getattr(model.config, "vision_config", None), "image_size", None)
        sides = (size, size) if isinstance(size, int) else size
        if not sides:
            return None
        cell = self.cell(model)
        return int(sides[0]) // cell, int(sides[1]) // cell

    def layout(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Entry]:
        cell = self.cell(model)
        sizes = [(p.shape[-2] // cell, p.shape[-1] // cell) for p in self.pictures(model, inputs)]
        for rows, columns in sizes:
            if rows < 1 or columns < 1:
                raise ValueError(f"A picture is smaller than one visual token of {cell} x {cell} pixels.")
        return [Entry(rows * columns, (View(0, rows, columns),)) for rows, columns in sizes]

    def take(self, model: PreTrainedModel, inputs: Mapping[str, Any], entries: Sequence[int]) -> dict[str, Any]:
        pictures, values = self.pictures(model, inputs), inputs["pixel_values"]
        if len(entries) == len(pictures) and sum(picture.numel() for picture in pictures) == values.numel():
            return {name: inputs[name] for name in self.feature_inputs(model) if inputs.get(name) is not None}
        return self.image_inputs(inputs, [pictures[entry] for entry in entries])

    def pixels(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], patches: Sequence[Patch], scale: tuple[Any, Any]
    ) -> list[torch.Tensor] | None:
        pictures, cell = self.pictures(model, inputs), self.cell(model)
        return unnormalised([crop(pictures[patch.entry], patch, cell) for patch in patches], scale)

    def encode_resized(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], segments: Sequence[Segment]
    ) -> Features:
        pictures, cell = self.pictures(model, inputs), self.cell(model)
        shown: list[tuple[torch.Tensor, bool]] = []
        for segment in segments:
            if segment.untouched:
                shown.append((pictures[segment.entry], True))
            for patch, (rows, columns) in zip(segment.patches, segment.grids, strict=True):
                area = crop(pictures[segment.entry], patch, cell)
                shown.append((resize(area, rows * cell, columns * cell), False))
        groups: dict[tuple[Any, ...], list[int]] = {}  # a tower's batch is of one size
        for index, (picture, native) in enumerate(shown):
            groups.setdefault((native, tuple(picture.shape)), []).append(index)
        parts: list[tuple[torch.Tensor, ...]] = [()] * len(shown)
        for (native, _), members in groups.items():
            batch = [shown[index][0] for index in members]
            call = {**inputs, **self.image_inputs(inputs, batch)}
            features = self.encode(model, call, **({} if native else self.options))
            counts = [(p.shape[-2] // cell) * (p.shape[-1] // cell) for p in batch]
            if sum(counts) != features.streams[0].shape[0]:
                raise ValueError(
                    f"The tower returned {features.streams[0].shape[0]} visual tokens for resized patches of "
                    f"{sum(counts)}; this model's tower can't be given other sizes. Use realizer='pool' or 'select'."
                )
            for index, *streams in zip(members, *(stream.split(counts) for stream in features.streams), strict=True):
                parts[index] = tuple(streams)
        return Features(tuple(torch.cat(same) for same in zip(*parts, strict=True)), features.output)
