"""What learning wins back of what broken knowing has cost: by hand on a few questions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from eval.cli import app
from eval.reporting.won_back import markdown, won_back

SHARES = {
    "heuristic, clean": 0.25,
    "heuristic, sink 97": 0.2,
    "learned, sink 97": 0.4,
    "learned, sink 97, after 8": 0.2,
}
RIGHT = {"heuristic, clean": 9, "heuristic, sink 97": 4, "learned, sink 97": 8, "learned, sink 97, after 8": 4}


def run(folder, number, labels=tuple(SHARES)):
    """Ten questions; each method is right in the first so many of them."""
    folder.mkdir()
    records = [
        {"method": label, "question_id": f"{q}", "image_id": f"{q}", "score": float(q < RIGHT[label]),
         "tokens": int(1000 * SHARES[label]), "full_tokens": 1000}
        for label in labels for q in range(10)
    ]  # fmt: skip
    (folder / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "metrics.json").write_text(json.dumps({"methods": dict.fromkeys(labels, {})}))
    methods = [{"method": "learner", "label": "learned, sink 97", "episodes": 16}]
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": {"price": 0.1, "methods": methods, "seed": number}}))
    return folder


def test_shares_and_differences_are_those_worked_out_by_hand(tmp_path):
    rows, lost = won_back([run(tmp_path / "a", 0), run(tmp_path / "b", 1)])
    assert {r.questions for r in rows} == {20} and [(r.who, r.broken, r.after) for r in rows] == [
        ("heuristic", "clean", 0), ("heuristic", "sink 97", 0), ("learned", "sink 97", 8), ("learned", "sink 97", 16)
    ]  # fmt: skip
    gap = (0.9 - 0.025) - (0.4 - 0.02)
    assert lost["sink 97"].value == pytest.approx(-gap)
    early, late = rows[2:]
    assert early.share[0] == pytest.approx(0.0) and early.utility.value == pytest.approx(0.0)
    gained = (0.8 - 0.04) - (0.4 - 0.02)
    assert late.utility.value == pytest.approx(gained) and late.share[0] == pytest.approx(gained / gap)
    assert late.share[1] < gained / gap < late.share[2] <= 1.0
    assert late.scores.value == pytest.approx(0.4) and late.spent.value == pytest.approx(0.2)
    assert (late.accuracy, late.tokens) == pytest.approx((0.8, 0.4))


def test_the_command_writes_a_table_and_a_picture(tmp_path):
    folder, out = run(tmp_path / "a", 0), tmp_path / "out" / "won.md"
    found = CliRunner().invoke(app, ["won-back", str(folder), "-o", str(out)])
    assert found.exit_code == 0 and "lost -49.5" in out.read_text() and "](won.png)" in out.read_text()
    assert out.with_suffix(".png").stat().st_size > 5000
    assert "| sink 97 | learned | 16 | 10 | 80.0 | 40.0% |" in markdown([folder])


def test_runs_without_a_clean_heuristic_are_refused(tmp_path):
    with pytest.raises(ValueError, match="hold no 'heuristic, clean'"):
        won_back([run(tmp_path / "a", 0, tuple(SHARES)[1:])])


def test_what_is_lost_in_no_question_has_no_share(tmp_path, monkeypatch):
    monkeypatch.setitem(RIGHT, "heuristic, sink 97", 9)
    assert all(row.share is None for row in won_back([run(tmp_path / "a", 0)])[0])
    assert np.isfinite(won_back([tmp_path / "a"])[0][2].utility.value)


def test_a_run_that_lacks_a_method_is_left_out_of_its_row_alone(tmp_path):
    rows, _ = won_back([run(tmp_path / "a", 0), run(tmp_path / "b", 1, tuple(SHARES)[:2])])
    assert [(r.who, r.questions) for r in rows] == [
        ("heuristic", 20),
        ("heuristic", 20),
        ("learned", 10),
        ("learned", 10),
    ]
