"""Models whose processors leave something unsaid that vLLM's transformers backend asks for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any

from vllm.model_executor.models.transformers import (
    MultiModalDummyInputsBuilder,
    MultiModalProcessingInfo,
    MultiModalProcessor,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from .model import BudgetedVLM


class CountedInfo(MultiModalProcessingInfo):
    """SmolVLM: its processor writes Idefics3's prompts, but does not count their tokens (as of transformers 5.24)."""

    def get_hf_processor(self, **kwargs: object) -> Any:
        from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

        processor = super().get_hf_processor(**kwargs)
        processor._get_num_multimodal_tokens = MethodType(Idefics3Processor._get_num_multimodal_tokens, processor)
        return processor


class OnePictureInfo(MultiModalProcessingInfo):
    """LLaVA-OneVision shows several pictures of a prompt whole, one in tiles.

    Which of the two holds is a number of each prompt, ``batch_num_images``, while the engine keeps pictures apart.
    """

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": 1}


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=CountedInfo, dummy_inputs=MultiModalDummyInputsBuilder
)
class BudgetedSmolVLM(BudgetedVLM):
    """SmolVLM."""


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=OnePictureInfo, dummy_inputs=MultiModalDummyInputsBuilder
)
class BudgetedLlavaOnevision(BudgetedVLM):
    """LLaVA-OneVision."""
