"""Small random models of real classes, with real processors and a learned policy each: what exactness is measured on.

Weights say nothing about exactness: a random model of four layers takes the same ways through tower, attention and
positions as one of billions. Answers of a random model are arbitrary, so that any difference shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

CHAT = (
    "{% for message in messages %}{% if message['content'] is string %}{{ ' ' + message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<vs><img><ve>"
    "{% elif part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)
TILED_CHAT = CHAT.replace("<vs><img><ve>", "<img>")
"""For processors that put their own marks around an image."""
KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "smolvlm", "llava_next", "llava_onevision")
ONE_PICTURE = ("llava_onevision",)
"""Kinds whose prompts hold one picture, see `arr_coc.engines.vllm.tiled`."""


def make_stand_in(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a model of a kind into a folder, its policy into ``policy`` inside of that; kept if it is there."""
    if (folder / "policy" / "config.json").is_file():
        return folder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = _build(kind)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_learned(folder / "policy", model.config.model_type)
    return folder


def _build(kind: str) -> tuple[Any, Any]:
    import transformers as t

    from arr_coc.reference import vocabulary as v
    from arr_coc.reference.model import build_tokenizer

    marks = dict(bos_token_id=v.BOS, eos_token_id=v.EOS, pad_token_id=v.PAD)
    text = dict(
        vocab_size=len(v.VOCABULARY), hidden_size=128, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8192, initializer_range=0.15,
        rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[4, 6, 6]), **marks,
    )  # fmt: skip
    vision: dict[str, Any] = dict(
        depth=3, hidden_size=128, num_heads=4, patch_size=14, spatial_merge_size=2, temporal_patch_size=2,
        initializer_range=0.15,
    )  # fmt: skip
    ids = dict(
        image_token_id=v.IMAGE, video_token_id=v.VIDEO, vision_start_token_id=v.VISION_START,
        vision_end_token_id=v.VISION_END, **marks,
    )  # fmt: skip
    if kind == "qwen2_vl":
        vision |= dict(embed_dim=128, mlp_ratio=2)
        model: Any = t.Qwen2VLForConditionalGeneration(t.Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
        processor, videos = t.Qwen2VLProcessor, t.Qwen2VLVideoProcessor()
    elif kind == "qwen2_5_vl":
        vision |= dict(depth=4, out_hidden_size=128, intermediate_size=256, window_size=112)
        vision |= dict(fullatt_block_indexes=[1, 3])
        model = t.Qwen2_5_VLForConditionalGeneration(t.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
        processor, videos = t.Qwen2_5_VLProcessor, t.Qwen2VLVideoProcessor()
    elif kind == "qwen3_vl":
        text |= dict(head_dim=32)
        text["rope_parameters"] |= dict(mrope_interleaved=True)
        vision |= dict(
            depth=4, out_hidden_size=128, intermediate_size=256, patch_size=16, num_position_embeddings=256,
            deepstack_visual_indexes=[0, 1, 2],
        )  # fmt: skip
        model = t.Qwen3VLForConditionalGeneration(t.Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
        processor, videos = t.Qwen3VLProcessor, t.Qwen3VLVideoProcessor()
    elif kind == "internvl":
        return _internvl(text, marks)
    elif kind in ("idefics3", "smolvlm"):
        return _crops(kind, text, marks)
    elif kind in ("llava_next", "llava_onevision"):
        return _any_resolution(kind, text, marks)
    else:
        raise ValueError(f"kind={kind!r} is none of {', '.join(KINDS)}")
    tokenizer = build_tokenizer()
    names = dict(image_token="<img>", video_token="<video>", vision_start_token="<vs>", vision_end_token="<ve>")
    tokenizer._set_model_specific_special_tokens(names)
    side = 2 * vision["patch_size"]
    images = t.Qwen2VLImageProcessor(
        size=dict(shortest_edge=(2 * side) ** 2, longest_edge=2400 * side**2), patch_size=vision["patch_size"]
    )
    return model.eval(), processor(images, tokenizer, videos, chat_template=CHAT)


def _internvl(text: dict[str, Any], marks: dict[str, Any]) -> tuple[Any, Any]:
    """An image becomes up to four tiles and a thumbnail of 400 tokens each."""
    import transformers as t

    from arr_coc.reference import vocabulary as v
    from arr_coc.reference.model import build_tokenizer

    text = {**text, "rope_parameters": dict(rope_type="default", rope_theta=1e4)}
    vision = dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=[320, 320],
        patch_size=[8, 8], initializer_range=0.15,
    )  # fmt: skip
    config = t.InternVLConfig(
        text_config=dict(model_type="qwen2", **text), vision_config=vision, image_token_id=v.IMAGE,
        image_seq_length=400, downsample_ratio=0.5, **marks,
    )  # fmt: skip
    model = t.InternVLForConditionalGeneration(config)
    tokenizer = build_tokenizer()
    names = dict(context_image_token="<img>", video_token="<video>", start_image_token="<vs>", end_image_token="<ve>")
    tokenizer._set_model_specific_special_tokens(names)
    side = dict(height=320, width=320)
    images = t.GotOcr2ImageProcessor(size=side, crop_to_patches=True, min_patches=1, max_patches=4)
    videos = t.InternVLVideoProcessor(size=side)
    processor = t.InternVLProcessor(images, tokenizer, videos, image_seq_length=400, chat_template=TILED_CHAT)
    return model.eval(), processor


def _crops(kind: str, text: dict[str, Any], marks: dict[str, Any]) -> tuple[Any, Any]:
    """An image becomes up to four crops, each between words of its own, and the whole one, of 400 tokens each."""
    import transformers as t

    from arr_coc.reference.model import build_tokenizer

    tokenizer = build_tokenizer()
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    names = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *places]
    tokenizer.add_special_tokens({"additional_special_tokens": names}, replace_extra_special_tokens=False)
    text = {**text, "vocab_size": len(tokenizer), "rope_parameters": dict(rope_type="default", rope_theta=1e4)}
    vision = dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=320,
        patch_size=8, initializer_range=0.15,
    )  # fmt: skip
    ids = dict(image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2, **marks)
    sizes = dict(size=dict(longest_edge=640), max_image_size=dict(longest_edge=320))
    given = dict(text_config=dict(model_type="llama", **text), vision_config=vision, **ids)
    more = dict(image_seq_len=400, chat_template=TILED_CHAT.replace("<img>", "<image>"))
    if kind == "idefics3":
        model: Any = t.Idefics3ForConditionalGeneration(t.Idefics3Config(**given))
        return model.eval(), t.Idefics3Processor(t.Idefics3ImageProcessor(**sizes), tokenizer, **more)
    model = t.SmolVLMForConditionalGeneration(t.SmolVLMConfig(**given))
    images, videos = t.SmolVLMImageProcessor(**sizes), t.SmolVLMVideoProcessor(size=dict(longest_edge=320))
    return model.eval(), t.SmolVLMProcessor(images, tokenizer, videos, **more)


def _any_resolution(kind: str, text: dict[str, Any], marks: dict[str, Any]) -> tuple[Any, Any]:
    """An image becomes an overview of 400 tokens and up to four tiles, put together and a newline behind each row."""
    import transformers as t

    from arr_coc.reference import vocabulary as v
    from arr_coc.reference.model import build_tokenizer

    text = {**text, "rope_parameters": dict(rope_type="default", rope_theta=1e4)}
    side, pins = dict(height=160, width=160), [[160, 320], [320, 160], [320, 320]]
    vision = dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=160,
        patch_size=8, initializer_range=0.15,
    )  # fmt: skip
    tokenizer = build_tokenizer()
    tokenizer._set_model_specific_special_tokens(dict(image_token="<img>", video_token="<video>"))
    given = dict(image_token_index=v.IMAGE, image_grid_pinpoints=pins, vision_feature_layer=-1, **marks)
    more = dict(chat_template=TILED_CHAT)
    if kind == "llava_next":
        vision["model_type"] = "clip_vision_model"
        model: Any = t.LlavaNextForConditionalGeneration(
            t.LlavaNextConfig(text_config=dict(model_type="llama", **text), vision_config=vision, **given)
        )
        images: Any = t.LlavaNextImageProcessor(
            size=dict(shortest_edge=160), crop_size=side, image_grid_pinpoints=pins
        )
        more |= dict(patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1)
        return model.eval(), t.LlavaNextProcessor(images, tokenizer, **more)
    vision |= dict(model_type="siglip_vision_model", vision_use_head=False)  # as the published models have it
    given |= dict(video_token_index=v.VIDEO, vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_4")
    model = t.LlavaOnevisionForConditionalGeneration(
        t.LlavaOnevisionConfig(text_config=dict(model_type="qwen2", **text), vision_config=vision, **given)
    )
    images = t.LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=pins)
    videos = t.LlavaOnevisionVideoProcessor(size=side)
    more |= dict(num_image_tokens=400, vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_4")
    return model.eval(), t.LlavaOnevisionProcessor(images, tokenizer, videos, **more)


def save_learned(folder: Path, model_type: str, seed: int = 0) -> Path:
    """Save a policy that has learned something, from made-up rewards, so that it explores."""
    from arr_coc import ArrCocConfig
    from arr_coc.attending.planners import make_planner
    from arr_coc.wrapping.saving import FORMAT, write_folder

    config = ArrCocConfig(policy="thompson", seed=seed).resolved()
    planner: Any = make_planner(config)
    policy, rng = planner.policy, np.random.default_rng(seed)
    costs = np.tile(np.array(config.budgets), (4, 1))
    for _ in range(80):
        contexts, covariates = rng.random((4, policy.dim)), rng.random(policy.covariates)
        decision = policy.select(contexts, covariates, costs, price=1e-5)
        policy.update(decision, float(rng.random() < 0.5 + 0.4 * decision.cost / costs[:, -1].sum()))
    record = {
        "library": "arr_coc", "format": FORMAT, "versions": {}, "base_model": "stand-in", "model_type": model_type,
        "rounds": policy.rounds, "planner": {"price": config.price}, "config": config.to_dict(), "results": {},
    }  # fmt: skip
    return write_folder(folder, policy, json.loads(json.dumps(record)))
