"""Glance: one question at the floor budget, and what the language model makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from ..families import Features
from ..realizing.base import Realizer
from ..realizing.call import Call, Grid
from ..realizing.splice import splice
from .passes import Enough, Weights, sparing
from .prefill import SEQUENCES, Reading, rest_of, shared_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .pictures import Picture


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
    encoded
        What was encoded of its pictures, by this glance or by earlier looks.
    kept
        What was worked out from its pictures alone; see :attr:`arr_coc.scene.Scene.kept`.
    key
        By which its pictures are kept for the next question, if they are.
    picture
        What is kept of them.
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
        self.picture = known
        self.kept: dict[Any, Any] = known.kept if known is not None else {}
        if known is not None:
            self.realised = known.realised
            if known.full is not None:
                call.full = known.full
        else:
            with torch.no_grad(), _evaluating(call.model):
                self.realised = realizer.realize(call, self.grids)
        self.encoded = self.realised.encoded if known is None else known.encoded
        self._prompt = torch.empty(0, dtype=torch.long)
        self._read: Weights = {}
        self._attention: dict[int, torch.Tensor] = {}

    def patch(self, index: int) -> Features:
        """Features of one patch at the floor."""
        return self.realised.of_patch(self.call, index, self.grids[index])

    def hand_over(self, grids: Sequence[Grid]) -> Reading | None:
        """The prompt that was read about its pictures and agrees the longest with patches at these grids.

        Unless it is to be kept, the glance's own is let go of, so that it lasts no longer than it is of use.
        """
        own = self.reading
        if self.key is None:
            self.reading = None
        if self.picture is None or list(grids) == self.grids:
            return own
        return self.picture.nearest(grids) or own

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
                weights = self._read[layer]
                if not isinstance(weights, torch.Tensor):
                    with torch.no_grad():
                        weights = weights()
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
        """One pass over the glance prompt, stopped once the attention of layer ``last`` can be read."""
        model = self.call.model
        inputs = splice(self.call, self.realised, self.positions, for_generate=False).inputs
        self._prompt = inputs["input_ids"][0]
        try:
            with torch.no_grad(), _evaluating(model), sparing(model, self.call.family, self._read, last):
                prompt = Reading({k: v for k, v in inputs.items() if k in SEQUENCES}, self.realised.streams, None)
                before = self.picture.nearest(self.grids) if last is None and self.picture is not None else None
                asked = self._unread(prompt, before) if before is not None else None
                output = model(**(asked or inputs), use_cache=self.keep and last is None, logits_to_keep=1)
                if self.keep:
                    self.reading = replace(prompt, output=output)
                return output
        except Enough:
            return None

    def _unread(self, prompt: Reading, before: Reading) -> dict[str, Any] | None:
        """What an earlier question about the pictures leaves to read of this one; ``None`` if that is all of it."""
        family, model = self.call.family, self.call.model
        if not family.causal or self.realised.output is not None:
            return None
        if model.config.get_text_config()._attn_implementation not in ("sdpa", "eager"):
            return None  # attention is then read from the inputs of a layer, and these would be a part only
        shared = min(shared_tokens(self.call, prompt, before), prompt.length - 1)
        return rest_of(self.call, self.realised.like, prompt, before, shared) if shared else None


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
