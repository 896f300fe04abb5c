"""Doubt between candidates: spellings of one answer are one, answers stay apart."""

import pytest
import torch

from arr_coc.knowing.doubt import Doubt

TOKENS = ["<s>", "yes", "Yes", "▁yes", "ĠYes", "no", "Ġno", "7", "", None]


class Tokenizer:
    def __len__(self):
        return len(TOKENS)

    def convert_ids_to_tokens(self, ids):
        return [TOKENS[i] for i in ids]


def test_spellings_are_one_candidate_and_answers_are_not():
    doubt = Doubt(Tokenizer())
    assert doubt.groups(12).tolist() == [0, 1, 1, 1, 1, 5, 5, 7, 8, 9, 10, 11]
    chances = torch.tensor([0.0, 0.2, 0.25, 0.25, 0.2, 0.04, 0.02, 0.04, 0.0, 0.0, 0.0, 0.0])
    u, e = doubt(chances.log())
    assert u == pytest.approx(1 - (0.9 - 0.06), abs=1e-6) and e == pytest.approx(0.1, abs=1e-6)
    assert Doubt()(chances.log())[0] == pytest.approx(1.0, abs=1e-6)  # token by token it looks like a toss-up
    even = torch.tensor([0.0, 0.25, 0.25, 0.0, 0.0, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert doubt(even.log())[0] == pytest.approx(1.0, abs=1e-6)


def test_the_reference_model_spells_every_answer_one_way(reference):
    _, processor = reference
    doubt, plain = Doubt(processor.tokenizer), Doubt()
    size = len(processor.tokenizer)
    assert doubt.groups(size).tolist() == list(range(size))
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    assert doubt(logits) == plain(logits)
