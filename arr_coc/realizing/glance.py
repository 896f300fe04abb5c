"""Glance: one question at the floor budget, and what the language model makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from ..families import Features
from .base import Realizer
from .call import Call, Grid
from .splice import splice

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
    """

    def __init__(
        self, call: Call, realizer: Realizer, grids: Sequence[Grid], positions: str, deep: bool = False
    ) -> None:
        self.call, self.grids, self.positions, self.deep = call, list(grids), positions, deep
        with torch.no_grad(), _evaluating(call.model):
            self.realised = realizer.realize(call, self.grids)
        self._prompt = torch.empty(0, dtype=torch.long)
        self._inputs: dict[int, tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]] = {}
        self._attention: dict[int, torch.Tensor] = {}

    def patch(self, index: int) -> Features:
        """Features of one patch at the floor."""
        return self.realised.of_patch(self.call, index, self.grids[index])

    def attention(self, layers: Sequence[int]) -> torch.Tensor:
        """``[len(layers), heads, glance tokens]``: see :attr:`arr_coc.scene.Scene.read_attention`.

        Raises
        ------
        IndexError
            For a layer that the language model does not have.
        """
        modules = self.call.family.attentions(self.call.model)
        wanted = [range(len(modules))[layer] for layer in layers]
        if any(layer not in self._inputs for layer in wanted):
            if self.deep:
                _ = self.answer
            else:
                self._run(last=max(wanted))
        places = self._places
        for layer in wanted:
            if layer not in self._attention:
                with torch.no_grad():
                    weights = self.call.family.last_token_attention(modules[layer], *self._inputs[layer])
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
        """One pass over the glance prompt, stopped once the input of attention layer ``last`` is known."""
        model = self.call.model
        inputs = splice(self.call, self.realised, self.positions, for_generate=False).inputs
        self._prompt = inputs["input_ids"][0]
        modules = self.call.family.attentions(model)
        depth = len(modules) if last is None else last + 1
        handles = [
            module.register_forward_pre_hook(partial(self._catch, layer, layer == last), with_kwargs=True)
            for layer, module in enumerate(modules[:depth])
        ]
        try:
            with torch.no_grad(), _evaluating(model):
                return model(**inputs, use_cache=False, logits_to_keep=1)
        except _Enough:
            return None
        finally:
            for handle in handles:
                handle.remove()

    def _catch(self, layer: int, stop: bool, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        self._inputs[layer] = (hidden, kwargs["position_embeddings"])
        if stop:
            raise _Enough


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
