"""A run of the real trainer and its accuracy table, as short as can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from arr_coc.reference.training.evaluate import evaluate
from arr_coc.reference.training.train import TrainConfig, load_run, train


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of one step per stage, with its accuracy table. Shared: write nothing into it."""
    out = tmp_path_factory.mktemp("runs") / "short"
    train(TrainConfig(seed=5, tower_steps=1, language_steps=1), out, progress=False)
    evaluate(load_run(out), 1, 0, out / "accuracy.json", progress=False)
    return out
