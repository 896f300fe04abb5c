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
    # "7" has no say between yes and no, which share the other .96.
    assert u == pytest.approx(1 - (0.9 - 0.06) / 0.96, abs=1e-6) and e == pytest.approx(0.06 / 0.96, abs=1e-6)
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


class Letters:
    tokens = ["the", "A", "Ġa", "B", "c", "Yes", "no", "D"]

    def __len__(self):
        return len(self.tokens)

    def convert_ids_to_tokens(self, ids):
        return [self.tokens[i] for i in ids]


def test_listed_options_are_weighed_against_each_other_alone():
    doubt, asked = Doubt(Letters()), "What is it? A. a dog B. a cat (C) a cow"
    chances = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.0, 0.05, 0.0, 0.05])
    u, e = doubt(chances.log(), asked)
    assert u == pytest.approx(1 - (0.75 - 0.25), abs=1e-6) and e == pytest.approx(0.25, abs=1e-6)
    for other in ("what is it ?", "what is A. Smith's dog ?", "is it B. or C. or so ?"):
        assert doubt(chances.log(), other) == pytest.approx((1 - (0.5 - 0.3), 0.5), abs=1e-6)
    seldom = torch.tensor([0.95, 0.03, 0.0, 0.01, 0.01, 0.0, 0.0, 0.0])
    assert doubt(seldom.log(), asked)[0] == pytest.approx(1 - (0.95 - 0.03), abs=1e-6)  # it says something else


def test_yes_and_no_are_weighed_against_each_other_where_they_are_the_likeliest():
    doubt = Doubt(Letters())
    chances = torch.tensor([0.1, 0.1, 0.0, 0.0, 0.0, 0.6, 0.2, 0.0])
    assert doubt(chances.log(), "is it ?") == pytest.approx((0.5, 0.25), abs=1e-6)
    chances = torch.tensor([0.3, 0.0, 0.0, 0.0, 0.0, 0.6, 0.1, 0.0])
    assert doubt(chances.log(), "is it ?") == pytest.approx((0.7, 0.4), abs=1e-6)
