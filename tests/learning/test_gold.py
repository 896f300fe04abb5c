"""The probability of the right answer: what generation itself would say, token by token."""

from __future__ import annotations

import pytest
import torch

import arr_coc
from arr_coc.asking.ask import answers, prepare
from arr_coc.config import ArrCocConfig
from arr_coc.learning.agreement import agreement
from arr_coc.learning.gold import gold_answer, gold_probability
from arr_coc.reference import generate


def questions(n):
    return list(generate(n, seed=4, split="learn", grid=(2, 2)))


def by_generation(arr, inputs, row, gold, budgets):
    """The product of the probabilities that generate gives to the gold tokens, each after those before it."""
    tokens = arr.processor.tokenizer(gold, add_special_tokens=False)["input_ids"]
    sample = questions(4)[row]
    one = dict(prepare(arr.processor, [sample["image"]], [sample["question"]]))
    probability = 1.0
    for token in tokens:
        out = arr.model.generate(
            **one, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True,
            allocation=[budgets],
        )  # fmt: skip
        probability *= float(out.logits[0][0].softmax(-1)[token])
        for name, value in list(one.items()):
            if isinstance(value, torch.Tensor) and value.shape == one["input_ids"].shape and name != "input_ids":
                one[name] = torch.cat([value, torch.full((1, 1), int(name == "attention_mask"))], 1)
        one["input_ids"] = torch.cat([one["input_ids"], torch.tensor([[token]])], 1)
    return probability


def test_it_is_what_generation_gives_each_token(reference):
    model, processor = reference
    data = questions(4)
    inputs = prepare(processor, [s["image"] for s in data], [s["question"] for s in data])
    budgets = [[64, 400, 128, 64], [256] * 4, [400, 64, 64, 64], [64] * 4]
    golds = [gold_answer(data[0]), "yes no", gold_answer(data[2]), "red top left"]  # of unequal lengths
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="uniform", budget=64)) as arr:
        found = gold_probability(arr, inputs, golds, budgets)
        wanted = [by_generation(arr, inputs, row, golds[row], budgets[row]) for row in range(4)]
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-7)
    assert max(found) > 0.01


def test_a_policy_learns_from_it(reference, tmp_path):
    model, processor = reference
    with arr_coc.wrap(model, processor, ArrCocConfig(seed=1)) as arr:
        log = arr_coc.learn(arr, questions(8), "gold_probability", 8, batch_size=4, out=tmp_path, progress=False)
        assert arr.planner.policy.rounds == 8
    assert all(0 <= record["reward"] <= 1 for record in log)
    assert any(0.001 < record["reward"] < 0.999 for record in log)  # not a bit
    for record, sample in zip(log, questions(8), strict=True):
        if record["reward"] > 0.5 and len(sample["answers"][0].split()) == 1:
            assert record["prediction"] == sample["answers"][0]  # what has more than half is what greedy decoding says


def test_the_gold_answer_is_the_commonest():
    assert gold_answer({"answers": ["Two", "2", "three"]}) == "Two"
    assert gold_answer({"answers": [{"answer": "red"}, {"answer": "blue"}, {"answer": "blue"}]}) == "blue"
    for given in ([], [" "], None):
        with pytest.raises(ValueError, match="has no answers"):
            gold_answer({"question": "what ?", "answers": given})


def test_agreement_is_with_the_answer_at_full_detail(reference, tmp_path):
    model, processor = reference
    data = questions(4)
    inputs = prepare(processor, [s["image"] for s in data], [s["question"] for s in data])
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="uniform", budget=64)) as arr:
        floor = answers(processor, inputs["input_ids"], model.generate(**inputs, do_sample=False))
        remembered = arr.last
        found = agreement(arr, inputs, floor, [a.budgets for a in arr.last])
        assert arr.last is remembered
        assert agreement(arr, inputs, ["whatever"] * 4, [[400] * 4] * 4) == [1.0] * 4
    full = answers(processor, inputs["input_ids"], model.generate(**inputs, do_sample=False))
    assert found == [float(a == b) for a, b in zip(floor, full, strict=True)] and 0 < sum(found) < 4
    unlabelled = [{k: s[k] for k in ("image", "question")} for s in questions(8)]
    with arr_coc.wrap(model, processor) as arr:
        log = arr_coc.learn(arr, unlabelled, "agreement", 8, batch_size=4, progress=False)
    assert {record["reward"] for record in log} <= {0.0, 1.0} and arr.planner.policy.rounds == 8
