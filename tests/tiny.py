"""Tiny random-weight VLMs of the real transformers classes, built in memory, and prompts for them.

A prompt is a list of parts: a number stands for that many random words, a pair (height, width) for an image of that
many visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, IMAGE, VIDEO, START, END = 0, 1, 2, 10, 11, 12, 13
WORDS = range(20, 128)
VOCABULARY = 128
Part = int | tuple[int, int]


@dataclass
class Tiny:
    """A model with the function that makes inputs for it, and prompts that suit its images.

    ``make(prompts, left=True, seed=0)`` gives what a processor would: ids, mask, token types, pixels, grid.
    """

    name: str
    model: Any
    make: Callable[..., dict[str, torch.Tensor]]
    prompts: Sequence[Sequence[Part]] = ()


def text_config(**changes: Any) -> dict[str, Any]:
    values = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192,
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
    }  # fmt: skip
    return values | changes


def _rope(*sections: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}


_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


def _qwen2_vl() -> Any:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2}
    config = transformers.Qwen2VLConfig(
        text_config=text_config(rope_parameters=_rope(2, 3, 3)), vision_config=vision, **_TOKENS
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def _qwen2_5_vl() -> Any:
    vision = {
        "depth": 4, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
        "window_size": 32, "fullatt_block_indexes": [1, 3],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        text_config=text_config(rope_parameters=_rope(2, 3, 3)), vision_config=vision, **_TOKENS
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl() -> Any:
    vision = {
        "depth": 4, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "patch_size": 4,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 2],
    }  # fmt: skip
    text = text_config(head_dim=16, rope_parameters=_rope(4, 2, 2))
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **_TOKENS)
    return transformers.Qwen3VLForConditionalGeneration(config)


def _reference() -> Any:
    """As the shipped reference VLM: 8-pixel ViT patches, no merging, one frame."""
    vision = {
        "depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2,
        "spatial_merge_size": 1, "temporal_patch_size": 1,
    }  # fmt: skip
    config = transformers.Qwen2VLConfig(
        text_config=text_config(rope_parameters=_rope(2, 3, 3)), vision_config=vision, **_TOKENS
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


MODELS = {"qwen2_vl": _qwen2_vl, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl, "reference": _reference}


def build(name: str, seed: int = 0) -> Tiny:
    """A fresh model of a family."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name]()
    _spread(model, seed)
    model.eval()
    generation = model.generation_config
    generation.pad_token_id, generation.bos_token_id, generation.eos_token_id = PAD, BOS, None
    generation.suppress_tokens = [IMAGE, VIDEO, START, END]  # random weights would say them
    vision = model.config.vision_config
    sizes = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size

    def make(prompts: Sequence[Sequence[Part]], left: bool = True, seed: int = 0) -> dict[str, torch.Tensor]:
        return grid_inputs(prompts, *sizes, left=left, seed=seed)

    return Tiny(name, model, make)


def _spread(model: Any, seed: int) -> None:
    """Weights of unit gain: fresh initialisations are so small that every token looks alike and tests see nothing."""
    generator = torch.Generator().manual_seed(seed)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "embed_tokens" in name:
                weight.copy_(noise * (0.125 if tied else 1.0))
            elif weight.ndim >= 2:
                weight.copy_(noise * weight[0].numel() ** -0.5)
            elif "bias" in name:
                weight.copy_(noise * 0.02)


def sequences(prompts: Sequence[Sequence[Part]], left: bool, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask. The words of a prompt depend on the prompt alone, so a batch equals its samples."""
    rows = []
    for number, prompt in enumerate(prompts):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        row: list[int] = []
        for part in prompt:
            if isinstance(part, int):
                row += torch.randint(WORDS.start, WORDS.stop, (part,), generator=generator).tolist()
            else:
                row += [START, *[IMAGE] * (part[0] * part[1]), END]
        rows.append(row)
    length = max(map(len, rows))
    ids, mask = torch.full((len(rows), length), PAD), torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        span = slice(length - len(row), length) if left else slice(0, len(row))
        ids[number, span], mask[number, span] = torch.tensor(row), 1
    return ids, mask


def grid_inputs(
    prompts: Sequence[Sequence[Part]], pixels: int, merge: int, frames: int, left: bool = True, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Inputs of the Qwen layout; the temporal frames of an image repeat it."""
    ids, mask = sequences(prompts, left, seed)
    inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == IMAGE).int()}
    rows, grid = [], []
    for number, prompt in enumerate(prompts):
        for place, part in enumerate(prompt):
            if isinstance(part, tuple):
                generator = torch.Generator().manual_seed(1000 * seed + 100 * number + place)
                count = part[0] * part[1] * merge**2
                frame = torch.randn(count, 3, 1, pixels * pixels, generator=generator)
                rows.append(frame.expand(-1, -1, frames, -1).reshape(count, -1))
                grid.append([1, part[0] * merge, part[1] * merge])
    if rows:
        inputs |= {"pixel_values": torch.cat(rows), "image_grid_thw": torch.tensor(grid)}
    return inputs


def one(inputs: dict[str, torch.Tensor], sample: int) -> dict[str, torch.Tensor]:
    """One sample of a batch of the Qwen layout, without its padding."""
    kept = inputs["attention_mask"][sample].bool()
    single = {
        key: value[sample : sample + 1, kept]
        for key, value in inputs.items()
        if value.shape == inputs["input_ids"].shape
    }
    counts = (inputs["input_ids"] == IMAGE).sum(1).tolist()
    if "image_grid_thw" in inputs and counts[sample]:
        grid = inputs["image_grid_thw"]
        tokens = grid.prod(-1).tolist()
        ratio = sum(tokens) // sum(counts)
        ends = torch.tensor(tokens).cumsum(0)
        start, stop = ratio * sum(counts[:sample]), ratio * sum(counts[: sample + 1])
        chosen = (ends > start) & (ends <= stop)
        single |= {"image_grid_thw": grid[chosen], "pixel_values": inputs["pixel_values"][start:stop]}
    return single


def tokenizer() -> PreTrainedTokenizerFast:
    """Words ``w20`` ... ``w127`` and the special tokens of the tiny models."""
    vocabulary = {
        "<pad>": PAD,
        "<bos>": BOS,
        "<eos>": EOS,
        "<img>": IMAGE,
        "<video>": VIDEO,
        "<vs>": START,
        "<ve>": END,
    }
    vocabulary |= {f"w{i}": i for i in WORDS}
    vocabulary |= {f"<unused{i}>": i for i in range(VOCABULARY) if i not in vocabulary.values()}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unused3>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unused3>",
        extra_special_tokens=["<img>", "<video>", "<vs>", "<ve>"], padding_side="left",
    )  # fmt: skip
