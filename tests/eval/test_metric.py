"""The metric as a user of `evaluate` gets it: from its folder, without a network."""

from pathlib import Path

import evaluate
import pytest

from arr_coc.learning.rewards import vqa_accuracy

FOLDER = Path(__file__).parents[2] / "eval" / "metrics" / "vqa_accuracy"


def test_loads_offline_by_path_and_agrees_with_the_function(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    metric = evaluate.load(str(FOLDER), cache_dir=str(tmp_path))
    predictions = ["Yes.", "two dogs", "red"]
    references = [["yes"] * 6 + ["no"] * 4, ["2 dogs"] * 3 + ["3"] * 7, ["blue"] * 10]
    found = metric.compute(predictions=predictions, references=references)
    want = [vqa_accuracy(p, r) for p, r in zip(predictions, references, strict=True)]
    assert found["scores"] == want == pytest.approx([1.0, 0.9, 0.0])
    assert found["vqa_accuracy"] == pytest.approx(sum(want) / 3)
    assert "Goyal" in metric.citation
