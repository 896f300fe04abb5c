"""Attention of the last prompt token, read inside the engine by a worker extension (``--worker-extension-cls``).

A request that carries ``extra_args={"arr_coc": NAME}`` is watched: its queries and keys are seen where the engine
hands them to its attention kernel, chunk after chunk, and the softmax of the last prompt token is kept under NAME
until `arr_coc_take` fetches it. Such a request must not read the prefix cache (``skip_reading_prefix_cache=True``), or
the keys of its beginning are never handed over. While nothing is watched this costs one truth test per layer.

Nothing here may raise inside a step: that would end the engine. What can't be read stays without a result.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from safetensors.torch import save

from . import seams

KEPT = 256
"""Results that nobody has fetched; beyond them the oldest are let go."""


class Attentions:
    """What is watched in one worker.

    Attributes
    ----------
    layers
        Numbers of the layers that are read.
    """

    def __init__(self) -> None:
        self.layers: set[int] = set()
        self.wanted: dict[str, tuple[str, int]] = {}  # by request: its name, and the length of its prompt
        self.keys: dict[str, dict[int, list[torch.Tensor]]] = {}
        self.done: OrderedDict[str, dict[int, torch.Tensor]] = OrderedDict()

    def begin(self, request: str, name: str, length: int) -> None:
        """Watch a request that has been scheduled for the first time."""
        self.wanted[request] = (name, length)

    def end(self, request: str) -> None:
        """Let go of a request that has finished or gone."""
        self.wanted.pop(request, None)
        self.keys.pop(request, None)

    @torch.no_grad()
    def see(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        rows: Sequence[tuple[str, int, int, int]],
        scale: float,
    ) -> None:
        """Look at one layer of one step.

        Parameters
        ----------
        layer
            Its number.
        query, key
            ``[tokens, heads, D]`` and ``[tokens, key heads, D]`` of the step.
        rows
            Per request its id, the rows ``first:last`` of the step that are its own, and its length after the step.
        scale
            Of the scores.
        """
        for request, first, last, length in rows:
            if request not in self.wanted:
                continue
            name, prompt = self.wanted[request]
            before = length - (last - first)
            if before >= prompt:
                continue  # decoding
            parts = self.keys.setdefault(request, {}).setdefault(layer, [])
            if before == 0:
                parts.clear()  # the first chunk, or all over again after a preemption
            elif sum(len(part) for part in parts) != before:
                self.end(request)  # its beginning came from a cache
                continue
            parts.append(key[first:last].clone())
            if length < prompt:
                continue  # more chunks will come
            keys = torch.cat(parts)
            keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], dim=1)
            scores = torch.einsum("hd,lhd->hl", query[last - 1], keys).float() * scale
            self.done.setdefault(name, {})[layer] = scores.softmax(-1)
            self.keys[request].pop(layer)
            while len(self.done) > KEPT:
                self.done.popitem(last=False)

    def take(self, name: str) -> dict[int, torch.Tensor]:
        """``[heads, prompt tokens]`` of a watched request, by layer; it is let go of."""
        return self.done.pop(name, {})


class Watch:
    """Mixed into the engine's worker, so ``self`` is that worker; every name is prefixed."""

    def arr_coc_watch(self, layers: Sequence[float]) -> list[int]:
        """Watch these layers too, from the next request on.

        Parameters
        ----------
        layers
            As of `arr_coc.scene.Scene.read_attention`: numbers, from the front or (negative) the back, or shares of
            the depth.

        Returns
        -------
        list of int
            The number of every one of them.
        """
        from ...wrapping.glance import layer_number

        modules = seams.attention_layers(self)
        numbers = [layer_number(layer, len(modules)) for layer in layers]
        if not hasattr(self, "arr_coc_attentions"):
            self.arr_coc_attentions = Attentions()
            seams.on_step(self, self.arr_coc_attentions)
        for number in sorted(set(numbers) - self.arr_coc_attentions.layers):
            seams.on_attention(self, modules[number], number, self.arr_coc_attentions)
            self.arr_coc_attentions.layers.add(number)
        return numbers

    def arr_coc_take(self, name: str, words: Sequence[int]) -> bytes:
        """What a glance has left, as a safetensors file.

        Parameters
        ----------
        name
            Of the watched request.
        words
            Token ids of its question.

        Returns
        -------
        bytes
            ``embeddings [words, D]`` of the question, and for every layer that was read, by its number,
            ``[heads of this rank, prompt tokens]``.
        """
        found = {"embeddings": seams.embed(self, words)}
        if hasattr(self, "arr_coc_attentions"):
            found |= {str(layer): rows for layer, rows in self.arr_coc_attentions.take(name).items()}
        return save({key: value.float().cpu().contiguous() for key, value in found.items()})
