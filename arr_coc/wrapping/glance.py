"""Glance: one question at the floor budget, and what the language model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..families import Features
from ..families.compat import output_cache, plain_cache, whole_cache
from ..realizing.base import Realizer
from ..realizing.call import Call, Grid
from ..realizing.splice import splice
from .prefill import SEQUENCES, Reading, rest_of, shared_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .pictures import Picture


class _Enough(Exception):
    """Ends a pass of the language model early; never leaves this module."""


class Glance:
    """One question with every patch at its floor.

    Parameters
    ----------
    call
        The question alone (:meth:`Call.question`).
    realizer
        How patches are brought to the floor.
    grids
        The floor grid of every patch.
    positions
        As in :func:`splice`.
    deep
        Whether the answer will be asked for too: reading attention then runs the whole model once for both.
    keep
        Whether to keep the keys and values of a pass of the whole model, in `reading`.
    known
        What an earlier question about the same pictures has brought.

    Attributes
    ----------
    reading
        The glance prompt as the whole model read it; ``None`` if it has not, or nothing is kept.
    key
        By which its pictures are kept for the next question, if they are.
    """

    def __init__(
        self,
        call: Call,
        realizer: Realizer,
        grids: Sequence[Grid],
        positions: str,
        deep: bool = False,
        keep: bool = False,
        known: Picture | None = None,
    ) -> None:
        self.call, self.grids, self.positions, self.deep, self.keep = call, list(grids), positions, deep, keep
        self.reading: Reading | None = None
        self.key: bytes | None = None
        self.before = known.reading if known is not None else None
        if known is not None:
            self.realised = known.realised
            if known.full is not None:
                call.full = known.full
        else:
            with torch.no_grad(), _evaluating(call.model):
                self.realised = realizer.realize(call, self.grids)
        self._prompt = torch.empty(0, dtype=torch.long)
        self._read: dict[int, Callable[[], torch.Tensor]] = {}
        self._attention: dict[int, torch.Tensor] = {}

    def patch(self, index: int) -> Features:
        """Features of one patch at the floor."""
        return self.realised.of_patch(self.call, index, self.grids[index])

    def attention(self, layers: Sequence[float]) -> torch.Tensor:
        """``[len(layers), heads, glance tokens]``: see :attr:`arr_coc.scene.Scene.read_attention`.

        Raises
        ------
        ValueError
            For a layer that the language model does not have.
        """
        count = len(self.call.family.attentions(self.call.model))
        wanted = [layer_number(layer, count) for layer in layers]
        if any(layer not in self._read for layer in wanted):
            if self.deep:
                _ = self.answer
            else:
                self._run(last=max(wanted))
        places = self._places
        for layer in wanted:
            if layer not in self._attention:
                with torch.no_grad():
                    weights = self._read[layer]()
                self._attention[layer] = weights[:, places.to(weights.device)].cpu()
        return torch.stack([self._attention[layer] for layer in wanted])

    @cached_property
    def answer(self) -> torch.Tensor:
        """``[V]`` log-probabilities of the next token; the pass also serves :meth:`attention`."""
        logits: torch.Tensor = self._run(last=None).logits[0, -1]
        return logits.float().log_softmax(-1).cpu()

    @cached_property
    def _places(self) -> torch.Tensor:
        """Where the glance tokens stand in the shortened prompt of the pass that ran, patch after patch."""
        slots = self.realised.keep.cumsum(0) - 1
        rows = torch.cat([self.call.anchors(p, g) for p, g in zip(self.call.patches, self.grids, strict=True)])
        images = (self._prompt == self.call.family.image_token(self.call.model)).nonzero().squeeze(1).cpu()
        return images[slots[rows]]

    def _run(self, last: int | None) -> Any:
        """One pass over the glance prompt, stopped once the attention of layer ``last`` can be read.

        Read from what SDPA is given, which holds for every model; under eager attention from its weights; under other
        kernels from the input of the attention module, where the family knows how.
        """
        model = self.call.model
        inputs = splice(self.call, self.realised, self.positions, for_generate=False).inputs
        self._prompt = inputs["input_ids"][0]
        modules = self.call.family.attentions(model)
        depth = len(modules) if last is None else last + 1
        kernel = _Kernel(self._read, last)
        handles = []
        for layer, module in enumerate(modules[:depth]):
            before, after = partial(self._before, kernel, layer), partial(self._after, kernel, layer)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        try:
            with torch.no_grad(), _evaluating(model), kernel:
                prompt = Reading({k: v for k, v in inputs.items() if k in SEQUENCES}, self.realised.streams, None)
                asked = self._unread(prompt) if last is None and self.before is not None else None
                output = model(**(asked or inputs), use_cache=self.keep and last is None, logits_to_keep=1)
                if self.keep:
                    self.reading = replace(prompt, output=output)
                return output
        except _Enough:
            return None
        finally:
            for handle in handles:
                handle.remove()

    def _unread(self, prompt: Reading) -> dict[str, Any] | None:
        """What an earlier question about the pictures leaves to read of this one; ``None`` if that is all of it."""
        family, model, before = self.call.family, self.call.model, self.before
        if before is None or not family.causal or self.realised.output is not None:
            return None
        if model.config.get_text_config()._attn_implementation not in ("sdpa", "eager"):
            return None  # attention is then read from the inputs of a layer, and these would be a part only
        cache = output_cache(before.output)
        if not plain_cache(cache) or not whole_cache(cache, before.length):
            return None
        shared = min(shared_tokens(self.call, prompt, before), prompt.length - 1)
        return rest_of(self.call, self.realised.like, prompt, before, shared) if shared else None

    def _before(
        self, kernel: _Kernel, layer: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        read = self.call.family.last_token_attention
        self._read[layer] = partial(read, module, hidden, kwargs.get("position_embeddings"))
        kernel.layer = layer

    def _after(self, kernel: _Kernel, layer: int, module: Any, args: tuple[Any, ...], output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if kernel.layer == layer and isinstance(weights, torch.Tensor) and weights.ndim == 4:
            self._read[layer] = weights[0, :, -1].float().clone
        kernel.layer = None
        if layer == kernel.last:
            raise _Enough


class _Kernel(TorchFunctionMode):
    """Notes what the attention kernel of the language model's current layer is given; ends the pass at the last one.

    A context, so nothing of torch or of the model is patched.
    """

    def __init__(self, read: dict[int, Callable[[], torch.Tensor]], last: int | None) -> None:
        super().__init__()
        self.read, self.last = read, last
        self.layer: int | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.layer is not None:
            layer, self.layer = self.layer, None
            self.read[layer] = partial(_sdpa_weights, *args, **kwargs)
            if layer == self.last:
                raise _Enough
        return func(*args, **kwargs)


def _sdpa_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """``[heads, L]`` attention of the last token, from the arguments of ``scaled_dot_product_attention``."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = (query[0, :, -1:] @ key[0].transpose(1, 2))[:, 0].float()
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        row = attn_mask.expand(1, -1, query.shape[2], -1)[0, :, -1]
        scores = scores.masked_fill(~row, float("-inf")) if row.dtype == torch.bool else scores + row.float()
    return scores.softmax(-1)


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, so that looking neither drops units nor draws random numbers; every module's mode returns."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def layer_number(layer: float, count: int) -> int:
    """The number of a layer given as a number, from the front or (negative) the back, or as a share of the depth."""
    if isinstance(layer, float) and 0 <= layer < 1:
        return int(layer * count)
    if not isinstance(layer, int) or not -count <= layer < count:
        raise ValueError(
            f"layer {layer!r}: this language model has {count} layers whose attention can be read; name one from "
            f"{-count} to {count - 1}, or a share of the depth such as 0.5"
        )
    return layer % count
