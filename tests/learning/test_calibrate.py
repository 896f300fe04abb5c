"""Calibration finds the layer that grounds, takes a sink off, and says what doubt is worth; without a label."""

import json

import numpy as np
import pytest
import torch

import arr_coc
from allocator.locks import FolderLock
from arr_coc import ArrCocConfig
from arr_coc.knowing import make_scorer
from arr_coc.knowing.calibration import Calibration
from arr_coc.learning.calibrate import fit
from arr_coc.reference import generate
from tests.knowing.planted import blank, scene

DEPTH, GOOD = 6, 4


def planted(n=120, seed=0, sink=0.0, own="noise", doubt="good"):
    """Questions on four patches: layer 4 looks at the needed one, the others anywhere; one cell draws all."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(n):
        evidence, changed = int(rng.integers(4)), bool(rng.random() < 0.5)
        cells = rng.random((4, DEPTH, 64)) / 256
        cells[evidence, GOOD, 11] += 0.6
        cells[0, :, 3] += sink
        cells = cells / cells.sum((0, 2), keepdims=True)
        u = np.clip((0.7 if changed else 0.1) + rng.normal() * 0.1, 0, 1) if doubt == "good" else rng.random()
        scores = cells[:, GOOD].sum(-1) if own == "good" else rng.random(4)
        needed = {str(p): p == evidence for p in range(4)} if changed else {}
        rows.append({"cells": cells.astype(np.float32), "own": scores.tolist(), "doubt": float(u), "changed": changed,
                     "needed": needed, "picture": f"p{i // 2}"})  # fmt: skip
    return rows


def test_it_finds_the_layer_that_grounds_and_adopts_it_only_for_a_gain():
    found = fit(planted(), DEPTH)
    assert GOOD in found["reading"]["layers"]
    assert found["reading"]["weights"][found["reading"]["layers"].index(GOOD)] > 0.8
    assert found["report"]["hits of the first patch"] > 0.95 and found["relevance_floor"] < 0.05
    assert found["report"]["readings"]["lower bound"] > 0
    kept = fit(planted(own="good"), DEPTH)
    assert kept["reading"] == {} and kept["report"]["hits of the first patch"] > 0.95


def test_a_sink_is_taken_off_by_its_place():
    found = fit(planted(sink=5.0), DEPTH)
    prior = np.array(found["reading"]["prior"])
    assert prior.shape == (3, 64) and prior[0].argmax() == 3 and prior[0, 3] > 20
    assert found["report"]["hits of the first patch"] > 0.9
    # The scorer then does what the fit did.
    attention = torch.full((DEPTH, 2, 256), 1e-3)
    attention[:, :, 3] = 5.0
    attention[GOOD, :, 64 * 2 + 11] = 0.6
    seen = scene([blank()] * 4, attention=attention)
    assert make_scorer({"name": "participatory", **found["reading"]})(seen).argmax() == 2
    plain = {k: v for k, v in found["reading"].items() if k != "prior"}
    assert make_scorer({"name": "participatory", **plain})(seen).argmax() == 0


def test_relevance_that_is_no_better_than_chance_is_not_trusted():
    rows = planted(own="noise")
    for row in rows:
        row["cells"] = np.random.default_rng(1).random((4, DEPTH, 64)).astype(np.float32) / 256
    found = fit(rows, DEPTH)
    assert found["reading"] == {} and found["relevance_floor"] > 0.5
    assert found["report"]["hits of the first patch"] < 0.5


def test_doubt_becomes_the_probability_that_detail_matters():
    found = fit(planted(n=400), DEPTH)
    xs, ys = found["doubt"]
    assert xs == sorted(xs) and ys == sorted(ys)
    assert np.interp(0.1, xs, ys) < 0.1 and np.interp(0.7, xs, ys) > 0.9
    assert found["report"]["AUROC of doubt"] > 0.95
    blind = fit(planted(n=400, doubt="random"), DEPTH)
    assert blind["report"]["AUROC of doubt"] < 0.6 and len(set(blind["doubt"][1])) == 1
    assert any("doubt does not tell" in note for note in blind["report"]["notes"])


def test_equal_doubts_count_as_one():
    """A model that says .02 to half of its questions, of which every second would change, is not sure of them."""
    rows = planted(n=200)
    for i, row in enumerate(rows):
        row["doubt"], row["changed"] = (0.02, i % 4 == 0) if i % 2 == 0 else (0.0005 + 1e-6 * i, False)
    xs, ys = fit(rows, DEPTH)["doubt"]
    assert np.interp(0.02, xs, ys) == pytest.approx(0.5, abs=0.01) and np.interp(0.0006, xs, ys) < 0.01


def test_a_model_is_calibrated_goes_on_and_is_known_again(reference, tmp_path):
    model, processor = reference
    asked = list(generate(24, seed=3, split="learn", grid=(1, 2), kinds=["number", "word"]))
    unlabelled = [{k: s[k] for k in ("image", "question", "image_id")} for s in asked]
    file = tmp_path / "calibration.json"
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="heuristic")) as arr:
        planner = arr.planner
        with pytest.raises(ValueError, match="too few"):
            arr_coc.calibrate(arr, unlabelled[:5], n=5, out=file, progress=False)
        with FolderLock(file.parent, f"{file.name}.lock"), pytest.raises(ValueError, match="another process works"):
            arr_coc.calibrate(arr, unlabelled, n=24, out=file, progress=False)
        found = arr_coc.calibrate(arr, unlabelled, n=24, out=file, progress=False)
        assert arr.planner is planner
        lines = (tmp_path / "calibration.json.answers.jsonl").read_text().splitlines()
        assert len(lines) == 24 and json.loads(lines[0])["picture"] == asked[0]["image_id"]
        again = arr_coc.calibrate(arr, [], n=24, out=file, progress=False)  # nothing left to ask
        assert again == found == Calibration.load(file)
        assert found.report["changed by detail"] > 0.2
    config = found.apply(ArrCocConfig(policy="heuristic"), model, processor)
    assert ArrCocConfig.from_dict(json.loads(json.dumps(config.to_dict()))).trust == config.trust
    with arr_coc.wrap(model, processor, config) as arr:
        inputs = arr_coc.asking.ask.prepare(processor, [asked[0]["image"]], [asked[0]["question"]])
        model.generate(**inputs, do_sample=False)
        assert len(arr.last[0].budgets) == 2
    with pytest.raises(ValueError, match="made for another model: template is"):
        Calibration(made_for={**found.made_for, "template": "x"}).apply(config, model, processor)
    file.write_text("{}")
    with pytest.raises(ValueError, match="holds no calibration"):
        Calibration.load(file)
