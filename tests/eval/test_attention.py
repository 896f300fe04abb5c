"""The study of attention finds what was planted: a head that looks, a head that is stuck, doubt that knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arr_coc import ArrCocConfig, wrap
from arr_coc.reference import generate
from eval.studies.attention import _joined, _Look, _row, markdown, realistic, study, write

PATCHES, CELLS = 4, 16


def planted(n: int = 80) -> list[dict[str, Any]]:
    """Two layers of two heads: flat and stuck on the first cell; looking at the evidence in 4 of 5 questions, flat."""
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        evidence = int(rng.integers(PATCHES))
        mass = np.full((2, 2, PATCHES * CELLS), 1 / (PATCHES * CELLS))
        mass[0, 1] = 0.001
        mass[0, 1, 0] = 0.5
        seen = evidence if i % 5 else (evidence + 1) % PATCHES
        mass[1, 0, seen * CELLS : (seen + 1) * CELLS] += 0.02
        sure = rng.random()
        look = _Look(2, 64)
        look.mass, look.sizes = mass, [CELLS] * PATCHES
        look.logp = np.log([0.5 + sure / 2.01, 0.5 - sure / 2.01])
        rows.append(_row(look, [evidence], bool(rng.random() < 0.5 + sure / 2)))
    return rows


def test_what_was_planted_is_found():
    found = _joined(planted())
    assert found["hit"][1][0] == pytest.approx(0.8) and found["chance"] == 0.25
    assert found["swapped"][1][0] < 0.5
    assert found["best"]["layer"] == 1 and found["best"]["hit"] == pytest.approx(0.8)
    assert np.argmax(found["sink"]) == 1 and found["sink_heads"] == 0.25
    assert found["entropy"][1][1] == pytest.approx(1) and found["entropy"][0][1] < 0.9
    assert found["doubt"]["auroc"]["margin"] > 0.6
    assert sum(count for *_, count in found["doubt"]["curve"]) == 80
    assert list(realistic(found).values())[:3] == [False, True, True]


def test_it_is_written_as_a_page_with_pictures(tmp_path: Path):
    write({"planted": _joined(planted())}, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"attention.json", "attention.md", "attention.png"}
    assert "| best head | 0.80 (layer 1, head 0) |" in markdown({"planted": _joined(planted())})


def test_a_model_is_measured_and_left_as_it_was(reference: Any):
    model, processor = reference
    samples = list(generate(20, seed=3, split="learn", grid=(1, 2)))
    with wrap(model, processor, ArrCocConfig(policy="uniform", budget=64)) as arr:
        planner = arr.planner
        found = study(arr, samples, progress=False)
        assert arr.planner is planner
        with pytest.raises(ValueError, match="one grid"):
            study(arr, [*samples, *generate(1, grid=(2, 2))], progress=False)
    layers, heads = model.config.text_config.num_hidden_layers, model.config.text_config.num_attention_heads
    assert np.shape(found["hit"]) == np.shape(found["sink"]) == (layers, heads)
    assert found["best"]["hit"] > 0.9  # the first model was trained to look
