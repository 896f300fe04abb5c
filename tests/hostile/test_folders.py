"""Two runs in one folder: the second is refused in words, before it has loaded or written anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from allocator.locks import FolderLock
from arr_coc.cli import app

HOLDER = """
import sys, time
from allocator.locks import FolderLock
lock = FolderLock(sys.argv[1], sys.argv[2])
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """A process that works in tmp_path / "run"."""
    held: list[subprocess.Popen[str]] = []

    def hold(name: str = ".lock") -> int:
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "run"), name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        held.append(process)
        return process.pid

    yield hold
    for process in held:
        process.kill()
        process.wait()


def test_a_folder_lock_names_its_holder_and_dies_with_it(tmp_path: Path, holder: Any) -> None:
    pid = holder()
    with pytest.raises(ValueError, match=f"another process works in .*process {pid} on .*choose another folder"):
        FolderLock(tmp_path / "run")
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while True:
        try:
            lock = FolderLock(tmp_path / "run")
            break
        except ValueError:
            assert time.monotonic() < until
            time.sleep(0.02)
    lock.close()
    lock.close()
    with FolderLock(tmp_path / "run"):
        pass


def test_two_learn_runs_with_one_folder(tmp_path: Path, holder: Any) -> None:
    holder(".run.lock")
    config = tmp_path / "learn.yaml"
    config.write_text("learn: {episodes: 4}\n")
    result = CliRunner().invoke(app, ["learn", str(config), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2 and "another process works in" in " ".join(result.output.split())
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".run.lock"]


def test_the_learning_loop_alone_holds_its_folder_too(tmp_path: Path, holder: Any) -> None:
    from arr_coc.learning.loop import _Store
    from arr_coc.learning.workers import Workers

    holder()
    with pytest.raises(ValueError, match="another process works in"):
        _Store(tmp_path / "run", False, Workers())


def test_two_evaluations_with_one_folder(tmp_path: Path, holder: Any) -> None:
    from eval.records import RunFolder

    holder()
    with pytest.raises(ValueError, match="another process works in"):
        RunFolder(tmp_path / "run", {"a": 1})
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_two_reference_trainings_with_one_folder(tmp_path: Path, holder: Any) -> None:
    from arr_coc.reference.training.train import TrainConfig, train

    holder()
    with pytest.raises(ValueError, match="another process works in"):
        train(TrainConfig(), tmp_path / "run", progress=False)
