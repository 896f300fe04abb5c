"""Budgets inside vLLM."""

from __future__ import annotations


def register() -> None:
    """Entry point ``vllm.general_plugins``."""
    from vllm import ModelRegistry

    for name in ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration"):
        ModelRegistry.register_model(name, "arr_coc.engines.vllm.model:BudgetedVLM")
