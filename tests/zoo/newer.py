"""Families that came with later versions of transformers, or late to this project."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import transformers as hf

from tests.tiny import END, IMAGE, START, VIDEO, VOCABULARY, Part, text_config
from tests.zoo.configs import EXPERTS, QWEN3_VISION, QWEN_TOKENS, TOKEN, WINDOWS, encoder, language, mrope
from tests.zoo.inputs import CROPS, FIXED, FREE, SIDE, any_resolution, crops, grid_thw, image_sizes, patch_rows, square

GRID = partial(grid_thw, shape=(96,), merge=2)


def _model(config: Any) -> Any:
    """The class that ``AutoModelForImageTextToText`` has for a configuration."""
    return hf.AutoModelForImageTextToText.from_config(config)


def _lfm2_vl() -> tuple[Any, Any]:
    vision = encoder("siglip2_vision_model", num_patches=64, vision_use_head=False)
    text = language("lfm2", layer_types=["full_attention", "conv", "full_attention"], block_auto_adjust_ff_dim=False)
    config = hf.Lfm2VlConfig(vision_config=vision, text_config=text, projector_hidden_size=64, **TOKEN)
    return _model(config), partial(patch_rows, patch=2, merge=2, positions=False)


_GEMMA4 = {
    "boi_token_id": START, "eoi_token_id": END, "image_token_id": IMAGE, "video_token_id": VIDEO, "boa_token_id": 17,
    "eoa_token_index": 18, "audio_token_id": 19,
}  # fmt: skip


def _gemma4() -> tuple[Any, Any]:
    text = language(
        "gemma4_text", head_dim=16, global_head_dim=16, vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8, use_bidirectional_attention="vision", **WINDOWS,
    )  # fmt: skip
    text["layer_types"] = ["sliding_attention", "sliding_attention", "full_attention"]
    vision = encoder(
        "gemma4_vision", num_key_value_heads=4, head_dim=8, pooling_kernel_size=2, position_embedding_size=64
    )
    config = hf.Gemma4Config(text_config=text, vision_config=vision, audio_config=None, **_GEMMA4)
    return _model(config), partial(patch_rows, patch=2, merge=2, positions=True, types=True)


def _gemma4_unified() -> tuple[Any, Any]:
    text = language("gemma4_unified_text", head_dim=16, global_head_dim=16, use_bidirectional_attention="vision")
    text |= WINDOWS | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
    vision = {"model_type": "gemma4_unified_vision", "patch_size": 2, "pooling_kernel_size": 2, "mm_embed_dim": 32,
              "mm_posemb_size": 64, "output_proj_dims": 32}  # fmt: skip
    config = hf.Gemma4UnifiedConfig(text_config=text, vision_config=vision, audio_config=None, **_GEMMA4)
    return _model(config), partial(patch_rows, patch=4, merge=1, positions=True, types=True)


def _deepseek_vl_hybrid() -> tuple[Any, Any]:
    high = {
        "model_type": "sam_vision_model", "hidden_size": 32, "output_channels": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 4, "window_size": 4, "global_attn_indexes": [0],
        "mlp_dim": 64,
    }  # fmt: skip
    vision = encoder("siglip_vision_model", image_size=2 * SIDE)
    config = hf.DeepseekVLHybridConfig(
        vision_config=vision, high_res_vision_config=high, text_config=language(), **TOKEN
    )
    return _model(config), partial(square, pixels=2 * SIDE, second=32)


def _janus() -> tuple[Any, Any]:
    vision = {
        "model_type": "janus_vision_model", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 2 * SIDE, "patch_size": 2, "projection_dim": 64, "num_image_tokens": SIDE**2,
    }  # fmt: skip
    codes = {
        "embed_dim": 4, "num_embeddings": 16, "latent_channels": 32, "base_channels": 32, "channel_multiplier": [1, 1],
        "num_res_blocks": 1, "projection_dim": 64, "image_token_embed_dim": 64,
    }  # fmt: skip
    config = hf.JanusConfig(vision_config=vision, vq_config=codes, text_config=language(), **TOKEN)
    return _model(config), partial(square, pixels=2 * SIDE)


def _shieldgemma2() -> tuple[Any, Any]:
    size = 4 * SIDE
    config = hf.ShieldGemma2Config(
        vision_config=encoder("siglip_vision_model", image_size=size),
        text_config=language("gemma3_text", head_dim=16, **WINDOWS), mm_tokens_per_image=SIDE**2,
        image_token_index=IMAGE, boi_token_index=START, eoi_token_index=END,
    )  # fmt: skip
    return _model(config), partial(square, pixels=size, types="image")


def _pp_chart2table() -> tuple[Any, Any]:
    size = 32
    vision = {
        "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": size,
        "patch_size": 2, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 64,
    }  # fmt: skip
    config = hf.PPChart2TableConfig(vision_config=vision, text_config=language("qwen2"), image_token_index=IMAGE)
    return _model(config), partial(square, pixels=size)


def _qianfan_ocr() -> tuple[Any, Any]:
    size = 4 * SIDE
    vision = encoder("qianfan_ocr_vision", image_size=[size, size], patch_size=[2, 2], drop_path_rate=0.0)
    config = hf.QianfanOCRConfig(
        vision_config=vision, text_config=language("qwen3", head_dim=16), image_seq_length=SIDE**2, **TOKEN
    )
    return _model(config), partial(square, pixels=size)


def _llava_next_video() -> tuple[Any, Any]:
    size = 12
    config = hf.LlavaNextVideoConfig(
        vision_config=encoder("clip_vision_model", image_size=size), text_config=language(), image_token_index=IMAGE,
        video_token_index=VIDEO, image_grid_pinpoints=[[size, 2 * size], [2 * size, size], [2 * size, 2 * size]],
    )  # fmt: skip
    model = _model(config)
    return model, partial(any_resolution, model=model, pixels=size, cell=2)


_QWEN2_5_VISION = {
    "depth": 4, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
    "window_size": 32, "fullatt_block_indexes": [1, 3],
}  # fmt: skip
_AUDIO = {
    "num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "d_model": 16,
    "output_dim": 64, "downsample_hidden_size": 8,
}  # fmt: skip


def _cosmos3_omni() -> tuple[Any, Any]:
    vision = QWEN3_VISION | {"model_type": "qwen3_vl_vision", "deepstack_visual_indexes": [0, 2]}
    text = language("qwen3_vl_text", head_dim=16, rope_parameters=mrope(4, 2, 2))
    return _model(hf.Cosmos3OmniConfig(text_config=text, vision_config=vision, **QWEN_TOKENS)), GRID


def _cosmos3_edge() -> tuple[Any, Any]:
    text = language("cosmos3_edge_text", head_dim=16, rope_parameters=mrope(4, 2, 2))
    vision = encoder("cosmos3_edge_vision", patch_size=4, num_patches=64, spatial_merge_size=2)
    config = hf.Cosmos3EdgeConfig(text_config=text, vision_config=vision, projector_hidden_size=64, **QWEN_TOKENS)
    return _model(config), partial(grid_thw, shape=(48,), merge=2)


def _cohere_compass() -> tuple[Any, Any]:
    text = language("cohere_compass_text", rope_parameters={"full_attention": mrope(4, 2, 2)})
    vision = QWEN3_VISION | {"model_type": "cohere_compass_vision", "deepstack_visual_indexes": [0, 2]}
    return _model(hf.CohereCompassConfig(text_config=text, vision_config=vision, **QWEN_TOKENS)), GRID


def _exaone4_5() -> tuple[Any, Any]:
    config = hf.Exaone4_5_Config(
        text_config=language("exaone4", **WINDOWS), vision_config=_QWEN2_5_VISION | {"num_key_value_heads": 1},
        image_token_id=IMAGE, video_token_id=VIDEO,
    )  # fmt: skip
    return _model(config), partial(GRID, types=False)


def _hyperclovax() -> tuple[Any, Any]:
    config = hf.HyperCLOVAXVisionV2Config(
        text_config=language("hyperclovax", head_dim=16),
        vision_config=_QWEN2_5_VISION | {"model_type": "qwen2_5_vl_vision"},
        image_token_id=IMAGE, video_token_id=VIDEO,
    )  # fmt: skip
    return _model(config), partial(GRID, types=False)


def _omni(kind: str) -> tuple[Any, Any]:
    tokens = {"audio_token": 17, "image_token": IMAGE, "video_token": VIDEO}
    if kind == "qwen2_5_omni_thinker":
        config = hf.Qwen2_5OmniThinkerConfig(
            text_config=text_config(rope_parameters=mrope(2, 3, 3)), vision_config=_QWEN2_5_VISION,
            audio_config=_AUDIO, **{f"{name}_index": number for name, number in tokens.items()},
        )  # fmt: skip
    else:
        config = hf.Qwen3OmniMoeThinkerConfig(
            text_config=text_config(head_dim=16, rope_parameters=mrope(4, 2, 2), **EXPERTS),
            vision_config=QWEN3_VISION | {"deepstack_visual_indexes": [0, 2]}, audio_config=_AUDIO,
            **{f"{name}_id": number for name, number in tokens.items()},
        )  # fmt: skip
    for name in ("vision_start", "vision_end", "audio_start", "audio_end"):
        setattr(config, f"{name}_token_id", {"vision_start": START, "vision_end": END}.get(name, 18))
    return _model(config), partial(GRID, types=False)


def _glmga() -> tuple[Any, Any]:
    text = language("glm4v_text", head_dim=16, rope_parameters=mrope(2, 3, 3, partial_rotary_factor=1.0))
    vision = {
        "model_type": "glm4v_vision", "depth": 2, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64,
        "num_heads": 2, "patch_size": 4, "image_size": 32,
    }  # fmt: skip
    config = hf.GlmgaConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO, image_start_token_id=START,
        image_end_token_id=END, video_start_token_id=15, video_end_token_id=16,
    )  # fmt: skip
    return _model(config), GRID


_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1}
_LATENT = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}  # fmt: skip
_INDEX = {"index_topk": 1024, "index_head_dim": 16, "index_n_heads": 2}
"""More keys than any prompt has: all of them are seen."""


def _glm5_next() -> tuple[Any, Any]:
    text = language(
        "glm5_next_text", layer_types=["indexed_attention", "linear_attention", "indexed_attention"],
        mlp_layer_types=["dense", "sparse", "dense"], linear_head_dim=16, linear_num_heads=4,
        **(_ROUTED | _LATENT | _INDEX | {"qk_rope_head_dim": 0, "qk_nope_head_dim": 16}),
    )  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
        "image_size": 32, "projection_intermediate_size": 64,
    }  # fmt: skip
    config = hf.Glm5NextConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO, image_start_token_id=START,
        image_end_token_id=END, video_start_token_id=15, video_end_token_id=16,
    )  # fmt: skip
    return _model(config), partial(GRID, types=False)


def _lfm3_vl() -> tuple[Any, Any]:
    vision = encoder("lfm3_vl_vision", patch_size=4, num_key_value_heads=2, layer_types=["conv", "full_attention"])
    text = language(
        "lfm3", head_dim=16, layer_types=["full_attention", "conv", "sliding_attention"], sliding_window=4096
    )
    config = hf.Lfm3VlConfig(vision_config=vision, text_config=text, projector_hidden_size=64, **QWEN_TOKENS)
    return _model(config), partial(GRID, types=False)


def _muse(kind: str) -> tuple[Any, Any]:
    vision = encoder(f"{kind}_vision", patch_size=4, pos_emb_height=8, pos_emb_width=8, max_position_embeddings=64)
    text = language(f"{kind}_text", head_dim=16, sliding_window=4096)
    shared = {
        "vision_config": vision, "image_token_id": IMAGE, "video_token_id": VIDEO, "out_hidden_size": 128,
        "projector_hidden_size": 64,
    }  # fmt: skip
    if kind == "muse_glimmer":
        config = hf.MuseGlimmerConfig(text_config=text, **shared)
    else:
        audio = {"patch_sizes": [4], "hidden_sizes": [8], "depths": [1], "num_hidden_layers": 1, "out_hidden_size": 64}
        text |= {"moe_intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_hidden_size": 32}
        config = hf.MuseSparkConfig(text_config=text, audio_config=audio, **shared)
    return _model(config), partial(GRID, types=False)


def _ernie() -> tuple[Any, Any]:
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
    }  # fmt: skip
    text = text_config(
        moe_intermediate_size=[32, 16], moe_k=2, moe_num_experts=4, rope_parameters=mrope(3, 3, 2)
    )
    config = hf.Ernie4_5_VLMoeConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO, image_start_token_id=START,
        image_end_token_id=END, video_start_token_id=15, video_end_token_id=16,
    )  # fmt: skip
    return _model(config), partial(grid_thw, shape=(48,), merge=2)


def _minimax_m3_vl() -> tuple[Any, Any]:
    vision = encoder("minimax_m3_vl_vision", patch_size=4, image_size=64)
    text = language(
        "minimax_m3_vl_text", head_dim=16, rotary_dim=8, num_experts_per_tok=2, num_local_experts=4,
        dense_intermediate_size=64, shared_intermediate_size=32, mlp_layer_types=["dense", "sparse", "sparse"],
        layer_types=["full_attention", "minimax_m3_sparse", "full_attention"], index_n_heads=2, index_head_dim=16,
        index_topk_blocks=64,
    )  # fmt: skip
    config = hf.MiniMaxM3VLConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, video_token_index=VIDEO,
        projector_hidden_size=64,
    )  # fmt: skip
    return _model(config), partial(GRID, types=False)


def _dots3_note() -> tuple[Any, Any]:
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "patch_size": 4, "mlp_layer_types": ["dense", "sparse"], "num_local_experts": 4,
        "adapter_in_dim": 32, "adapter_out_dim": 64,
    }  # fmt: skip
    audio = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "adapter_input_size": 16, "adapter_out_dim": 64, "feature_size": 8, "downsample_hidden_size": 8,
    }  # fmt: skip
    text = language(
        "dots3_note_text", head_dim=16, shared_experts_intermediate_size=32, n_group=1, topk_group=1,
        use_sliding_window=False, **_ROUTED, **_LATENT, **_INDEX,
    )  # fmt: skip
    config = hf.Dots3NoteConfig(
        text_config=text, vision_config=vision, audio_config=audio, image_token_id=IMAGE, video_token_id=VIDEO,
        audio_token_id=17,
    )  # fmt: skip
    return _model(config), partial(grid_thw, shape=(48,), merge=2, types=False)


def _qwen4_exp() -> tuple[Any, Any]:
    text = language(
        "qwen4_exp_text", head_dim=16, layer_types=["linear_attention", "indexed_attention", "indexed_attention"],
        linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4, hc_count=2,
        hc_lowrank=8, rope_parameters=mrope(4, 2, 2, partial_rotary_factor=1.0), indexer_n_heads=2, indexer_kv_heads=1,
        indexer_head_dim=16, indexer_budget=1024, indexer_compress_ratio=4, shared_expert_intermediate_size=32,
        **EXPERTS,
    )  # fmt: skip
    return _model(hf.Qwen4ExpConfig(text_config=text, vision_config=QWEN3_VISION, **QWEN_TOKENS)), GRID


def _mistral_large4() -> tuple[Any, Any]:
    text = language(
        "mistral_large4_text", no_rope_layers=[1, 0, 1], n_group=1, topk_group=1, **_ROUTED,
        **{name: value for name, value in _LATENT.items() if name != "q_lora_rank"}, **_INDEX,
    )  # fmt: skip
    config = hf.MistralLarge4Config(
        vision_config=encoder("pixtral", image_size=256, num_channels=3), text_config=text, image_token_index=IMAGE,
        spatial_merge_size=2,
    )  # fmt: skip
    return _model(config), partial(image_sizes, cell=4)


def _video_llava() -> tuple[Any, Any]:
    config = hf.VideoLlavaConfig(
        vision_config=encoder("clip_vision_model", image_size=2 * SIDE), text_config=language(),
        image_token_index=IMAGE, video_token_index=VIDEO,
    )  # fmt: skip
    return _model(config), partial(square, pixels=2 * SIDE)


def _granite_docling() -> tuple[Any, Any]:
    vision = encoder(
        "granite_docling_vision", image_size=16, scale_factor=2, out_hidden_size=64, deepstack_visual_indexes=[0],
    )  # fmt: skip
    config = hf.GraniteDoclingConfig(vision_config=vision, text_config=language("granite_docling_text"), **TOKEN)
    return _model(config), partial(crops, pixels=16, whole=True)


BUILDERS: dict[str, tuple[Callable[[], tuple[Any, Any]], list[list[Part]]]] = {
    "lfm2_vl": (_lfm2_vl, FREE),
    "gemma4": (_gemma4, FREE),
    "gemma4_unified": (_gemma4_unified, FREE),
    "deepseek_vl_hybrid": (_deepseek_vl_hybrid, FIXED),
    "janus": (_janus, FIXED),
    "shieldgemma2": (_shieldgemma2, FIXED),
    "pp_chart2table": (_pp_chart2table, CROPS),
    "qianfan_ocr": (_qianfan_ocr, FIXED),
    "llava_next_video": (_llava_next_video, FREE),
    "cosmos3_omni": (_cosmos3_omni, FREE),
    "cosmos3_edge": (_cosmos3_edge, FREE),
    "cohere_compass": (_cohere_compass, FREE),
    "exaone4_5": (_exaone4_5, FREE),
    "hyperclovax_vision_v2": (_hyperclovax, FREE),
    "qwen2_5_omni_thinker": (partial(_omni, "qwen2_5_omni_thinker"), FREE),
    "qwen3_omni_moe_thinker": (partial(_omni, "qwen3_omni_moe_thinker"), FREE),
    "glmga": (_glmga, FREE),
    "glm5_next": (_glm5_next, FREE),
    "lfm3_vl": (_lfm3_vl, FREE),
    "muse_glimmer": (partial(_muse, "muse_glimmer"), FREE),
    "muse_spark": (partial(_muse, "muse_spark"), FREE),
    "ernie4_5_vl_moe": (_ernie, FREE),
    "minimax_m3_vl": (_minimax_m3_vl, FREE),
    "dots3_note": (_dots3_note, FREE),
    "qwen4_exp": (_qwen4_exp, FREE),
    "mistral_large4": (_mistral_large4, FREE),
    "video_llava": (_video_llava, FIXED),
    "granite_docling": (_granite_docling, CROPS),
}
