"""Which models are given budgets inside vLLM: those whose every mode is tested against the wrapper."""

from __future__ import annotations

from typing import Any

MODELS = {
    "Qwen2VLForConditionalGeneration": "model:BudgetedVLM",
    "Qwen2_5_VLForConditionalGeneration": "model:BudgetedVLM",
    "Qwen3VLForConditionalGeneration": "model:BudgetedVLM",
    "InternVLForConditionalGeneration": "model:BudgetedVLM",
    "Idefics3ForConditionalGeneration": "model:BudgetedVLM",
    "LlavaNextForConditionalGeneration": "model:BudgetedVLM",
    "LlavaOnevisionForConditionalGeneration": "tiled:BudgetedLlavaOnevision",
    "SmolVLMForConditionalGeneration": "tiled:BudgetedSmolVLM",
    "ArrCocReferenceVLM": "reference:BudgetedReferenceVLM",
}
"""Architecture, and the class that runs it instead of vLLM's own."""
REFERENCE = "ArrCocReferenceVLM"
"""The architecture that the shipped reference model is served under (``--hf-overrides``)."""


def require(model_config: Any) -> None:
    """Refuse a model that can't be given budgets.

    Raises
    ------
    ValueError
        Naming its architecture and the supported ones.
    """
    architectures = list(model_config.hf_config.architectures or [])
    if not set(architectures) & set(MODELS):
        raise ValueError(
            f"{model_config.model} is a {' or '.join(architectures) or 'model without a name'}, which can't be given "
            f"budgets inside vLLM. Supported: {', '.join(sorted(set(MODELS) - {REFERENCE}))}. Use the gateway, "
            "arr-coc serve, or set ARR_COC_UNSUPPORTED=full to serve it at full detail."
        )
