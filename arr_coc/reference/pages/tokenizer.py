"""The tokenizer: byte-level BPE as GPT-2's and Qwen's, every digit a token, trained on the wording of this world."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from .lexicon import COLORS, TITLES, WORDS, number
from .questions import WORDINGS

SPECIAL = {
    "pad": "<|endoftext|>", "bos": "<|begin|>", "user": "<|user|>", "assistant": "<|assistant|>", "eos": "<|end|>",
    "vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>", "image": "<|image_pad|>",
    "video": "<|video_pad|>",
}  # fmt: skip
ID = {name: i for i, name in enumerate(SPECIAL)}
PATTERN = r" ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s"
CHOSEN_FROM = ("field", "cell", "color", "says", "on", "title", "most", "present", "larger", "fill", "read")
"""Kinds whose wordings the pieces are chosen from; later kinds are spelled in the pieces that there are, so that a
trained model's embeddings stay its own."""
SIZE = 768
"""Rows of the embedding table; the pieces are a few fewer."""


def corpus() -> Iterator[str]:
    """Sentences of every wording and word, with which the pieces are chosen."""
    rng = random.Random("tokenizer")
    for word in (*WORDS, *COLORS, *TITLES, "yes", "no", *map(str, range(10))):
        yield f" {word}\n" * 40
    for kind in CHOSEN_FROM:
        for wording in (*WORDINGS[kind]["train"], *WORDINGS[kind]["eval"]):
            yield f" {wording.replace('{0}', '').replace('{1}', '')}\n" * 40
    for _ in range(300):
        yield f" {number(rng, rng.choice(('price', 'count', 'percent', 'date', 'time')))}\n"


def build_backend() -> Tokenizer:
    """A byte-level BPE of at most ``SIZE`` pieces, lower-cased."""
    backend = Tokenizer(BPE())
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL.values()]
    backend.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=SIZE, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )  # fmt: skip
    return backend


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The backend with the names of its special tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=build_backend(), bos_token=SPECIAL["bos"], eos_token=SPECIAL["eos"],
        pad_token=SPECIAL["pad"], padding_side="left", clean_up_tokenization_spaces=False,
        model_specific_special_tokens={"image_token": SPECIAL["image"], "video_token": SPECIAL["video"]},
    )  # fmt: skip
