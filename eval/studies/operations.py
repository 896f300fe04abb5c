"""Operations counted, where a model is too large to be timed: scorers and contexts beside a 7B model's prefill."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from arr_coc.scene.contract import Scene

TOKEN = 28
"""Pixels along the side of a visual token of Qwen2.5-VL; its tower sees four times as many of half the side."""
QWEN_7B: dict[str, dict[str, int]] = {
    "text_config": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064,
    },
    "vision_config": {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584, "num_heads": 16,
    },
}  # fmt: skip
"""The published shape of Qwen2.5-VL-7B."""


class _Elements(TorchDispatchMode):
    """Counts one operation for every element that an operator makes; views make none."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result


def operations(call: Callable[[], Any]) -> int:
    """Operations of a call: two for every multiply-add of matrix products, one for every other element made."""
    with FlopCounterMode(display=False) as products, _Elements() as elements, torch.no_grad():
        call()
    return int(products.get_total_flops()) + elements.total


def prefill_operations(tokens: int) -> int:
    """Operations of Qwen2.5-VL-7B's prefill, by its shape: the tower over a picture, the layers over its tokens.

    Two for every parameter and position, and the products of attention: over the whole prompt in the language model's
    layers (causal: half of it), in the tower over windows, which are left out, so the figure is a lower bound. Built
    without weights.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with torch.device("meta"):
        model: Any = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**QWEN_7B))

    def parameters(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    layers, width = QWEN_7B["text_config"]["num_hidden_layers"], QWEN_7B["text_config"]["hidden_size"]
    language = 2 * parameters(model.model.language_model.layers) * tokens + 2 * layers * tokens**2 * width
    merger = parameters(model.model.visual.merger)
    return language + 2 * (parameters(model.model.visual) - merger) * 4 * tokens + 2 * merger * tokens


def enlarged(scene: Scene) -> Scene:
    """The same question about a picture of the size that Qwen2.5-VL's tokens have."""
    assert scene.pixels is not None
    pixels = [
        F.interpolate(p[None], size=(TOKEN * patch.height, TOKEN * patch.width), mode="bilinear")[0]
        for p, patch in zip(scene.pixels, scene.patches, strict=True)
    ]
    return dataclasses.replace(scene, pixels=pixels)
