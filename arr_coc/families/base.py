"""What a model family must say about itself: where its visual tokens lie, and little else.

A family is one small file per *layout kind*. Everything transformers already says publicly (the feature call, the
placeholder id, M-RoPE positions) is read here, once.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..compat import rotary_of
from ..patches import Patch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Streams = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class View:
    """A rectangle of visual tokens inside an entry, in raster order.

    Attributes
    ----------
    first
        Feature row of its top left token, counted inside the entry.
    height, width
        Rows and columns in visual tokens.
    stride
        Feature rows from one row of tokens to the next; more than ``width`` where glue rows (newlines) stand between.
    """

    first: int
    height: int
    width: int
    stride: int = 0

    def rows(self, top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        """``[bottom - top, right - left]`` feature rows, counted inside the entry."""
        stride = self.stride or self.width
        down = torch.arange(top, bottom) * stride + self.first
        return down[:, None] + torch.arange(left, right)


@dataclass(frozen=True)
class Entry:
    """One image entry of a call: ``count`` feature rows that fill ``count`` consecutive placeholders."""

    count: int
    views: tuple[View, ...]


@dataclass
class Features:
    """What the model's own feature call returned, flattened.

    Attributes
    ----------
    streams
        ``[rows, D]`` tensors over the same rows: the merged tokens first, then every DeepStack level.
    output
        The model's own output object; it also says which class to hand back.
    """

    streams: Streams
    output: Any


class Family(ABC):
    """The base of all families; a subclass says how one kind of layout works.

    Attributes
    ----------
    can_rescale
        Whether patches can be resized before the vision tower (:meth:`encode_resized`).
    """

    can_rescale: bool = False

    # ---------------------------------------------------------------- what a layout kind must say

    @abstractmethod
    def layout(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Entry]:
        """The entries of a call in placeholder order, from the inputs alone (before any tower runs).

        Raises
        ------
        ValueError
            If the inputs do not describe a layout.
        """

    @abstractmethod
    def take(self, model: PreTrainedModel, inputs: Mapping[str, Any], entries: Sequence[int]) -> dict[str, Any]:
        """The image inputs of some entries, so that a question can be looked at alone."""

    def cut_multiple(self, model: PreTrainedModel) -> int:
        """Inner patch borders fall on multiples of this many visual tokens (windows of the tower)."""
        return 1

    def pixels(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], patches: Sequence[Patch], scale: tuple[Any, Any]
    ) -> list[torch.Tensor] | None:
        """Per patch ``[3, H, W]`` float32 RGB in [0, 1] on the CPU, or ``None`` if the layout can't give them.

        ``scale`` is the (mean, deviation) per channel by which the image processor normalised.
        """
        return None

    # ---------------------------------------------------------------- what transformers says of every family

    def image_token(self, model: PreTrainedModel) -> int:
        """The id that holds the place of one visual token."""
        token = getattr(model.config, "image_token_id", None)
        if token is None:
            raise ValueError(f"{type(model).__name__} states no image_token_id; its placeholders can't be found.")
        return int(token)

    def feature_inputs(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Names of the inputs that the model's feature call takes."""
        parameters = inspect.signature(model.base_model.get_image_features).parameters
        return tuple(name for name in parameters if name != "kwargs")

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any], **extra: Any) -> Features:
        """The model's own ``get_image_features``, exactly as ``generate`` would call it."""
        kwargs = {name: inputs[name] for name in self.feature_inputs(model) if inputs.get(name) is not None}
        base = model.base_model
        hook = getattr(
            base, "_hf_hook", None
        )  # accelerate: parameters of the base itself rest elsewhere between calls
        if hook is not None:
            hook.pre_forward(base)
        try:
            output = base.get_image_features(**kwargs, **extra, return_dict=True)
        finally:
            if hook is not None:
                hook.post_forward(base, None)
        levels = getattr(output, "deepstack_features", None) or ()
        return Features(tuple(_flat(rows) for rows in (output.pooler_output, *levels)), output)

    def encode_videos(self, model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
        """Videos pass through untouched; ``forward`` takes them only encoded where images are encoded."""
        if inputs.get("pixel_values_videos") is None:
            return inputs
        names = inspect.signature(model.base_model.get_video_features).parameters
        kwargs = {name: inputs[name] for name in names if inputs.get(name) is not None}
        video = model.base_model.get_video_features(**kwargs, return_dict=True)
        left = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
        return left | {"mm_encoder_outputs": inputs["mm_encoder_outputs"] | {"video": video}}

    def hand_over(self, like: Any, streams: Streams, counts: Sequence[int]) -> Any:
        """A fresh output object for ``mm_encoder_outputs``: one tensor per entry.

        Fresh because beam search expands it in place. Per entry because that is how transformers finds the images
        of a sample when it expands.
        """
        split = [list(stream.split(list(counts))) for stream in streams]
        output = type(like)(pooler_output=split[0])
        if len(split) > 1:
            output.deepstack_features = split[1:]
        return output

    def positions(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The model's own M-RoPE positions ``[3, B, L]`` and deltas ``[B, 1]``; ``None`` for 1-D models."""
        base = model.base_model
        if not hasattr(base, "get_rope_index"):
            return None
        if inputs.get("mm_token_type_ids") is None:
            raise ValueError(
                "mm_token_type_ids is missing: without it the model can't place images in its three position axes; "
                "pass everything that the processor returns."
            )
        names = set(inspect.signature(base.get_rope_index).parameters) - {"kwargs", "attention_mask"}
        kwargs = {name: inputs[name] for name in names if inputs.get(name) is not None}
        positions, deltas = base.get_rope_index(**kwargs, attention_mask=attention_mask)
        return positions, deltas

    def flat_positions(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """``[B, L]`` positions that a one-dimensional model gives its original sequence."""
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)

    # ---------------------------------------------------------------- the language model, for reading attention

    def attentions(self, model: PreTrainedModel) -> list[Any]:
        """The self-attention modules of the language model, first layer first."""
        language = model.base_model.language_model
        return [layer.self_attn for layer in language.layers]

    def last_token_attention(
        self, attention: Any, hidden: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Attention of the last token, from the inputs of its attention module.

        Parameters
        ----------
        attention
            One of :meth:`attentions`.
        hidden
            ``[1, L, D]`` input of the module.
        rotation
            Its (cos, sin).

        Returns
        -------
        Tensor
            ``[heads, L]`` float32; each head sums to 1.
        """
        width = attention.head_dim
        query = attention.q_proj(hidden[:, -1:]).unflatten(-1, (-1, width))
        key = attention.k_proj(hidden).unflatten(-1, (-1, width))
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        rotate, (cos, sin) = rotary_of(attention), rotation
        query = rotate(query, query, cos[..., -1:, :], sin[..., -1:, :])[0]
        key = rotate(key, key, cos, sin)[1]
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = (query @ key.transpose(2, 3))[0, :, 0].float() * attention.scaling
        window = getattr(attention, "sliding_window", None)
        if window is not None and window < scores.shape[-1]:
            scores[:, : scores.shape[-1] - window] = float("-inf")
        return scores.softmax(-1)


class RescalingFamily(Family):
    """A family whose tower takes variable sizes, so that patches can be resized before it."""

    can_rescale = True

    @abstractmethod
    def encode_resized(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], segments: Sequence[Segment]
    ) -> Features:
        """Resize the patches of each segment (bicubic, antialiased) and run the tower once over all segments.

        Returns
        -------
        Features
            Rows in the order of the segments, their patches, and raster order inside a patch.
        """


@dataclass(frozen=True)
class Segment:
    """Patches that attend to one another inside the tower.

    Attributes
    ----------
    patches
        The patches, all of one view; empty for an untouched entry.
    grids
        Their grids (rows, columns) in visual tokens.
    own
        True if the one patch is encoded as an image of its own: positions start at its own corner.
    entry
        Index of the image entry.
    """

    patches: tuple[Patch, ...]
    grids: tuple[tuple[int, int], ...]
    own: bool
    entry: int

    @property
    def untouched(self) -> bool:
        """Whether the whole entry goes through the tower as it came."""
        return not self.patches


def _flat(rows: Any) -> torch.Tensor:
    """Features as the families return them (a tensor, or one tensor per entry) as ``[rows, D]``."""
    if isinstance(rows, torch.Tensor):
        return rows.reshape(-1, rows.shape[-1])
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in rows])
