"""What a model family must say about itself: where its visual tokens lie, and little else.

A family is one small file per *layout kind*. Everything transformers already says publicly (the feature call, the
placeholder id, M-RoPE positions) is read here, once.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ..scene.patches import Patch, budget_grid
from .compat import rotary_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Streams = tuple[torch.Tensor, ...]
_TOWER = {"last_hidden_state", "hidden_states", "attentions"}

PLAIN_ATTENTION = frozenset(
    f"modeling_{name}"
    for name in "llama mistral qwen2 qwen3 gemma gemma3 qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe".split()
)
"""Language models whose attention follows from its input by q, k, their norms, one rotation and a softmax."""


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
        Feature rows from one row of tokens to the next; more than ``width`` where glue rows (newlines) follow each.
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
    """One image entry of a call: ``count`` feature rows that fill ``count`` placeholders, one after another.

    Rows in no view are glue, such as newlines: they are not budgeted. Text may stand between the rows of a view.
    """

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


def picked(values: Any, entries: Sequence[int]) -> Any:
    """Some rows of a tensor, in order: a view where they follow one another, as the images of a question do."""
    chosen = list(entries)
    whole = range(chosen[0], chosen[-1] + 1) if chosen else ()
    return values[chosen[0] : chosen[-1] + 1] if chosen and chosen == list(whole) else values[chosen]


class Family(ABC):
    """The base of all families; a subclass says how one kind of layout works.

    Attributes
    ----------
    can_rescale
        Whether patches can be resized before the vision tower (:meth:`encode_resized`).
    can_join
        Whether resized patches of one image can see each other in the tower. Where not, each is an image of its own.
    square_only
        Whether the tower takes square pictures only.
    auto_realizer
        What ``realizer="auto"`` means: ``"rescale"`` where the tower was made for images of any size.
    first_position
        The position that ``forward`` gives the first token of a one-dimensional model.
    passed_on
        Fields of the feature call's output, besides features, that the model needs back.
    compact_only
        Whether the language model can't take positions with gaps: its ``generate`` drops those that are passed, or it
        counts key slots by position.
    causal
        Whether no token of a prompt sees a later one. Where some do, an unchanged prompt is not read again, but a
        changed one is read from its start.
    """

    can_rescale: bool = False
    can_join: bool = False
    square_only: bool = False
    auto_realizer: str = "pool"
    first_position: int = 0
    passed_on: tuple[str, ...] = ()
    compact_only: bool = False
    causal: bool = True

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

    def tile(self, model: PreTrainedModel) -> tuple[int, int] | None:
        """Rows and columns of visual tokens of the pictures that the tower takes; ``None`` if any size is taken."""
        return None

    def tower_tokens(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> int:
        """The tower's own tokens (ViT patches) in a call."""
        patch = getattr(getattr(model.config, "vision_config", None), "patch_size", None) or 14
        side = patch if isinstance(patch, int) else patch[0]
        values = inputs["pixel_values"]
        count = values.numel() if isinstance(values, torch.Tensor) else sum(part.numel() for part in values)
        return int(count // (3 * side**2))

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
        return _parameters(type(model.base_model).get_image_features)

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any], **extra: Any) -> Features:
        """The model's own ``get_image_features``, exactly as ``generate`` would call it.

        Raises
        ------
        ValueError
            If the tower can't take pixels of another dtype than the model's; most cast them.
        """
        kwargs = {name: inputs[name] for name in self.feature_inputs(model) if inputs.get(name) is not None}
        base = model.base_model
        hook = getattr(
            base, "_hf_hook", None
        )  # accelerate: parameters of the base itself rest elsewhere between calls
        if hook is not None:
            hook.pre_forward(base)
        try:
            output = base.get_image_features(**kwargs, **extra, return_dict=True)
        except RuntimeError as error:
            given, own = inputs["pixel_values"].dtype, model.dtype
            if given == own:
                raise
            raise ValueError(
                f"The tower of {type(model).__name__} failed on pixel_values of {given}, while the model is {own}; "
                "pass inputs.to(model.dtype)."
            ) from error
        finally:
            if hook is not None:
                hook.post_forward(base, None)
        output = self._slim(output)
        levels = getattr(output, "deepstack_features", None) or ()
        return Features(tuple(_flat(rows) for rows in (output.pooler_output, *levels)), output)

    def _slim(self, output: Any) -> Any:
        """A feature call's output without the tower's own tokens, which would be held for as long as the features."""
        known = {field.name: getattr(output, field.name) for field in fields(output)}
        return type(output)(**known | dict.fromkeys(_TOWER & known.keys() - set(self.passed_on)))

    def encode_videos(self, model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
        """Videos pass through untouched; ``forward`` takes them only encoded where images are encoded."""
        if inputs.get("pixel_values_videos") is None:
            return inputs
        base = model.base_model
        if hasattr(base, "get_video_features"):
            names = inspect.signature(base.get_video_features).parameters
            kwargs = {name: inputs[name] for name in names if inputs.get(name) is not None}
            video = base.get_video_features(**kwargs, return_dict=True)
        else:  # perception_lm
            video = base.get_image_features(pixel_values=inputs["pixel_values_videos"], return_dict=True)
        left = {name: value for name, value in inputs.items() if name != "pixel_values_videos"}
        return left | {"mm_encoder_outputs": inputs["mm_encoder_outputs"] | {"video": video}}

    def hand_over(self, like: Any, streams: Streams, counts: Sequence[int]) -> Any:
        """A fresh output object for ``mm_encoder_outputs``: one tensor per sample, of ``counts`` rows.

        Fresh because beam search expands it in place. Per sample because transformers expands whole samples, and
        glm4v (as of 5.23) puts several tensors of a sample into the wrong order. Models that call
        ``pooler_output.to(...)`` get a tensor ``[rows, 1, D]``, every row an image of one token to that code: a tensor
        ``[1, rows, D]`` would be expanded wrongly wherever the samples of a batch spend unequal totals.
        """
        others = {field.name: None for field in fields(like) if field.default is MISSING}
        others |= {name: getattr(like, name) for name in self.passed_on}
        if isinstance(like.pooler_output, torch.Tensor):
            return type(like)(**others | {"pooler_output": streams[0].unsqueeze(1)})
        split = [list(stream.split(list(counts))) for stream in streams]
        output = type(like)(**others | {"pooler_output": split[0]})
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
        names = set(inspect.signature(base.get_rope_index).parameters) - {"kwargs", "attention_mask"}
        if "mm_token_type_ids" in names and inputs.get("mm_token_type_ids") is None:
            raise ValueError(
                "mm_token_type_ids is missing: without it the model can't place images in its three position axes; "
                "pass everything that the processor returns."
            )
        kwargs = {name: inputs[name] for name in names if inputs.get(name) is not None}
        positions, deltas = base.get_rope_index(**kwargs, attention_mask=attention_mask)
        return positions, deltas

    def flat_positions(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """``[B, L]`` positions that a one-dimensional model gives its original sequence."""
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)

    # ---------------------------------------------------------------- the language model, for reading attention

    def attentions(self, model: PreTrainedModel) -> list[Any]:
        """The self-attention modules of the language model, first layer first; layers of another kind are left out."""
        layers = model.get_decoder().layers
        kinds = getattr(model.config.get_text_config(), "layer_types", None) or [""] * len(layers)
        found = zip(layers, kinds, strict=True)
        return [layer.self_attn for layer, kind in found if hasattr(layer, "self_attn") and "linear" not in kind]

    def last_token_attention(
        self, attention: Any, hidden: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor] | None
    ) -> torch.Tensor:
        """Attention of the last token, from the inputs of its attention module: for kernels that can't be looked into.

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

        Raises
        ------
        NotImplementedError
            For a language model whose attention was not checked against its eager map.
        """
        if rotation is None or type(attention).__module__.rpartition(".")[2] not in PLAIN_ATTENTION:
            raise NotImplementedError(
                f"The attention of {type(attention).__name__} can't be read under this kernel. Load the model with "
                "attn_implementation='sdpa', or choose scorers that read none: ArrCocConfig(scorers=('propositional', "
                "'perspectival'), confidence=False)."
            )
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

    def resized_grid(self, height: int, width: int, budget: int) -> tuple[int, int]:
        """The grid that a budget buys where patches are resized: as :func:`budget_grid`, or the largest square."""
        if not self.square_only or height * width <= budget:
            return budget_grid(height, width, budget)
        if height != width:
            raise ValueError(
                f"A patch of {height} x {width} visual tokens can't be resized: this tower takes squares only. Choose "
                "a patch_side that cuts its pictures into squares (or not at all), or realizer='pool' or 'select'."
            )
        side = min(height, math.isqrt(budget))
        return side, side

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


@cache
def _parameters(method: Any) -> tuple[str, ...]:
    """The names that a method takes."""
    return tuple(name for name in inspect.signature(method).parameters if name not in ("self", "kwargs"))


def resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """``[C, H, W]`` normalised pixels at another size: bicubic, antialiased."""
    if image.shape[-2:] == (height, width):
        return image
    resized = F.interpolate(image[None].float(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].to(image.dtype)


def crop(picture: torch.Tensor, patch: Patch, side: int) -> torch.Tensor:
    """The area of a patch in a picture ``[C, H, W]`` with visual tokens of ``side`` pixels."""
    return picture[:, patch.top * side : patch.bottom * side, patch.left * side : patch.right * side]


def unnormalised(crops: Sequence[torch.Tensor], scale: tuple[Any, Any]) -> list[torch.Tensor]:
    """Normalised pixels ``[3, H, W]`` as float32 RGB in [0, 1] on the CPU."""
    mean, deviation = (torch.as_tensor(s, dtype=torch.float32).reshape(-1, 1, 1) for s in scale)
    return [(crop.float().cpu() * deviation + mean).clamp(0, 1) for crop in crops]


def _flat(rows: Any) -> torch.Tensor:
    """Features as the families return them (a tensor, or one tensor per entry) as ``[rows, D]``."""
    if isinstance(rows, torch.Tensor):
        return rows.reshape(-1, rows.shape[-1])
    parts = [part.reshape(-1, part.shape[-1]) for part in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
