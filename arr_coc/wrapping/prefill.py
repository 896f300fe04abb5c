"""Prefill: what the glance has read of a prompt is not read again.

A wrapped ``generate`` reads each prompt twice: with every patch at its floor, and as it was planned. Keys and values
of a causal model depend on what stands before them only, so the second reading goes on from the first place at which
the two prompts differ (an id, a position, or a bit of a feature), and where they do not differ it is not made at all.
Nothing is guessed: the two prompts are compared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..families.compat import (
    cache_name,
    cropped_cache,
    fill_cache,
    given_cache,
    output_cache,
    own_cache,
    plain_cache,
    whole_cache,
)
from ..realizing.base import Realised
from ..realizing.call import Call
from ..realizing.splice import Spliced
from .passes import sparing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TYPES = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
WORTHWHILE = 0.1
"""Least share of a prompt that is taken over."""
SEQUENCES = {"input_ids", "position_ids", *_TYPES}
_OWN = {"attention_mask", "mm_encoder_outputs", cache_name(), *SEQUENCES}


@dataclass
class Reading:
    """A prompt that the language model has read.

    Attributes
    ----------
    inputs
        Ids, positions and types that it was given: one prompt without padding.
    features
        ``[rows, D]`` per stream: what stands at its placeholders.
    output
        What it returned: the cache, and the logits of the last place ``[1, 1, V]``.
    """

    inputs: dict[str, Any]
    features: tuple[torch.Tensor, ...]
    output: Any

    @property
    def length(self) -> int:
        """Tokens read."""
        return int(self.inputs["input_ids"].shape[1])


@dataclass
class Prefill:
    """The first step of a ``generate`` call, prompt by prompt.

    Attributes
    ----------
    call, realised, spliced
        The call, what its patches became, and the prompts that ``generate`` is given.
    known
        Per sample what has been read of it or of much the same, by its glance or before, or ``None``; let go of as
        soon as what it shares with the prompt is copied.
    keep
        Whether what is read is kept, in `readings`.
    shared
        Per sample the tokens whose keys and values were taken over; filled by the first step.
    readings
        Per sample the prompt as it was read, if that is kept; filled by the first step.
    """

    call: Call
    realised: Realised
    spliced: Spliced
    known: list[Reading | None]
    keep: bool = False
    shared: list[int] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    @contextmanager
    def answering(self, model: PreTrainedModel) -> Iterator[None]:
        """Inside, the first forward of ``generate`` is answered from here where that is exact, else by the model."""
        own, forward = vars(model).get("forward"), model.forward

        def restore() -> None:
            if own is None:
                vars(model).pop("forward", None)
            else:
                model.forward = own

        @functools.wraps(forward)
        def first(*args: Any, **kwargs: Any) -> Any:
            restore()
            output = None if args else self._first(model, forward, kwargs)
            self.known = []
            return forward(*args, **kwargs) if output is None else output

        model.forward = first
        try:
            yield
        finally:
            restore()

    def _first(self, model: PreTrainedModel, forward: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """The output of the first forward, or ``None`` if it has to be the model's own, untouched."""
        ids, target, asked = self.spliced.inputs["input_ids"], given_cache(kwargs), kwargs.get("input_ids")
        batch, length = ids.shape
        self.shared = [0] * batch
        if target is None or asked is None or self.realised.output is not None or model.training:
            return None
        copies = asked.shape[0] // batch
        if not torch.equal(asked, ids.to(asked.device).repeat_interleave(copies, 0)) or not self._known(kwargs):
            return None
        padded = not bool(self.spliced.inputs["attention_mask"].all())
        if padded and kwargs.get("position_ids") is None:
            return None  # the model numbers padding too, and goes on from there
        plain = plain_cache(target, static=True)
        if not plain and (batch * copies > 1 or not own_cache(target)):
            return None
        prompts = [self._prompt(kwargs, sample, copies) for sample in range(batch)]
        shared = [
            0 if glance is None else shared_tokens(self.call, prompt, glance)
            for prompt, glance in zip(prompts, self.known, strict=True)
        ]
        # Several prompts in one pass are padded to the longest, and masked: on a CPU one after another is faster.
        if not any(shared) and not self.keep and (batch == 1 or ids.device.type != "cpu"):
            self.known = []
            with sparing(model, self.call.family):
                return forward(**kwargs)
        readings = [self._read(model, kwargs, i, prompt, shared[i]) for i, prompt in enumerate(prompts)]
        caches = [output_cache(reading.output) for reading in readings]
        if not plain:
            target = caches[0]
        elif not fill_cache(target, caches, [reading.length for reading in readings], length, copies):
            return None
        self.shared, self.readings = shared, readings if self.keep and plain else []
        logits = torch.cat([reading.output.logits[:, -1:] for reading in readings]).repeat_interleave(copies, 0)
        return type(readings[0].output)(logits=logits, **{cache_name(): target})

    def _known(self, kwargs: dict[str, Any]) -> bool:
        """Whether a forward asks for nothing but next-token logits, of images and words alone."""
        if set(kwargs.get("mm_encoder_outputs") or ()) != {"image"} or kwargs.get("logits_to_keep", 1) != 1:
            return False
        wanted = (kwargs.get(name) for name in ("output_attentions", "output_hidden_states", "output_router_logits"))
        others = (value for name, value in kwargs.items() if name not in _OWN)
        return not any(wanted) and not any(isinstance(value, torch.Tensor) for value in others)

    def _prompt(self, kwargs: dict[str, Any], sample: int, copies: int) -> Reading:
        """One prompt without its padding, at the positions that ``generate`` numbered; not read yet."""
        mask = self.spliced.inputs["attention_mask"]
        size, row = int(mask[sample].sum()), sample * copies
        inputs = {"input_ids": kwargs["input_ids"][row : row + 1, -size:]}
        for name in ("position_ids", *_TYPES):
            if kwargs.get(name) is not None:
                inputs[name] = kwargs[name][..., row : row + 1, -size:]
        counts = self.call.per_sample(self.realised.keep)
        rows = slice(sum(counts[:sample]), sum(counts[: sample + 1]))
        return Reading(inputs, tuple(stream[rows] for stream in self.realised.streams), None)

    def _read(
        self, model: PreTrainedModel, kwargs: dict[str, Any], sample: int, prompt: Reading, shared: int
    ) -> Reading:
        """Read a prompt from where what is known of it ends; nothing runs where that is the end."""
        known, self.known[sample] = self.known[sample], None
        if known is not None and shared == prompt.length:
            return known
        inputs = {name: value for name, value in kwargs.items() if name not in _OWN}
        inputs |= rest_of(self.call, self.realised.like, prompt, known, shared)
        del known  # its keys and values were copied, as far as they are of use
        with sparing(model, self.call.family):
            return Reading(prompt.inputs, prompt.features, model(**inputs))


def shared_tokens(call: Call, prompt: Reading, known: Reading) -> int:
    """Tokens of a prompt that can be taken from one that was read: all, or those before the first that differs.

    The last one is read again unless all are the same, for the logits.
    """
    family, cache = call.family, output_cache(known.output)
    length = min(prompt.length, known.length)
    ids = prompt.inputs["input_ids"][0, :length]
    differs = ids != known.inputs["input_ids"][0, :length]
    for name in _TYPES:
        if prompt.inputs.get(name) is not None and known.inputs.get(name) is not None:
            differs |= prompt.inputs[name][0, :length] != known.inputs[name][0, :length]
    counted = torch.arange(length, device=ids.device) + family.first_position
    places = [each.inputs.get("position_ids", counted[None]) for each in (prompt, known)]
    if places[0].shape[:-2] != places[1].shape[:-2]:
        return 0
    differs |= (places[0][..., 0, :length] != places[1][..., 0, :length]).reshape(-1, length).any(0)
    rows = min(len(prompt.features[0]), len(known.features[0]))
    moved = torch.zeros(rows, dtype=torch.bool, device=ids.device)
    for mine, theirs in zip(prompt.features, known.features, strict=True):
        moved |= (mine[:rows] != theirs[:rows]).any(1).to(moved.device)
    images = (ids == family.image_token(call.model)).nonzero().squeeze(1)
    differs[images[: len(moved)]] |= moved[: len(images)]
    differs[images[len(moved) :]] = True
    first = int(differs.nonzero()[0]) if bool(differs.any()) else length
    if first == prompt.length == known.length:
        return first
    if not family.causal or not plain_cache(cache) or not whole_cache(cache, known.length):
        return 0
    # What is read behind a cache is read under a mask, at twice the pairs: a short beginning is not worth it.
    return min(first, prompt.length - 1) if first >= WORTHWHILE * prompt.length else 0


def rest_of(call: Call, like: Any, prompt: Reading, known: Reading | None, shared: int) -> dict[str, Any]:
    """Arguments of a forward that reads a prompt from its token ``shared`` on; what comes before is taken over."""
    inputs = {name: value[..., shared:] for name, value in prompt.inputs.items()}
    inputs["attention_mask"] = torch.ones_like(prompt.inputs["input_ids"])
    passed = int((prompt.inputs["input_ids"][0, :shared] == call.family.image_token(call.model)).sum())
    streams = tuple(stream[passed:] for stream in prompt.features)
    if len(streams[0]):
        inputs["mm_encoder_outputs"] = {"image": call.family.hand_over(like, streams, [len(streams[0])])}
    if known is not None and shared:
        inputs[cache_name()] = cropped_cache(call.model, output_cache(known.output), shared)
    return inputs
