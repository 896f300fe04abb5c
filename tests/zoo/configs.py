"""Fragments of tiny configurations."""

from __future__ import annotations

from typing import Any

from tests.tiny import END, IMAGE, START, VIDEO, text_config

CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKEN = {"image_token_id": IMAGE}
QWEN_TOKENS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END
}  # fmt: skip
WINDOWS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4096}
DEEPSEEK_EXPERTS = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
QWEN3_VISION = {
    "depth": 4, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
    "num_position_embeddings": 64,
}  # fmt: skip


def language(kind: str = "llama", **changes: Any) -> dict[str, Any]:
    return text_config(model_type=kind, **changes)


def encoder(kind: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": kind, **CLIP, "patch_size": 2, **changes}


def mrope(*sections: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **more}
