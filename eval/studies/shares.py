"""What glance and look cost on published models, counted from their configurations: no weights, nothing is run.

The shapes are those of the models' published ``config.json`` and ``preprocessor_config.json`` files, written down here
so that the table can be made without a network.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers as hf

from arr_coc.asking.estimate import Estimate, estimate
from arr_coc.config import ArrCocConfig
from arr_coc.knowing.reading import BAND

_QWEN2_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064,
}  # fmt: skip
_QWEN_IDS = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652}
_MROPE = {"rope_type": "default", "rope_theta": 1e6}


def _llava() -> tuple[Any, Any]:
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    }  # fmt: skip
    text = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "vocab_size": 32064}  # fmt: skip
    size = {"shortest_edge": 336}
    images = hf.CLIPImageProcessor(size=size, crop_size={"height": 336, "width": 336})
    return hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=32000), images


def _qwen2_5_vl() -> tuple[Any, Any]:
    vision = {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    }  # fmt: skip
    text = _QWEN2_7B | {"rope_parameters": _MROPE | {"mrope_section": [16, 24, 24]}}
    images = hf.Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 12845056})
    return hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_QWEN_IDS), images


def _qwen3_vl() -> tuple[Any, Any]:
    vision = {
        "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2560,
        "patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
    }  # fmt: skip
    text = {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rope_parameters": _MROPE | {"mrope_section": [24, 20, 20]},
    }  # fmt: skip
    images = hf.Qwen2VLImageProcessor(
        size={"shortest_edge": 65536, "longest_edge": 16777216}, patch_size=16, image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )  # fmt: skip
    return hf.Qwen3VLConfig(text_config=text, vision_config=vision, **_QWEN_IDS), images


def _internvl() -> tuple[Any, Any]:
    vision = {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": [448, 448], "patch_size": [14, 14],
    }  # fmt: skip
    images = hf.GotOcr2ImageProcessor(
        size={"height": 448, "width": 448}, crop_to_patches=True, min_patches=1, max_patches=12
    )
    text = _QWEN2_7B | {"model_type": "qwen2"}
    return hf.InternVLConfig(vision_config=vision, text_config=text, image_token_id=151667), images


def _gemma3() -> tuple[Any, Any]:
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "num_attention_heads": 16, "image_size": 896, "patch_size": 14,
    }  # fmt: skip
    text = {
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 1024, "vocab_size": 262208,
    }  # fmt: skip
    config = hf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=256)
    return config, hf.Gemma3ImageProcessor(size={"height": 896, "width": 896})


def _onevision() -> tuple[Any, Any]:
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26,
        "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
    }  # fmt: skip
    text = _QWEN2_7B | {"model_type": "qwen2"}
    config = hf.LlavaOnevisionConfig(vision_config=vision, text_config=text, image_token_index=151646)
    return config, hf.LlavaOnevisionImageProcessor()


MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "LLaVA-1.5-7B": _llava,
    "Qwen2.5-VL-7B": _qwen2_5_vl,
    "Qwen3-VL-4B": _qwen3_vl,
    "InternVL3-8B": _internvl,
    "Gemma3-4B": _gemma3,
    "LLaVA-OneVision-7B": _onevision,
}
"""Configuration and image processor of published models."""

ROWS = (
    ("LLaVA-1.5-7B", (336, 336)),
    ("Qwen2.5-VL-7B", (640, 427)),
    ("Qwen2.5-VL-7B", (1024, 768)),
    ("Qwen2.5-VL-7B", (1700, 2200)),
    ("Qwen3-VL-4B", (1024, 768)),
    ("InternVL3-8B", (1792, 1344)),
    ("Gemma3-4B", (896, 896)),
    ("LLaVA-OneVision-7B", (768, 768)),
)
FIXED = (64, 128, 256, 400)


def rows() -> list[dict[str, Any]]:
    """One estimate for each of `ROWS` and its realizers, with the family's own budgets and with `FIXED` ones."""
    found = []
    for name, size in ROWS:
        config, images = MODELS[name]()
        for realizer in ("auto", "rescale-separate") if "Qwen" in name else ("auto",):
            own, fixed = (
                estimate(config, size, images, ArrCocConfig(realizer=realizer, budgets=budgets, direct=False))
                for budgets in ((), FIXED)
            )
            default = estimate(config, size, images, ArrCocConfig(realizer=realizer))
            found.append({"model": name, "size": list(size), "fixed": fixed.to_dict(), "own": own.to_dict(),
                          "default": default.to_dict(), "given": _given(own),
                          "doubt pays from": _doubt_pays_from(own, config)})  # fmt: skip
    return found


def _given(known: Estimate) -> float:
    return known.forecast.given[1] / known.forecast.untouched


def _doubt_pays_from(known: Estimate, config: Any) -> float:
    """How often a glance must be the answer for its doubt to cost less than it saves.

    Doubt needs the layers behind the last one whose attention is read; without it every question is looked at, and as
    the glance was not read to its end, all of the prompt is read for that. Where this is below nought, doubt costs
    less even if no glance ever answers.
    """
    depth = config.get_text_config().num_hidden_layers
    behind = 1 - max(int(BAND[1] * depth), int(BAND[0] * depth) + 1) / depth
    cost = known.forecast
    return (behind * cost.reading - cost.taken_over) / (cost.raised - cost.glance)


def table(found: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "# What glance and look cost on published models", "",
        "Written by `python -m eval shares`: operations of tower and prefill (2 x parameters x tokens, and "
        "attention), 40 words of text, as shares of the untouched model's; counted from configurations, nothing was "
        "run. `a / b`: every patch at its floor / one patch raised to full detail (mean over patches). `given`: the "
        "second allocation if nobody had to look. `by default`: what `arr_coc.wrap` does without a limit. `doubt pays "
        "from`: the share of questions that the glance must answer for knowing its doubt (a pass to its end instead "
        f"of to {BAND[1]:.0%} of the depth) to cost less than it saves.", "",
        f"| model and picture | realizer | tokens | patches | budgets | floor | with {FIXED} | with its own budgets "
        "| given | by default | doubt pays from |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|---|---:|",
    ]  # fmt: skip
    for row in found:
        own, fixed, width, height = row["own"], row["fixed"], *row["size"]
        default = "direct" if row["default"]["way"] == "direct" else "glance"
        lines.append(
            f"| {row['model']}, {width} x {height} | {own['realizer']} | {own['tokens']:,} | {own['patches']} | "
            f"{', '.join(map(str, own['budgets']))} | {own['floor']:.0%} | {_pair(fixed)} | {_pair(own)} | "
            f"{row['given']:.0%} | {default} | {max(row['doubt pays from'], 0):.0%} |"
        )
    return "\n".join(lines) + "\n"


def _pair(known: dict[str, Any]) -> str:
    return f"{known['nothing_raised']:.0%} / {known['one_patch_raised']:.0%}"


def write(folder: Path) -> str:
    """Write ``shares.md`` and ``shares.json``; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    found = rows()
    text = table(found)
    (folder / "shares.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "shares.md").write_text(text, encoding="utf-8")
    return text
