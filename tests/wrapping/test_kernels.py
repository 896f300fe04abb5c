"""Attention kernels that can't be looked into, such as FlashAttention: they stay in use, and no map is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests import zoo
from tests.wrapping.matrix import BUDGETS, Cell, difference

OPAQUE = "opaque"


@pytest.fixture
def calls() -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """Every call of a kernel that, like FlashAttention, returns no weights: (module, further arguments)."""
    seen: list[tuple[Any, dict[str, Any]]] = []

    def kernel(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: Any = None, **more: Any):
        seen.append((module, more))
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = scores if attention_mask is None else scores + attention_mask[..., : key.shape[2]]
        return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None

    ALL_ATTENTION_FUNCTIONS[OPAQUE] = kernel
    AttentionMaskInterface.register(OPAQUE, eager_mask)  # masks are looked up among the registered ones alone
    try:
        yield seen
    finally:
        del ALL_ATTENTION_FUNCTIONS[OPAQUE], AttentionMaskInterface._global_mapping[OPAQUE]


@pytest.mark.parametrize(
    "name", ["qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "llava (CLIP)", "internvl", "mistral3", "paligemma", "gemma3"]
)
def test_every_layer_runs_its_kernel_and_no_map_is_asked_for(name, calls):
    """The answer and the attention that is read are those under SDPA."""
    cell = Cell(zoo.build(name))
    inputs = cell.make(1)
    results = []
    for implementation in ("sdpa", OPAQUE):
        cell.model.set_attn_implementation(implementation)
        with cell.wrapped(2, 16, needs=("glance",)) as arr:
            short = cell.logits(inputs)
            look = len(calls)
            results.append((short, arr.planner.scenes[0].read_attention([0, -1])))
    assert difference(results[1][0], results[0][0]) < 1e-4
    assert difference(results[1][1], results[0][1]) < 1e-5
    layers = set(cell.family.attentions(cell.model))
    assert len(layers) == 3 and layers <= {module for module, _ in calls[:look]}
    assert layers - {cell.family.attentions(cell.model)[-1]} <= {module for module, _ in calls[look:]}
    assert not any(more.get("output_attentions") for _, more in calls)


def test_a_language_model_whose_attention_was_not_checked_says_so(calls):
    cell = Cell(zoo.build("cohere2_vision"))
    inputs = cell.make(1)
    cell.model.set_attn_implementation(OPAQUE)
    with cell.wrapped(2, BUDGETS[-1], needs=("glance",)) as arr:
        assert torch.isfinite(cell.logits(inputs)).all() and calls
        with pytest.raises(NotImplementedError, match="Cohere2Attention can't be read under this kernel"):
            arr.planner.scenes[0].read_attention([-1])
