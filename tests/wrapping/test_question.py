"""Reading the question from prompts as the families' templates write them."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from arr_coc.wrapping.question import find_question

IMAGE = "<img>"
CHATML = "<|im_start|>system\nYou are kind.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
TEXTS = {
    "plain": ("<s> top left <v> <img> <img> </v> top right <v> <img> </v> what word ?", "what word ?"),
    "words before the image": ("<s> What is this? <img> <img>", "What is this?"),
    "chatml": (CHATML.format("<v><img><img></v>What is this?"), "What is this?"),
    "chatml, image last": (CHATML.format("What is this?<v><img></v>"), "What is this?"),
    "chatml, words around": (CHATML.format("Compare <img> with <img>."), "Compare with ."),
    "chatml, two turns": (
        CHATML.format("<img>What is this?")
        + "A user: guide.<|im_end|>\n<|im_start|>user\nIs it red?<|im_end|>\n<|im_start|>assistant\n",
        "Is it red?",
    ),
    "gemma": ("<s><start>user\n<img><img>\nWhat is this?<end>\n<start>model\n", "What is this?"),
    "llama 3": ("<s><h>user</h>\n\n<img>What is this?<e><h>assistant</h>\n\n", "What is this?"),
    "vicuna": ("<s> USER: <img><img>\nWhat is this? ASSISTANT:", "What is this?"),
    "vicuna, two turns": ("<s> USER: <img>\nHello ASSISTANT: Hi</s>USER: What is this? ASSISTANT:", "What is this?"),
    "mistral": ("<s>[INST]What is this?<img><img>[/INST]", "What is this?"),
    "nothing asked": (CHATML.format("<img><img>"), ""),
    "nothing at all": ("<img>", ""),
    "the word model in a question": ("<s> <img> model or user ?", "model or user ?"),
}
SPECIAL = [
    "<s>",
    "</s>",
    "<v>",
    "</v>",
    IMAGE,
    "<|im_start|>",
    "<|im_end|>",
    "<start>",
    "<end>",
    "<h>",
    "</h>",
    "<e>",
    "[INST]",
    "[/INST]",
]


@pytest.fixture(scope="module")
def tokenizer():
    """Splits words, spaces, line breaks and marks, and decodes to the very text."""
    pieces = Regex(r"\n|\s|\w+|[^\w\s]")
    split = pre_tokenizers.Split(pieces, behavior="isolated")
    words = {piece for text, _ in TEXTS.values() for piece, _ in split.pre_tokenize_str(text)}
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(sorted(words | {"<unk>"}))}, unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = split, decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    return made


@pytest.mark.parametrize("style", TEXTS)
def test_the_question_is_the_last_words_of_the_user(style, tokenizer):
    text, want = TEXTS[style]
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    words, found = find_question(ids, image, set(tokenizer.all_special_ids), tokenizer)
    assert " ".join(words.split()) == want
    assert " ".join(tokenizer.decode(found).split()) == want
    assert image not in found.tolist() and not set(found.tolist()) & set(tokenizer.all_special_ids)


def test_without_a_tokenizer_ids_still_come_back():
    ids = torch.tensor([1, 30, 10, 10, 31, 32, 2])
    words, found = find_question(ids, 10, {1, 2}, None)
    assert words == "" and found.tolist() == [31, 32]
    assert find_question(torch.tensor([1, 10, 2]), 10, {1, 2}, None)[1].tolist() == []
