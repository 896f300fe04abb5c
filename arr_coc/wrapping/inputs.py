"""What a model is called with: refusing what can't be right, before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..families.compat import given_cache

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel


def check_inputs(inputs: Mapping[str, Any]) -> None:
    """Refuse a call with images that can't be carried.

    Raises
    ------
    ValueError
        Naming what was passed, the rule, and the remedy.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if inputs.get("inputs_embeds") is not None:
        raise ValueError(
            "inputs_embeds can't be combined with images here: placeholders are found by their ids, and features "
            "written into embeddings by hand lose what the model adds later (M-RoPE, DeepStack). Pass input_ids."
        )
    if ids is None:
        raise ValueError("input_ids is missing; pass everything that the processor returns.")
    if ids.ndim != 2:
        raise ValueError(f"input_ids has shape {tuple(ids.shape)}, it must be [batch, length].")
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(
            f"input_ids has dtype {_short(ids.dtype)}, token ids are integers; pass what the processor returns."
        )
    pixels = inputs["pixel_values"]
    if isinstance(pixels, torch.Tensor) and not pixels.is_floating_point():
        raise ValueError(
            f"pixel_values has dtype {_short(pixels.dtype)}, the tower takes normalised pixels in floating point; "
            "pass what the image processor returns."
        )
    # A sum is NaN or infinite as soon as one term is: a cheap pass; that of large numbers may be too, so look again.
    if isinstance(pixels, torch.Tensor) and not bool(pixels.sum().isfinite()) and not bool(pixels.isfinite().all()):
        raise ValueError("pixel_values holds NaN or infinite values; look at the image and at image_std.")
    if inputs.get("mm_encoder_outputs"):
        raise ValueError("pixel_values and mm_encoder_outputs exclude each other; pass pixel_values only.")
    if mask is not None and mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}, it must be that of input_ids, {tuple(ids.shape)}; masks "
            "of four dimensions are not supported with budgets."
        )
    for key in ("labels", "mm_token_type_ids", "token_type_ids"):
        value = inputs.get(key)
        if value is not None and value.shape != ids.shape:
            raise ValueError(
                f"{key} has shape {tuple(value.shape)}, it must be that of input_ids, {tuple(ids.shape)}."
            )
    if cache_length(inputs) > 0:
        raise ValueError(
            "The cache holds tokens already, and the call brings images: they can't be budgeted in the middle of a "
            "conversation. Pass the whole conversation with an empty cache, or the new turn without pixel_values."
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def cache_length(inputs: Mapping[str, Any]) -> int:
    """Tokens in the cache that a call brings along."""
    cache = given_cache(inputs)
    return int(cache.get_seq_length()) if cache is not None else 0


def check_no_images(image_token: int, inputs: Mapping[str, Any], allocation: object) -> None:
    """Refuse placeholders without images at the start of a text, and an allocation for a call without images.

    Raises
    ------
    ValueError
        The model would otherwise read the placeholders as words.
    """
    if allocation is not None:
        raise ValueError("allocation was passed, but the call has no pixel_values to spend it on.")
    ids = inputs.get("input_ids")
    # Some families (glm4v) hold the place of video tokens with the image token.
    if ids is None or inputs.get("mm_encoder_outputs") or inputs.get("pixel_values_videos") is not None:
        return
    if cache_length(inputs) > 0:
        return
    count = int((ids == image_token).sum())
    if count:
        raise ValueError(
            f"The prompt holds {count} image placeholders, but no pixel_values came with it; pass everything that the "
            "processor returns."
        )


def with_mask(model: PreTrainedModel, inputs: Mapping[str, Any], for_generate: bool) -> dict[str, Any]:
    """The inputs with an attention mask; the one that transformers would assume where none was given."""
    inputs = dict(inputs)
    if inputs.get("attention_mask") is None:
        ids = inputs["input_ids"]
        mask = torch.ones_like(ids)
        config = getattr(model, "generation_config", None)
        pad, eos = getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None)
        if for_generate and pad is not None and pad not in (eos if isinstance(eos, list) else [eos]):
            mask = (ids != pad).to(ids.dtype) if bool((ids == pad).any()) else mask
        inputs["attention_mask"] = mask
    return inputs


def with_mask_for_gaps(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with a mask of ones where budgeted features stand at explicit one-dimensional positions without one.

    ``generate`` drops such a mask; without a cache transformers would then take the gaps between positions for the
    borders of several sequences packed into one.
    """
    ids, positions = inputs.get("input_ids"), inputs.get("position_ids")
    given = inputs.get("attention_mask") is not None or given_cache(inputs) is not None
    if ids is None or positions is None or positions.ndim != 2 or given or not inputs.get("mm_encoder_outputs"):
        return inputs
    return inputs | {"attention_mask": torch.ones_like(ids)}


def question_texts(question: str | Sequence[str] | None, batch: int) -> list[str | None]:
    """One given question per sample, or ``None`` where it is to be read from the prompt.

    Raises
    ------
    ValueError
        If their number is not that of the samples, or one is empty.
    """
    if question is None:
        return [None] * batch
    texts = [question] * batch if isinstance(question, str) else list(question)
    if len(texts) != batch:
        raise ValueError(f"{len(texts)} questions were passed for {batch} samples; pass one each, or a single string.")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"question={text!r} is empty; pass words, or leave it out to read it from the prompt.")
    return list(texts)


def lowered_lengths(
    model: PreTrainedModel, generation_config: GenerationConfig | None, inputs: Mapping[str, Any], dropped: int
) -> tuple[GenerationConfig | None, dict[str, int]]:
    """``max_length`` and ``min_length`` count the prompt, so they fall with it.

    Parameters
    ----------
    model
        Whose own generation config ranks last.
    generation_config
        The one that was passed to ``generate``, if any; it is not changed.
    inputs
        Arguments of ``generate``, which rank first.
    dropped
        By how much the prompt became shorter.

    Returns
    -------
    (GenerationConfig or None, dict)
        What to pass in place of ``generation_config``, and arguments to add. Lengths that ``max_new_tokens`` or
        ``min_new_tokens`` overrule are left alone.
    """
    passed, arguments = copy.deepcopy(generation_config), {}
    for name, rival in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        sources = [inputs, vars(passed) if passed is not None else {}, vars(model.generation_config)]
        if any(source.get(rival) is not None for source in sources):
            continue
        rank = next((rank for rank, source in enumerate(sources) if source.get(name) is not None), None)
        if rank is None:
            continue
        lowered = max(sources[rank][name] - dropped, 0)
        if passed is not None and rank > 0:
            setattr(passed, name, lowered)
        else:
            arguments[name] = lowered
    return passed, arguments
