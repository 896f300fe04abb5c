"""The reference VLM's architecture and tokenizer: a stock Qwen2-VL configuration, no modelling code of our own."""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from . import vocabulary as V

WIDTH, HEADS, TOWER_DEPTH, LM_DEPTH = 128, 4, 3, 3
VIT_PATCH = 8
PIXEL_MEAN, PIXEL_STD = 0.6, 0.3


def build_config() -> Qwen2VLConfig:
    """Qwen2-VL with an 8-pixel patch, no merging, and three layers of width 128 on either side."""
    config = Qwen2VLConfig(
        text_config=dict(
            vocab_size=len(V.VOCABULARY), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LM_DEPTH,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=8192,
            rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[4, 6, 6]),
            bos_token_id=V.BOS, eos_token_id=V.EOS, pad_token_id=V.PAD, tie_word_embeddings=True,
            initializer_range=0.05,
        ),
        vision_config=dict(
            depth=TOWER_DEPTH, embed_dim=WIDTH, hidden_size=WIDTH, num_heads=HEADS, mlp_ratio=3, patch_size=VIT_PATCH,
            spatial_merge_size=1, temporal_patch_size=1, rope_parameters=dict(rope_type="axial", rope_theta=100.0),
            initializer_range=0.05,
        ),
        image_token_id=V.IMAGE, video_token_id=V.VIDEO, vision_start_token_id=V.VISION_START,
        vision_end_token_id=V.VISION_END, tie_word_embeddings=True,
        bos_token_id=V.BOS, eos_token_id=V.EOS, pad_token_id=V.PAD,
    )  # fmt: skip
    config.arr_coc = {"layers": [-2, -1], "heads": "sharp"}  # trained to ground there, see `arr_coc.knowing.reading`
    return config


def build_model(seed: int) -> Qwen2VLForConditionalGeneration:
    """A fresh model whose word embeddings are the codes of the vocabulary. The caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(build_config())
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(V.initial_embeddings())
    model.tie_weights()
    start_as_reader(model, seed)
    generation = model.generation_config
    generation.bos_token_id, generation.eos_token_id, generation.pad_token_id = V.BOS, V.EOS, V.PAD
    generation.max_new_tokens, generation.do_sample = 4, False
    return model


@torch.no_grad()
def start_as_reader(model: Qwen2VLForConditionalGeneration, seed: int) -> None:
    """Let the language model start as what it has to become: heads that match like with like and copy what they match.

    Word embeddings and vision tokens share one space of codes, so equal query and key projections make a head attend
    to what resembles it, and an output projection that is the transpose of an orthogonal value projection copies what
    it attends to. From a random start the same routing took several times as many steps.
    """
    generator = torch.Generator().manual_seed(seed)
    for depth, layer in enumerate(model.model.language_model.layers):
        attention = layer.self_attn
        copy = 0.45 * torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
        attention.v_proj.weight.copy_(copy)
        attention.o_proj.weight.copy_(copy.T)
        layer.mlp.down_proj.weight.mul_(0.2)
        if depth:  # the first layer gathers words by their place, not by resemblance
            attention.q_proj.weight.mul_(1.5)
            attention.k_proj.weight.copy_(attention.q_proj.weight)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-cased whole words and punctuation marks; unknown words become ``<unk>``."""
    backend = Tokenizer(WordLevel(V.TOKEN, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=["<img>", "<vs>", "<ve>", "<video>"], padding_side="left",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
