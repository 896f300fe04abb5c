"""What the scorers know, counted on the reference world."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import arr_coc
from eval.knowing import _share, markdown, study


def test_the_study_finds_the_evidence_and_the_question_moves_it(reference, tmp_path):
    model, processor = reference
    samples = list(arr_coc.reference.generate(14, seed=11, split="learn"))
    Image.new("RGB", (90, 60), (200, 30, 30)).save(tmp_path / "photo.png")
    with arr_coc.wrap(model, processor, arr_coc.ArrCocConfig(policy="heuristic")) as arr:
        found = study(arr, samples, tmp_path / "out", [tmp_path / "photo.png"], progress=False)
    top = found["top_patch"]["participatory"]["all"]
    assert top["hit"]["value"] > 0.85 > 0.5 > top["swapped"]["value"]
    assert 1 / 9 <= top["chance"] < 0.5
    assert found["detail"]["rank"][0]["value"] > 0.3  # finer print loses more
    assert found["doubt"]["all"]["u"] > 0.8
    assert json.loads((tmp_path / "out" / "knowing.json").read_text()) == found
    assert (tmp_path / "out" / "knowing.md").read_text() == markdown(found)
    with Image.open(tmp_path / "out" / "maps.png") as page:
        assert page.width > 4 * 360 and page.height > 4 * 200  # four maps of four pictures
    with arr_coc.wrap(model, processor, arr_coc.ArrCocConfig(policy="uniform", budget=64)) as arr:
        with pytest.raises(ValueError, match="looks at nothing"):
            study(arr, samples, tmp_path)
        with pytest.raises(ValueError, match="give at least two"):
            study(arr, samples[:1], tmp_path)


def test_shares_have_wilson_intervals():
    share = _share([True] * 8 + [False] * 2)
    assert share == pytest.approx({"value": 0.8, "low": 0.4902, "high": 0.9433}, abs=1e-4)
