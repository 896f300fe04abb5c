"""A run of the real trainer, as short as can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from arr_coc.reference.train import TrainConfig, train


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of one step per stage. Shared: write nothing into it."""
    out = tmp_path_factory.mktemp("runs") / "short"
    train(TrainConfig(seed=5, tower_steps=1, language_steps=1), out, progress=False)
    return out
