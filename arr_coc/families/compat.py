"""What depends on the version of transformers: the gate, and the few names that are not public API."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

MINIMUM = (5, 19)
MAXIMUM = (6, 0)


NEEDS = {
    "cosmos3_edge": (5, 23),  # before, its language model took no text axis in front of the three M-RoPE axes
    "minimax_m3_vl": (5, 23),  # before, all images of a call saw each other in its tower
    "video_llava": (5, 23),  # before, its images came as pixel_values_images
}
"""Model types that are supported only from a later version of transformers on."""


@cache
def installed_transformers() -> tuple[int, ...]:
    """Major and minor version of the transformers that is installed."""
    return tuple(int(part) for part in version("transformers").split(".")[:2])


def cache_name() -> str:
    """The keyword and the output field of the key-value cache: ``cache`` since 5.24, ``past_key_values`` before."""
    return "cache" if installed_transformers() >= (5, 24) else "past_key_values"


def given_cache(inputs: Mapping[str, Any]) -> Any:
    """The key-value cache that a call brings along under either of its names, or ``None``."""
    cache = inputs.get("cache")
    return inputs.get("past_key_values") if cache is None else cache


def output_cache(output: Any) -> Any:
    """The key-value cache in what a model returned, or ``None``."""
    return getattr(output, cache_name(), None)


def plain_cache(cache: Any, static: bool = False) -> bool:
    """Whether all that a cache knows is the keys and values of its tokens, on the model's device.

    Layers that keep more (a state, an index, quantised copies) are not plain. ``static`` allows fixed sizes too.
    """
    from transformers import cache_utils

    kinds = [cache_utils.DynamicLayer, cache_utils.DynamicSlidingWindowLayer]
    if static:
        kinds += [cache_utils.StaticLayer, cache_utils.StaticSlidingWindowLayer]
    return (
        isinstance(cache, cache_utils.Cache)
        and not getattr(cache, "offloading", False)
        and all(type(layer) in kinds for layer in cache.layers)
    )


def own_cache(cache: Any) -> bool:
    """Whether ``generate`` made this cache itself, so that nobody misses it if another is used instead."""
    from transformers import DynamicCache

    return type(cache) is DynamicCache and not getattr(cache, "_is_user_defined", False) and not cache.offloading


def whole_cache(cache: Any, length: int) -> bool:
    """Whether a plain cache still holds all of ``length`` tokens; sliding windows let go of the first ones."""
    return all(layer.keys.shape[-2] == length for layer in cache.layers if layer.is_initialized)


def cropped_cache(model: Any, cache: Any, length: int) -> Any:
    """A copy of a plain, whole cache of one prompt, with its first ``length`` tokens."""
    from transformers import DynamicCache

    copy = DynamicCache(config=model.config.get_text_config(decoder=True))
    for index, layer in enumerate(cache.layers):
        if layer.is_initialized:
            copy.update(layer.keys[..., :length, :], layer.values[..., :length, :], index)
    return copy


def fill_cache(target: Any, caches: Sequence[Any], lengths: Sequence[int], length: int, copies: int) -> bool:
    """Fill an empty plain cache with what the caches of single prompts hold, padded on the left to ``length`` tokens.

    Returns
    -------
    bool
        False, and nothing is done, if one of them is not plain.
    """
    if not all(map(plain_cache, caches)):
        return False
    for index, layers in enumerate(zip(*(each.layers for each in caches), strict=True)):
        if not layers[0].is_initialized:
            continue
        pads = [(0, 0, length - layer.keys.shape[-2], 0) for layer in layers]
        # What a sliding window let go of is let go of again: it does not matter what stands there.
        keys = torch.cat([F.pad(layer.keys, pad) for layer, pad in zip(layers, pads, strict=True)])
        values = torch.cat([F.pad(layer.values, pad) for layer, pad in zip(layers, pads, strict=True)])
        target.update(keys.repeat_interleave(copies, 0), values.repeat_interleave(copies, 0), index)
    return True


def require_transformers() -> None:
    """Refuse a transformers whose forward has no trustworthy ``mm_encoder_outputs``.

    5.18 opened that seam, 5.19 fixed the order of several images under beam search; 6 may move it.

    Raises
    ------
    ImportError
        Naming the installed version and the range that works.
    """
    installed = version("transformers")
    if not MINIMUM <= installed_transformers() < MAXIMUM:
        raise ImportError(
            f"ARR-COC needs transformers >= {MINIMUM[0]}.{MINIMUM[1]} and < {MAXIMUM[0]}, found {installed}; "
            f"install one with: pip install 'transformers>={MINIMUM[0]}.{MINIMUM[1]},<{MAXIMUM[0]}'."
        )


def require_for(model_type: str | None) -> None:
    """Refuse a model type that the installed transformers does not lay open yet.

    Raises
    ------
    ValueError
        Naming both versions.
    """
    needed = NEEDS.get(model_type or "")
    if needed is not None and installed_transformers() < needed:
        raise ValueError(
            f"{model_type!r} needs transformers >= {needed[0]}.{needed[1]}, found {version('transformers')}; "
            "upgrade it."
        )


def refuse_chunked_prefill() -> None:
    """Refuse ``prefill_chunk_size`` on a transformers that hands the features to the first chunk only.

    Raises
    ------
    ValueError
        Before 5.23, where the features began to be sliced with the prompt.
    """
    if installed_transformers() < (5, 23):
        raise ValueError(
            f"prefill_chunk_size with images needs transformers >= 5.23, found {version('transformers')}; leave it "
            "out, or upgrade."
        )


def rotary_of(attention: nn.Module) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """The function ``(q, k, cos, sin) -> (q, k)`` by which an attention module rotates its queries and keys.

    Every modeling file of transformers defines its own beside the module; M-RoPE families have already laid their
    three axes out in ``cos`` and ``sin``.
    """
    scope = vars(sys.modules[type(attention).__module__])
    if "apply_rotary_pos_emb" not in scope:
        raise NotImplementedError(
            f"{type(attention).__name__} does not rotate by apply_rotary_pos_emb, so its attention can't be read; "
            "use scorers that don't read attention."
        )
    rotary: Callable[..., tuple[torch.Tensor, torch.Tensor]] = scope["apply_rotary_pos_emb"]
    return rotary


def position_taps(tower: Any, coordinates: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Taps into a tower's learned square grid of position embeddings at fractional coordinates.

    Parameters
    ----------
    tower
        A vision tower with ``num_grid_per_side``, ``interpolation_mode`` and ``interpolation_align_corners``.
    coordinates
        ``[n, 2]`` row and column of each ViT patch, in ViT patches of the image.
    sizes
        ``[n, 2]`` rows and columns of that image.

    Returns
    -------
    (LongTensor, Tensor)
        ``[n, taps]`` indices into the flattened grid, and their weights.
    """
    from transformers.vision_utils import _interpolation_axis_taps_weights as axis_taps

    side, mode, align = tower.num_grid_per_side, tower.interpolation_mode, tower.interpolation_align_corners
    row_taps, row_weights = axis_taps(coordinates[:, 0], sizes[:, 0], side, mode, align)
    column_taps, column_weights = axis_taps(coordinates[:, 1], sizes[:, 1], side, mode, align)
    count = len(coordinates)
    indices = (row_taps[:, :, None] * side + column_taps[:, None, :]).reshape(count, -1)
    weights = (row_weights[:, :, None] * column_weights[:, None, :]).reshape(count, -1)
    return indices, weights


def innermost(model: Any) -> Any:
    """The transformers model inside PEFT and DistributedDataParallel."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif hasattr(model, "get_base_model") and model.get_base_model() is not model:
            model = model.get_base_model()
        else:
            return model
