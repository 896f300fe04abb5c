"""The families that transformers 5.19 has already."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import transformers as hf

from tests.tiny import END, IMAGE, START, VIDEO, VOCABULARY, Part, text_config
from tests.tiny import build as build_qwen
from tests.zoo.configs import (
    CLIP,
    DEEPSEEK_EXPERTS,
    EXPERTS,
    QWEN3_VISION,
    QWEN_TOKENS,
    TOKEN,
    WINDOWS,
    encoder,
    language,
    mrope,
)
from tests.zoo.inputs import CROPS, FIXED, FREE, SIDE, any_resolution, crops, grid_thw, image_sizes, square


def _llava(tower: str) -> tuple[Any, Any]:
    size = 2 * SIDE
    full = {} if tower == "clip" else {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    vision = encoder(f"{tower}_vision_model", image_size=size)
    config = hf.LlavaConfig(vision_config=vision, text_config=language(), image_token_index=IMAGE, **full)
    return hf.LlavaForConditionalGeneration(config), partial(square, pixels=size)


def _vipllava() -> tuple[Any, Any]:
    vision = encoder("clip_vision_model", image_size=2 * SIDE)
    config = hf.VipLlavaConfig(
        vision_config=vision, text_config=language(), image_token_index=IMAGE, vision_feature_layers=[-1, -2]
    )
    return hf.VipLlavaForConditionalGeneration(config), partial(square, pixels=2 * SIDE)


def _paligemma() -> tuple[Any, Any]:
    vision = encoder("siglip_vision_model", image_size=2 * SIDE, projection_dim=64, vision_use_head=False)
    config = hf.PaliGemmaConfig(
        vision_config=vision, text_config=language("gemma", head_dim=16), image_token_index=IMAGE, projection_dim=64,
        hidden_size=64,
    )  # fmt: skip
    return hf.PaliGemmaForConditionalGeneration(config), partial(square, pixels=2 * SIDE, types="prefix")


def _gemma3() -> tuple[Any, Any]:
    size = 4 * SIDE
    text = language("gemma3_text", head_dim=16, **WINDOWS)
    config = hf.Gemma3Config(
        vision_config=encoder("siglip_vision_model", image_size=size), text_config=text,
        mm_tokens_per_image=SIDE**2, image_token_index=IMAGE, boi_token_index=START, eoi_token_index=END,
    )  # fmt: skip
    return hf.Gemma3ForConditionalGeneration(config), partial(square, pixels=size, types="image")


def _internvl() -> tuple[Any, Any]:
    size = 4 * SIDE
    vision = encoder("internvl_vision", image_size=[size, size], patch_size=[2, 2])
    config = hf.InternVLConfig(vision_config=vision, text_config=language("qwen2"), image_seq_length=SIDE**2, **TOKEN)
    return hf.InternVLForConditionalGeneration(config), partial(square, pixels=size)


def _aya_vision() -> tuple[Any, Any]:
    size = 4 * SIDE
    text = language("cohere2", **WINDOWS)
    config = hf.AyaVisionConfig(
        vision_config=encoder("siglip_vision_model", image_size=size), text_config=text, image_token_index=IMAGE,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    return hf.AyaVisionForConditionalGeneration(config), partial(square, pixels=size)


def _cohere2_vision() -> tuple[Any, Any]:
    size = 4 * SIDE
    text = language("cohere2", **WINDOWS)
    config = hf.Cohere2VisionConfig(
        vision_config=encoder("siglip_vision_model", image_size=size), text_config=text, **TOKEN
    )
    return hf.Cohere2VisionForConditionalGeneration(config), partial(square, pixels=size)


def _got_ocr2() -> tuple[Any, Any]:
    size = 32
    vision = {
        "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": size,
        "patch_size": 2, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 64,
    }  # fmt: skip
    config = hf.GotOcr2Config(vision_config=vision, text_config=language("qwen2"), image_token_index=IMAGE)
    return hf.GotOcr2ForConditionalGeneration(config), partial(square, pixels=size)


def _ovis2() -> tuple[Any, Any]:
    size = 4 * SIDE
    vision = {
        **CLIP, "image_size": size, "patch_size": 2, "hidden_stride": 2, "vocab_size": 48,
        "num_visual_indicator_tokens": 2,
    }  # fmt: skip
    config = hf.Ovis2Config(
        vision_config=vision, text_config=language("qwen2"), visual_indicator_token_ids=[START, END],
        vocab_size=VOCABULARY, hidden_size=64, **TOKEN,
    )  # fmt: skip
    return hf.Ovis2ForConditionalGeneration(config), partial(square, pixels=size)


def _deepseek_vl() -> tuple[Any, Any]:
    vision = encoder("siglip_vision_model", image_size=2 * SIDE)
    config = hf.DeepseekVLConfig(vision_config=vision, text_config=language(), **TOKEN)
    return hf.DeepseekVLForConditionalGeneration(config), partial(square, pixels=2 * SIDE)


def _perception_lm() -> tuple[Any, Any]:
    size = 4 * SIDE
    vision = {
        "model_type": "timm_wrapper", "architecture": "vit_pe_core_large_patch14_336",
        "model_args": {
            "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": [size, size], "patch_size": 2, "global_pool": "",
            "use_post_transformer_norm": False, "init_values": 0.1, "ref_feat_shape": [16, 16], "class_token": True,
        },
    }  # fmt: skip
    config = hf.PerceptionLMConfig(
        vision_config=vision, text_config=language(), image_token_id=IMAGE, video_token_id=VIDEO,
        projector_pooling_ratio=2, vision_use_cls_token=True,
    )  # fmt: skip
    return hf.PerceptionLMForConditionalGeneration(config), partial(square, pixels=size, ndim=5)


def _fast_vlm() -> tuple[Any, Any]:
    size = 256
    vision = {
        "model_type": "timm_wrapper", "architecture": "fastvit_mci3", "do_pooling": True, "global_pool": "avg",
        "hidden_size": 64, "model_args": {"inference_mode": True, "layers": [1] * 5, "embed_dims": [4, 4, 8, 32, 32]},
    }  # fmt: skip
    config = hf.FastVlmConfig(vision_config=vision, text_config=language("qwen2"), image_token_id=IMAGE)
    return hf.FastVlmForConditionalGeneration(config), partial(square, pixels=size)


def _crops(kind: str) -> tuple[Any, Any]:
    config_class, model_class = {
        "smolvlm": (hf.SmolVLMConfig, hf.SmolVLMForConditionalGeneration),
        "idefics3": (hf.Idefics3Config, hf.Idefics3ForConditionalGeneration),
    }[kind]
    vision = {k: v for k, v in CLIP.items()} | {"image_size": 16, "patch_size": 2}
    config = config_class(vision_config=vision, text_config=language(), scale_factor=2, **TOKEN)
    return model_class(config), partial(crops, pixels=16)


def _pixtral(kind: str) -> tuple[Any, Any]:
    vision = encoder("pixtral", image_size=256, num_channels=3)
    if kind == "llava":
        config = hf.LlavaConfig(
            vision_config=vision, text_config=language(), image_token_index=IMAGE,
            vision_feature_select_strategy="full", vision_feature_layer=-1,
        )  # fmt: skip
        return hf.LlavaForConditionalGeneration(config), partial(image_sizes, cell=2)
    if kind == "mistral3":
        config = hf.Mistral3Config(
            vision_config=vision, text_config=language("mistral"), image_token_index=IMAGE, spatial_merge_size=2
        )
        return hf.Mistral3ForConditionalGeneration(config), partial(image_sizes, cell=4)
    text = language("qwen3", head_dim=16)
    config = hf.LightOnOcrConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
    return hf.LightOnOcrForConditionalGeneration(config), partial(image_sizes, cell=4, breaks=False)


def _llava_any(kind: str) -> tuple[Any, Any]:
    size = 12
    pins = [[size, 2 * size], [2 * size, size], [2 * size, 2 * size]]
    if kind == "llava_next":
        config = hf.LlavaNextConfig(
            vision_config=encoder("clip_vision_model", image_size=size), text_config=language(),
            image_token_index=IMAGE, image_grid_pinpoints=pins,
        )  # fmt: skip
        model = hf.LlavaNextForConditionalGeneration(config)
    else:
        config = hf.LlavaOnevisionConfig(
            vision_config=encoder("siglip_vision_model", image_size=size), text_config=language("qwen2"),
            image_token_index=IMAGE, video_token_index=VIDEO, image_grid_pinpoints=pins, vision_feature_layer=-1,
            vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_1",
        )  # fmt: skip
        model = hf.LlavaOnevisionForConditionalGeneration(config)
    several = kind == "llava_onevision"
    return model, partial(any_resolution, model=model, pixels=size, cell=2, several=several)


def _qwen(name: str) -> tuple[Any, Any]:
    """The models of :mod:`tests.tiny`."""
    model = build_qwen(name).model
    vision = model.config.vision_config
    shape = (3 * vision.temporal_patch_size * vision.patch_size**2,)
    return model, partial(grid_thw, shape=shape, merge=vision.spatial_merge_size)


def _qwen3_vl_moe() -> tuple[Any, Any]:
    text = text_config(head_dim=16, rope_parameters=mrope(4, 2, 2), **EXPERTS)
    vision = QWEN3_VISION | {"deepstack_visual_indexes": [0, 2]}
    config = hf.Qwen3VLMoeConfig(text_config=text, vision_config=vision, **QWEN_TOKENS)
    return hf.Qwen3VLMoeForConditionalGeneration(config), partial(grid_thw, shape=(96,), merge=2)


def _qwen3_5(moe: bool) -> tuple[Any, Any]:
    text = text_config(
        head_dim=16, layer_types=["full_attention", "linear_attention", "full_attention"], linear_key_head_dim=8,
        linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
        rope_parameters=mrope(4, 2, 2, partial_rotary_factor=1.0),
        **(EXPERTS | {"shared_expert_intermediate_size": 32} if moe else {}),
    )  # fmt: skip
    config_class, model_class = (
        (hf.Qwen3_5MoeConfig, hf.Qwen3_5MoeForConditionalGeneration)
        if moe
        else (hf.Qwen3_5Config, hf.Qwen3_5ForConditionalGeneration)
    )
    config = config_class(text_config=text, vision_config=QWEN3_VISION, **QWEN_TOKENS)
    return model_class(config), partial(grid_thw, shape=(96,), merge=2)


def _glm(kind: str) -> tuple[Any, Any]:
    config_class, model_class = {
        "glm4v": (hf.Glm4vConfig, hf.Glm4vForConditionalGeneration),
        "glm46v": (hf.Glm46VConfig, hf.Glm46VForConditionalGeneration),
        "glm4v_moe": (hf.Glm4vMoeConfig, hf.Glm4vMoeForConditionalGeneration),
        "glm_ocr": (hf.GlmOcrConfig, hf.GlmOcrForConditionalGeneration),
    }[kind]
    rope = mrope(2, 3, 3, partial_rotary_factor=1.0)
    vision = {
        "depth": 2, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
        "image_size": 32,
    }  # fmt: skip
    text = text_config(rope_parameters=rope, head_dim=16)
    if kind == "glm4v_moe":
        text |= DEEPSEEK_EXPERTS
    tokens = {
        "image_token_id": IMAGE, "video_token_id": VIDEO, "image_start_token_id": START, "image_end_token_id": END,
        "video_start_token_id": 15, "video_end_token_id": 16,
    }  # fmt: skip
    if kind == "glm46v":
        text, vision = {"model_type": "glm4v_text", **text}, {"model_type": "glm4v_vision", **vision}
    config = config_class(text_config=text, vision_config=vision, **tokens)
    return model_class(config), partial(grid_thw, shape=(96,), merge=2)


def _video_llama_3() -> tuple[Any, Any]:
    vision = {**CLIP, "patch_size": 4, "num_channels": 3}
    config = hf.VideoLlama3Config(
        vision_config=vision, text_config=language("qwen2"), image_token_id=IMAGE, video_token_id=VIDEO
    )
    make = partial(grid_thw, shape=(48,), merge=1, types=False, merges=True)
    return hf.VideoLlama3ForConditionalGeneration(config), make


def _paddleocr_vl() -> tuple[Any, Any]:
    vision = {**CLIP, "patch_size": 4, "image_size": 32, "spatial_merge_size": 2}
    text = text_config(head_dim=16, rope_parameters=mrope(2, 3, 3))
    config = hf.PaddleOCRVLConfig(text_config=text, vision_config=vision, **QWEN_TOKENS)
    return hf.PaddleOCRVLForConditionalGeneration(config), partial(grid_thw, shape=(3, 4, 4), merge=2)


def _kimi_k25() -> tuple[Any, Any]:
    vision = {**CLIP, "patch_size": 4, "pos_emb_height": 8, "pos_emb_width": 8}
    text = {
        "model_type": "deepseek_v3", **text_config(num_key_value_heads=4), "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, **DEEPSEEK_EXPERTS,
    }  # fmt: skip
    config = hf.Kimi_K25Config(
        vision_config=vision, text_config=text, projection_hidden_size=32, **QWEN_TOKENS
    )
    return hf.Kimi_K25ForConditionalGeneration(config), partial(grid_thw, shape=(3, 4, 4), merge=2, types=False)


BUILDERS: dict[str, tuple[Callable[[], tuple[Any, Any]], list[list[Part]]]] = {
    "llava (CLIP)": (partial(_llava, "clip"), FIXED),
    "llava (SigLIP)": (partial(_llava, "siglip"), FIXED),
    "llava (Pixtral)": (partial(_pixtral, "llava"), FREE),
    "vipllava": (_vipllava, FIXED),
    "paligemma": (_paligemma, FIXED),
    "gemma3": (_gemma3, FIXED),
    "internvl": (_internvl, FIXED),
    "aya_vision": (_aya_vision, FIXED),
    "cohere2_vision": (_cohere2_vision, FIXED),
    "got_ocr2": (_got_ocr2, CROPS),
    "ovis2": (_ovis2, FIXED),
    "deepseek_vl": (_deepseek_vl, FIXED),
    "perception_lm": (_perception_lm, FIXED),
    "fast_vlm": (_fast_vlm, CROPS),
    "idefics3": (partial(_crops, "idefics3"), CROPS),
    "smolvlm": (partial(_crops, "smolvlm"), CROPS),
    "mistral3": (partial(_pixtral, "mistral3"), FREE),
    "lighton_ocr": (partial(_pixtral, "lighton_ocr"), FREE),
    "llava_next": (partial(_llava_any, "llava_next"), FREE),
    "llava_onevision": (partial(_llava_any, "llava_onevision"), FREE),
    "qwen2_vl": (partial(_qwen, "qwen2_vl"), FREE),
    "qwen2_5_vl": (partial(_qwen, "qwen2_5_vl"), FREE),
    "qwen3_vl": (partial(_qwen, "qwen3_vl"), FREE),
    "qwen3_vl_moe": (_qwen3_vl_moe, FREE),
    "qwen3_5": (partial(_qwen3_5, False), FREE),
    "qwen3_5_moe": (partial(_qwen3_5, True), FREE),
    "glm4v": (partial(_glm, "glm4v"), FREE),
    "glm4v_moe": (partial(_glm, "glm4v_moe"), FREE),
    "glm46v": (partial(_glm, "glm46v"), FREE),
    "glm_ocr": (partial(_glm, "glm_ocr"), FREE),
    "video_llama_3": (_video_llama_3, FREE),
    "paddleocr_vl": (_paddleocr_vl, FREE),
    "kimi_k25": (_kimi_k25, FREE),
}
