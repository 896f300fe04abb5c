"""Judging budgets on one's own questions, from an installed package: the numbers are those of the records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import arr_coc
from arr_coc.cli import app
from arr_coc.learning.statistics import Difference, verdict


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Six questions on three pictures, as a person would write them down."""
    lines = []
    for number, sample in enumerate(arr_coc.reference.generate(6, seed=3, grid=(1, 2), kinds=["color", "number"])):
        if number % 2 == 0:
            sample["image"].save(tmp_path / f"{number}.png")
            lines.append({"image": f"{number}.png", "question": sample["question"], "answers": sample["answers"]})
            lines.append({**lines[-1], "answers": None, "answer": "no such thing"})
            lines[-1].pop("answers")
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "own.jsonl"


@pytest.fixture
def arr(reference: tuple[Any, Any]) -> Any:
    with arr_coc.ArrCoc.from_pretrained(arr_coc.reference.policy_path(), *reference) as arr:
        yield arr


def test_methods_answer_the_same_questions_and_sums_are_the_records(arr, own) -> None:
    planner = arr.planner
    found = arr_coc.evaluate(arr, own, ["full", "uniform-64", "heuristic"], max_new_tokens=4, progress=False)
    assert (found.questions, found.images) == (6, 3)
    assert [method.name for method in found.methods] == ["wrapped", "full", "uniform-64", "heuristic"]
    for method in found.methods:
        rows = [record for record in found.records if record["method"] == method.name]
        assert sorted({row["question_id"] for row in rows}) == [str(i) for i in range(6)] and len(rows) == 6
        assert method.score.value == pytest.approx(np.mean([row["score"] for row in rows]))
        assert method.tokens == pytest.approx(np.mean([row["tokens"] for row in rows]))
    ours, full, floor, _ = found.methods
    assert full.share == 1.0 and floor.tokens == 128 and floor.share == pytest.approx(0.16)
    assert ours.difference is None and full.difference.value == pytest.approx(ours.score.value - full.score.value)
    assert arr.planner is planner and arr.attached
    for text in ("wrapped", "uniform-64", "6 questions on 3 images", found.verdict):
        assert text in str(found)
    json.dumps(found.to_dict())


def test_full_is_the_untouched_model(arr, own, reference) -> None:
    from arr_coc.asking.ask import answers, prepare
    from arr_coc.learning.evaluate import read_rows

    attached = []
    arr_coc.evaluate(arr, own, ["full"], reward=lambda *_: attached.append(arr.attached) or 1.0, progress=False)
    assert sorted(attached) == 6 * [False] + 6 * [True]
    found = arr_coc.evaluate(arr, own, ["full"], max_new_tokens=4, progress=False)
    said = [record["answer"] for record in found.records if record["method"] == "full"]
    arr.detach()
    model, processor = reference
    for text, row in zip(said, read_rows(own), strict=True):
        inputs = prepare(processor, [row["image"]], [row["question"]])
        output = model.generate(**inputs, do_sample=False, max_new_tokens=4)
        assert answers(processor, inputs["input_ids"], output) == [text]
    arr.attach()


@pytest.mark.parametrize(
    ("change", "needles"),
    [
        ({"baselines": ["uniform-65"]}, ["'uniform-65'", "uniform-64"]),
        ({"baselines": ["huristic"]}, ["'huristic'", "'heuristic'"]),
        ({"baselines": []}, ["at least one"]),
        ({"reward": "vqa"}, ["'vqa'", "vqa_accuracy"]),
        ({"rows": []}, ["empty"]),
        ({"rows": [{"image": None}]}, ["question"]),
        ({"rows": "nowhere.jsonl"}, ["nowhere.jsonl"]),
        ({"reward": lambda answer, row: float("nan")}, ["nan", "finite"]),
    ],
)
def test_bad_input_is_named_and_the_model_stays_wrapped(arr, own, change, needles) -> None:
    arguments = {"rows": own, "baselines": ["full"], "max_new_tokens": 1, "progress": False} | change
    with pytest.raises((ValueError, TypeError)) as error:
        arr_coc.evaluate(arr, **arguments)
    assert all(needle in str(error.value) for needle in needles), error.value
    assert arr.attached


def test_the_command(own, reference, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(arr_coc.reference, "load", lambda *_, **__: reference)
    out = tmp_path / "new" / "answers.jsonl"
    shown = CliRunner().invoke(app, ["evaluate", str(own), "--max-new-tokens", "4", "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "6 questions on 3 images" in shown.stdout and len(out.read_text().splitlines()) == 18
    shown = CliRunner().invoke(app, ["evaluate", str(own), "--max-new-tokens", "4", "--baselines", "full", "--json"])
    assert json.loads(shown.stdout)["questions"] == 6


def found(value: float, low: float, high: float, wins: int = 5, losses: int = 5) -> Difference:
    return Difference(value, low, high, 0.5, 0.5, wins, losses)


def test_the_verdict_says_no_more_than_the_interval() -> None:
    assert verdict(found(0.0, -0.01, 0.012), 1000, 0.25).startswith("as accurate as full detail at 25 % of its tokens")
    assert verdict(found(0.0, -0.05, 0.012), 1000, 0.25).startswith("not told apart")
    assert verdict(found(0.03, 0.01, 0.05), 1000, 0.25).startswith("more accurate")
    assert verdict(found(-0.03, -0.05, -0.01), 1000, 0.25).startswith("less accurate")
    # Six questions without any difference show nothing: the rule of three keeps 3/6 open.
    assert verdict(found(0.0, 0.0, 0.0, 0, 0), 6, 0.25).startswith("not told apart")
    assert "-50.0 to +50.0" in verdict(found(0.0, 0.0, 0.0, 0, 0), 6, 0.25)
    assert verdict(found(0.0, 0.0, 0.0, 0, 0), 1000, 0.25).startswith("as accurate")
