"""The reference model inside the engine: its processor cuts a picture into patches, each an image entry of its own.

One picture of a prompt is one item of the engine, whose placeholders stand between the words that name its patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from vllm.config.multimodal import BaseDummyOptions
from vllm.model_executor.models.transformers.causal import CausalMixin
from vllm.model_executor.models.transformers.multimodal import MultiModalMixin
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageProcessorItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdateDetails,
)

from ...reference.model import VIT_PATCH
from ...reference.processor import MAX_SIDE, ReferenceProcessor
from ...reference.world import PATCH
from .model import Budgets
from .names import ENTRIES


class Info(BaseProcessingInfo):
    """What the engine asks about the model's inputs."""

    @cached_property
    def _processor(self) -> ReferenceProcessor:
        return ReferenceProcessor.from_pretrained(self.model_id, local_files_only=True)

    def get_hf_processor(self, **kwargs: object) -> ReferenceProcessor:
        return self._processor

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        return {"image": MAX_SIDE**2 * (400 + 4)}


class DummyInputs(BaseDummyInputsBuilder[Info]):
    """The largest input, for the engine's profile of its memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return "<img>" * mm_counts.get("image", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, BaseDummyOptions]
    ) -> Any:
        side = MAX_SIDE * PATCH
        return {"image": [Image.new("RGB", (side, side)) for _ in range(mm_counts.get("image", 0))]}


class Processor(BaseMultiModalProcessor[Info]):
    """Pictures to patches, and ``<img>`` to their places."""

    def _get_hf_mm_text(self, mm_counts: Mapping[str, int]) -> None:
        return None

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]) -> Any:
        # The words of a prompt are written by the chat template; only pixels are asked for here.
        processor = self.info.get_hf_processor()
        patches = [patch for image in hf_data["images"] for patch in processor.split(image)]
        return processor.image_processor(images=patches, return_tensors="pt")

    def _postprocess_hf_mm_data(self, mm_inputs: Any, hf_processor_mm_kwargs: Any, processed_data: Any) -> Any:
        grids = [self.info.get_hf_processor().patch_grid(image) for image in mm_inputs.get("images", ())]
        processed_data[ENTRIES] = torch.tensor([rows * columns for rows, columns in grids])
        return processed_data

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        entries, sizes = hf_inputs[ENTRIES], hf_inputs["image_grid_thw"].prod(-1)
        rows = torch.stack([part.sum() for part in sizes.split(entries.tolist())])
        return {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", rows),
            "image_grid_thw": MultiModalFieldConfig.flat_from_sizes("image", entries, keep_on_cpu=True),
            ENTRIES: MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        processor, images = self.info.get_hf_processor(), mm_items.get_items("image", ImageProcessorItems)

        def places(index: int) -> PromptUpdateDetails[list[int]]:
            # A word each, so that a run of placeholders needs no tokenizer.
            run = processor.image_token * (PATCH // VIT_PATCH) ** 2
            words = processor.picture_text(images.get(index)).replace(run, processor.image_token)
            short = processor.tokenizer(words, add_special_tokens=False)["input_ids"]
            image = processor.image_token_id
            ids = [i for one in short for i in ([one] * (PATCH // VIT_PATCH) ** 2 if one == image else [one])]
            return PromptUpdateDetails.select_token_id(ids, image)

        return [PromptReplacement(modality="image", target=[processor.image_token_id], replacement=places)]


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=DummyInputs)
class BudgetedReferenceVLM(Budgets, MultiModalMixin, CausalMixin):
    """The reference model."""
