"""The pages model as it lies in a source checkout."""

from __future__ import annotations

import json

import pytest

from arr_coc import reference
from arr_coc.asking.ask import answers, prepare
from arr_coc.reference.training.evaluate import fingerprint

pytestmark = pytest.mark.skipif(
    not (reference.path("pages") / "model.safetensors").is_file(), reason="the weights are not in the wheel"
)


def test_it_loads_and_answers_in_words_of_its_tokenizer():
    model, processor = reference.load("pages")
    (sample,) = reference.generate(1, world="pages", kinds=["present"], grid=(1, 2))
    inputs = prepare(processor, [sample["image"]], [sample["question"]])
    sequences = model.generate(**inputs, do_sample=False)
    assert answers(processor, inputs["input_ids"], sequences)[0] in ("yes", "no")


def test_the_card_is_of_these_weights():
    model, _ = reference.load("pages")
    report = json.loads((reference.path("pages") / "accuracy.json").read_text())
    assert report["weights"] == fingerprint(model)
    assert all(table["weights"] == report["weights"] for table in report["tables"])
    card = (reference.path("pages") / "README.md").read_text()
    assert "supervision of attention" in card
    finished = "questions" in {stage["stage"] for stage in report["stages"]}
    assert finished or "early checkpoint" in card
