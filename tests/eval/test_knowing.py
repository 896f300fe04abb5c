"""What the scorers know, counted on the reference world."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

import arr_coc
from eval.studies.operations import operations, prefill_operations
from eval.studies.scorers import _share, markdown, study


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
    cost = found["cost"]
    assert 0 < cost["operations"] < 0.01 * cost["operations_7b"]
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


def test_operations_are_counted_by_hand():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert (
        operations(lambda: (a @ b).relu().T) == 2 * 3 * 4 * 5 + 15 + 15
    )  # the product, its elements, those of relu; a view is free
    assert operations(lambda: a.view(4, 3).sum()) == 1
    # 6.5 G parameters of layers, 0.68 G of the tower; attention by hand.
    tokens = 3600
    language = 2 * 6_525_618_176 * tokens + 2 * 28 * 3584 * tokens**2
    assert language + 2 * 0.6e9 * 4 * tokens < prefill_operations(tokens) < language + 2 * 0.7e9 * 4 * tokens
