"""Passes of the language model that do no more than is read of them.

While one runs, the attention of the last token is noted layer by layer, the pass ends where nothing more is read, and
in the last layer only the last token is worked out: of the others only the keys and values will be seen again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..families import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Weights = dict[int, torch.Tensor | Callable[[], torch.Tensor]]
"""By layer ``[heads, L]`` attention of the last token, or what works it out."""


class Enough(Exception):
    """Ends a pass early; whoever asked for that catches it."""


@contextmanager
def sparing(
    model: PreTrainedModel, family: Family, read: Weights | None = None, last: int | None = None, ends: bool = True
) -> Iterator[None]:
    """Inside, passes of a model do no more than is read of them; hooks are set, and gone afterwards.

    Attention is read from what SDPA is given, which holds for every model; under eager attention from its weights;
    under other kernels from the input of the attention module, where the family knows how.

    Parameters
    ----------
    model, family
        The model, in evaluation mode and without gradients.
    read
        Filled with the attention of the layers on the way; ``None`` reads none.
    last
        The layer whose attention is read last: a pass then ends there with :class:`Enough`. ``None`` goes to the end.
    ends
        Whether nobody reads the end of the pass but at its last token, so that the last layer may work that out alone.
        Where somebody else's hooks are in that layer, it works out all.
    """
    modules, final = family.attentions(model), model.get_decoder().layers[-1]
    depth = len(modules) if last is None else last + 1
    ends = ends and last is None and not _watched(final) and not _routes(model)
    narrow = depth - 1 if ends and getattr(final, "self_attn", None) is modules[-1] else None
    kernel = _Kernel(family, read, last, narrow)
    handles = []
    for layer in range(depth) if read is not None else [narrow] if narrow is not None else []:
        handles.append(modules[layer].register_forward_pre_hook(partial(kernel.before, layer), with_kwargs=True))
        handles.append(modules[layer].register_forward_hook(partial(kernel.after, layer)))
    if ends and isinstance(getattr(final, "mlp", None), torch.nn.Module):
        handles.append(final.mlp.register_forward_pre_hook(_last_token, with_kwargs=True))
    try:
        yield
    finally:
        kernel.leave()
        for handle in handles:
            handle.remove()


def _watched(layer: torch.nn.Module) -> bool:
    """Whether somebody looks into a layer."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())


def _routes(model: PreTrainedModel) -> bool:
    """Whether the model also returns where the tokens of all layers were routed."""
    return bool(getattr(model.config.get_text_config(), "output_router_logits", False))


def _last_token(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``[B, L, D]`` to ``[B, 1, D]``: what comes out is added to the stream at every token, and right at the last."""
    if kwargs or len(args) != 1 or not isinstance(args[0], torch.Tensor) or args[0].ndim != 3:
        return None
    return (args[0][:, -1:],), kwargs


class _Kernel(TorchFunctionMode):
    """Notes what the attention kernel of a layer is given.

    A context that is entered while the layer's attention runs, so nothing of torch or of the model is patched.
    """

    def __init__(self, family: Family, read: Weights | None, last: int | None, narrow: int | None) -> None:
        super().__init__()
        self.family, self.read, self.last, self.narrow = family, read, last, narrow
        self.layer: int | None = None  # whose kernel is awaited
        self.inside = False

    def before(self, layer: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The attention of a layer begins."""
        if self.read is not None:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            self.read[layer] = partial(
                self.family.last_token_attention, module, hidden, kwargs.get("position_embeddings")
            )
        self.layer, self.inside = layer, True
        self.__enter__()

    def after(self, layer: int, module: Any, args: tuple[Any, ...], output: Any) -> None:
        """It has ended; eager attention has brought its weights."""
        self.leave()
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        awaited, self.layer = self.layer, None
        if self.read is not None and awaited == layer and isinstance(weights, torch.Tensor) and weights.ndim == 4:
            self.read[layer] = weights[0, :, -1].float().clone()
        if layer == self.last:
            raise Enough

    def leave(self) -> None:
        """Look no further; nothing happens outside of a layer's attention."""
        if self.inside:
            self.inside = False
            self.__exit__(None, None, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or self.layer is None:
            return func(*args, **kwargs)
        layer, self.layer = self.layer, None
        if self.read is not None:
            self.read[layer] = _sdpa_weights(*args, **kwargs)
        if layer == self.last:
            raise Enough
        return _sdpa_of_last(*args, **kwargs) if layer == self.narrow else func(*args, **kwargs)


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


def _sdpa_of_last(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **others: Any,
) -> torch.Tensor:
    """``scaled_dot_product_attention`` of the last token, in the place of every token's."""
    if is_causal and query.shape[2] != key.shape[2]:  # its last row would see the first keys only
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **others)
    if attn_mask is not None and attn_mask.shape[-2] > 1:
        attn_mask = attn_mask[..., -1:, :]
    found = F.scaled_dot_product_attention(query[:, :, -1:], key, value, attn_mask, dropout_p, **others)
    return found.expand(-1, -1, query.shape[2], -1)
