"""Random-weight models of realistic sequence lengths: patches of 400 visual tokens, a small tower and language model.

Weights are few so that a CPU gets through; tokens per image, and with them the shares that time is measured in, are as
in use. The ratio of tower to language model is arbitrary, so compare with the FLOPs beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import transformers as hf

from tests.tiny import IMAGE, Part, Tiny, text_config
from tests.zoo.configs import QWEN_TOKENS, TOKEN, language, mrope
from tests.zoo.inputs import grid_thw, image_sizes, square

_LANGUAGE = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64,
}  # fmt: skip
_TOWER = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 4}
_QWEN = {
    "depth": 3, "hidden_size": 256, "out_hidden_size": 512, "intermediate_size": 768, "num_heads": 4, "patch_size": 14
}  # fmt: skip


def _qwen2_5_vl() -> tuple[Any, Any]:
    vision = _QWEN | {"window_size": 112, "fullatt_block_indexes": [2]}
    text = text_config(**_LANGUAGE, rope_parameters=mrope(8, 12, 12))
    config = hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **QWEN_TOKENS)
    return hf.Qwen2_5_VLForConditionalGeneration(config), partial(grid_thw, shape=(3 * 2 * 14**2,), merge=2)


def _mistral3() -> tuple[Any, Any]:
    vision = {"model_type": "pixtral", **_TOWER, "patch_size": 14, "image_size": 1540}
    config = hf.Mistral3Config(
        vision_config=vision, text_config=language("mistral", **_LANGUAGE), image_token_index=IMAGE,
        spatial_merge_size=2,
    )  # fmt: skip
    return hf.Mistral3ForConditionalGeneration(config), partial(image_sizes, cell=28)


def _llava() -> tuple[Any, Any]:
    vision = {"model_type": "clip_vision_model", **_TOWER, "patch_size": 14, "image_size": 336}
    text = {name: value for name, value in _LANGUAGE.items() if name != "head_dim"}
    config = hf.LlavaConfig(vision_config=vision, text_config=language("llama", **text), image_token_index=IMAGE)
    return hf.LlavaForConditionalGeneration(config), partial(square, pixels=336)


def _internvl() -> tuple[Any, Any]:
    vision = {"model_type": "internvl_vision", **_TOWER, "patch_size": [14, 14], "image_size": [448, 448]}
    text = {name: value for name, value in _LANGUAGE.items() if name != "head_dim"}
    config = hf.InternVLConfig(
        vision_config=vision, text_config=language("qwen2", **text), image_seq_length=256, **TOKEN
    )
    return hf.InternVLForConditionalGeneration(config), partial(square, pixels=448)


FOUR: list[Part] = [10, (40, 40), 20]
BUILDERS: dict[str, tuple[Callable[[], tuple[Any, Any]], list[Part], int]] = {
    "llava (CLIP)": (_llava, [10, (24, 24), 20], 12),
    "internvl": (_internvl, [10, *[(16, 16)] * 4, 20], 16),
    "qwen2_5_vl": (_qwen2_5_vl, FOUR, 20),
    "mistral3": (_mistral3, FOUR, 20),
}
"""Per name the model, a prompt whose images are four patches in all, and the side of a patch."""


def build(name: str) -> tuple[Tiny, int]:
    """A fresh model, with the inputs of its prompt as ``make()``, and the side of its patches."""
    make, prompt, side = BUILDERS[name]
    model, inputs = make()
    return Tiny(name, model.eval(), lambda: inputs([prompt], True, 0, [0]), [prompt]), side
