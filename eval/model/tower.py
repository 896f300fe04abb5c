"""Reading the attention of a vision tower from what its kernel is given, for methods that rank tokens by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ..methods.base import NotApplicable
from .clock import tower_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from arr_coc.families import Family


@dataclass
class TowerView:
    """The attention of a tower's last layer but one, by visual token.

    Attributes
    ----------
    received
        ``[N]`` attention that each token receives: from the class token if the tower has one, else the mean over all
        tokens of its picture; averaged over heads.
    keys
        ``[N, d]`` keys, averaged over heads.
    """

    received: torch.Tensor
    keys: torch.Tensor


class TowerReader(TorchFunctionMode):
    """A context in which the tower runs once and its last layer but one is read.

    Nothing of torch or of the model is patched.

    Raises
    ------
    NotApplicable
        Where the tower's tokens can't be told apart by visual token, or its kernel can't be looked into.
    """

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        super().__init__()
        layers = tower_layers(model)
        if layers is None:
            raise NotApplicable("the vision tower has no list of layers whose attention could be read")
        vision = getattr(model.config, "vision_config", None)
        self._merge = int(getattr(vision, "spatial_merge_size", 1) or 1) ** 2
        if getattr(vision, "window_size", None) or (self._merge > 1 and getattr(family, "raster", True)):
            raise NotApplicable("this vision tower reorders its tokens, so attention can't be booked on visual tokens")
        self._layer = layers[max(0, len(layers) - 2)]
        self._on = False
        self._read: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __enter__(self) -> TowerReader:
        self._hooks = [
            self._layer.register_forward_pre_hook(lambda *_: setattr(self, "_on", True)),
            self._layer.register_forward_hook(lambda *_: setattr(self, "_on", False)),
        ]
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self._on:
            query, key = args[0].float(), args[1].float()  # [pictures, heads, n, d]
            scale = query.shape[-1] ** -0.5 if kwargs.get("scale") is None else kwargs["scale"]
            weights = (query @ key.transpose(-1, -2) * scale).softmax(-1).mean(1)
            self._read.append((weights, key.mean(1)))
        return func(*args, **kwargs)

    def view(self, count: int) -> TowerView:
        """What was read, for ``count`` visual tokens of the call."""
        read, self._read = self._read, []
        if not read:
            raise NotApplicable(
                "the tower's attention can't be read under this kernel; use attn_implementation='sdpa'"
            )
        sizes = [weights.shape[0] * weights.shape[1] for weights, _ in read]
        pictures = sum(weights.shape[0] for weights, _ in read)
        if sum(sizes) == count * self._merge:
            received = torch.cat([weights.mean(1).flatten() for weights, _ in read])
            keys = torch.cat([key.flatten(0, 1) for _, key in read])
        elif sum(sizes) - pictures == count:  # a class token in front of each picture
            received = torch.cat([weights[:, 0, 1:].flatten() for weights, _ in read])
            keys = torch.cat([key[:, 1:].flatten(0, 1) for _, key in read])
        else:
            raise NotApplicable(f"the tower has {sum(sizes)} tokens for {count} visual ones; they can't be matched")
        return TowerView(
            received.unflatten(0, (count, -1)).mean(1).cpu(), keys.unflatten(0, (count, -1)).mean(1).cpu()
        )
