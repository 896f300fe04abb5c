"""The seed's case, 10,000 features and 1,000 arms, sharded over two CPU processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from arr_coc.learning.workers import Workers
from eval.bandits.sharded import ArmValues, BanditConfig, load, logged_batch, train

ROOT = Path(__file__).parents[2]
CONFIG = BanditConfig(steps=6, batch=32)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(ROOT / "configs" / "accelerate-cpu.yaml"), "--main_process_port", "0"]
    command += ["-m", "eval.bandits.sharded", "--out", str(out), "--steps", "6", "--batch", "32"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "held by each process" in done.stdout
    return out


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return train(CONFIG, Workers())


def test_each_process_holds_half(sharded: Path, alone: dict[str, Any]) -> None:
    record = json.loads((sharded / "training.json").read_text())
    parameters = sum(p.numel() for p in ArmValues(CONFIG).parameters())
    assert alone["bytes"][0] == pytest.approx(3 * 4 * parameters, rel=1e-3)  # weights and Adam's two moments
    assert record["processes"] == 2 and len(record["bytes"]) == 2
    for held in record["bytes"]:
        assert held == pytest.approx(alone["bytes"][0] / 2, rel=0.01)


def test_losses_are_those_of_one_process(sharded: Path, alone: dict[str, Any]) -> None:
    record = json.loads((sharded / "training.json").read_text())
    assert record["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert alone["losses"] == pytest.approx(train(CONFIG, Workers())["losses"], rel=1e-6)


def test_one_process_loads_the_checkpoint(sharded: Path, tmp_path: Path) -> None:
    train(CONFIG, Workers(), tmp_path)
    together, by_itself = load(sharded), load(tmp_path)
    contexts, _, _ = logged_batch(CONFIG, 99)
    with torch.no_grad():
        torch.testing.assert_close(together(contexts), by_itself(contexts), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(together(contexts), ArmValues(CONFIG)(contexts), atol=1e-3)  # it was trained


def test_it_learns() -> None:
    record = train(BanditConfig(dim=50, arms=5, width=64, steps=300, batch=64, rate=3e-3), Workers())
    assert sum(record["losses"][-20:]) < 0.6 * sum(record["losses"][:20])


def test_bad_input_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not divide"):
        train(BanditConfig(batch=3), Workers(0, 2))
    with pytest.raises(ValueError, match="at least 1"):
        BanditConfig(arms=0)
    with pytest.raises(ValueError, match="holds no trained bandit"):
        load(tmp_path)
