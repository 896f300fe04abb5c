"""Which layout each model type has. Every line was checked against the model's own file in transformers and is tested
on a tiny model of the real class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .any_resolution import AnyResolution
from .base import Family
from .crops import Crops
from .grid_thw import GridThw
from .image_sizes import ImageSizes
from .patch_rows import PatchPositions, SpatialShapes
from .square import SquareGrid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _vit_patch(model: PreTrainedModel) -> int:
    size = model.config.vision_config.patch_size
    return int(size if isinstance(size, int) else size[0])


def _downsampled(model: PreTrainedModel) -> int:
    return _vit_patch(model) * int(model.config.downsample_factor)


def _internvl(model: PreTrainedModel) -> int:
    return round(_vit_patch(model) / model.config.downsample_ratio)


def _gemma3(model: PreTrainedModel) -> int:
    return int(model.config.vision_config.image_size // math.isqrt(model.config.mm_tokens_per_image))


def _ovis2(model: PreTrainedModel) -> int:
    return _vit_patch(model) * int(model.config.vision_config.hidden_stride)


def _got_ocr2(model: PreTrainedModel) -> int:
    return _vit_patch(model) * 4  # two convolutions of stride 2


def _perception_lm(model: PreTrainedModel) -> int:
    patch = model.base_model.vision_tower.timm_model.patch_embed.patch_size[0]
    return int(patch * model.config.projector_pooling_ratio)


def _granite_docling(model: PreTrainedModel) -> int:
    return _vit_patch(model) * int(model.config.vision_config.scale_factor)


def _fast_vlm(model: PreTrainedModel) -> int:
    return int(model.base_model.vision_tower.timm_model.feature_info[-1]["reduction"])


def _scaled(model: PreTrainedModel) -> int:
    return _vit_patch(model) * int(model.config.scale_factor)


def _pooled(model: PreTrainedModel) -> int:
    return _vit_patch(model) * int(model.config.vision_config.pooling_kernel_size)


def _merged(model: PreTrainedModel) -> int:
    return _vit_patch(model) * int(getattr(model.config, "spatial_merge_size", 1))


_INTERPOLATED = {"interpolate_pos_encoding": True}

FAMILIES: dict[str, Family] = {
    "llava": SquareGrid(_vit_patch, "any", _INTERPOLATED),
    "llava+pixtral": ImageSizes(_vit_patch, "any", auto_realizer="rescale"),
    "vipllava": SquareGrid(_vit_patch, "any", _INTERPOLATED),
    "paligemma": SquareGrid(_vit_patch, "any", _INTERPOLATED, first_position=1, causal=False),
    "deepseek_vl": SquareGrid(_vit_patch, "any", _INTERPOLATED),
    "deepseek_vl_hybrid": SquareGrid(_vit_patch, companions=("high_res_pixel_values",)),
    "janus": SquareGrid(_vit_patch, "any", _INTERPOLATED),
    "internvl": SquareGrid(_internvl, "square"),
    "qianfan_ocr": SquareGrid(_internvl, "square"),
    "aya_vision": SquareGrid(_downsampled, "square", _INTERPOLATED),
    "cohere2_vision": SquareGrid(_downsampled, "square", _INTERPOLATED),
    "gemma3": SquareGrid(_gemma3, causal=False),
    "shieldgemma2": SquareGrid(_gemma3, causal=False),
    "got_ocr2": SquareGrid(_got_ocr2),
    "pp_chart2table": SquareGrid(_got_ocr2),
    "ovis2": SquareGrid(_ovis2, passed_on=("visual_indicator_features",)),
    "video_llava": SquareGrid(_vit_patch),
    "perception_lm": SquareGrid(_perception_lm),
    "fast_vlm": SquareGrid(_fast_vlm),
    "idefics3": Crops(_scaled, "square"),
    "smolvlm": Crops(_scaled, "square"),
    "granite_docling": Crops(_granite_docling),
    "mistral3": ImageSizes(_merged, "any", auto_realizer="rescale"),
    "mistral_large4": ImageSizes(_merged, "any", auto_realizer="rescale"),
    "lighton_ocr": ImageSizes(_merged, "any", auto_realizer="rescale"),
    "lfm2_vl": SpatialShapes(_downsampled, "any"),
    "gemma4": PatchPositions(_pooled, "any", causal=False),
    "gemma4_unified": PatchPositions(_pooled, "any", causal=False),
    "llava_next": AnyResolution(),
    "llava_next_video": AnyResolution(),
    "llava_onevision": AnyResolution(),
    "qwen2_vl": GridThw(),
    "qwen2_5_vl": GridThw(),
    "qwen3_vl": GridThw(),
    "qwen3_vl_moe": GridThw(),
    "qwen2_5_omni_thinker": GridThw(),
    "qwen3_omni_moe_thinker": GridThw(),
    "cosmos3_omni": GridThw(),
    "cosmos3_edge": GridThw(can_join=False),
    "cohere_compass": GridThw(),
    "exaone4_5": GridThw(compact_only=True),
    "hyperclovax_vision_v2": GridThw(compact_only=True),
    "qwen3_5": GridThw(),
    "qwen3_5_moe": GridThw(),
    "glm4v": GridThw(can_join=False),
    "glm4v_moe": GridThw(can_join=False),
    "glm46v": GridThw(can_join=False),
    "glmga": GridThw(can_join=False),
    "glm_ocr": GridThw(),
    "glm5_next": GridThw(),
    "lfm3_vl": GridThw(can_join=False),
    "muse_glimmer": GridThw(can_join=False, raster=True, frames_first=True),
    "muse_spark": GridThw(can_join=False, raster=True, frames_first=True),
    "ernie4_5_vl_moe": GridThw(),
    "minimax_m3_vl": GridThw(can_join=False, compact_only=True),
    "dots3_note": GridThw(),
    "qwen4_exp": GridThw(),
    "video_llama_3": GridThw(),
    "paddleocr_vl": GridThw(raster=True),
    "kimi_k25": GridThw(can_join=False, raster=True),
}
