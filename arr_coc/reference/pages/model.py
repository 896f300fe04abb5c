"""The second reference model's architecture: a stock Qwen2.5-VL configuration, no modelling code of our own."""

from __future__ import annotations

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

WIDTH, HEADS, LM_DEPTH = 160, 5, 6
TOWER_WIDTH, TOWER_HEADS, TOWER_DEPTH = 128, 4, 4
VIT_PATCH = 8
MROPE = [0, 1, 1] * 8
"""Rows and columns take turns over the whole spectrum, as Qwen3-VL's do; the stock [t, h, w] in one piece each would
leave the columns wavelengths of more than 800 tokens. Half of the spectrum hardly turns over a page: that is what
words are matched by, wherever they stand."""
PIXEL_MEAN, PIXEL_STD = 0.6, 0.3


def build_config(vocabulary: int, special: dict[str, int]) -> Qwen2_5_VLConfig:
    """Six language layers of width 160 over a tower of four layers of width 128; an 8-pixel patch is a visual token.

    Parameters
    ----------
    vocabulary
        Number of tokens.
    special
        Ids of ``bos``, ``eos``, ``pad``, ``image``, ``video``, ``vision_start``, ``vision_end``.
    """
    ends = dict(bos_token_id=special["bos"], eos_token_id=special["eos"], pad_token_id=special["pad"])
    return Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LM_DEPTH,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=16384,
            rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=MROPE),
            tie_word_embeddings=True, initializer_range=0.04, **ends,
        ),
        vision_config=dict(
            depth=TOWER_DEPTH, hidden_size=TOWER_WIDTH, out_hidden_size=WIDTH, num_heads=TOWER_HEADS,
            intermediate_size=2 * TOWER_WIDTH, patch_size=VIT_PATCH, spatial_merge_size=1, temporal_patch_size=1,
            window_size=VIT_PATCH, fullatt_block_indexes=list(range(TOWER_DEPTH)), initializer_range=0.04,
            rope_parameters=dict(rope_type="axial", rope_theta=100.0),
        ),
        image_token_id=special["image"], video_token_id=special["video"],
        vision_start_token_id=special["vision_start"], vision_end_token_id=special["vision_end"],
        tie_word_embeddings=True, **ends,
    )  # fmt: skip


def build_model(config: Qwen2_5_VLConfig, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """A model from random numbers alone. The caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    generation = model.generation_config
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(generation, name, getattr(config, name))
    generation.max_new_tokens, generation.do_sample = 12, False
    return model
