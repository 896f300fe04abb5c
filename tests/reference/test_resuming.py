"""Killed runs: SIGKILL at any moment, a lost worker, foreign or damaged folders."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from arr_coc.reference.model import build_model
from arr_coc.reference.training import train as training
from arr_coc.reference.training.checkpoints import beside, newest, parameters_of, replace_folder
from arr_coc.reference.training.tower import tower_loss

ROOT = Path(__file__).parents[2]
RUN = (
    "import sys, json; from arr_coc.reference.training.train import *; "
    "train(TrainConfig(**json.loads(sys.argv[1])), sys.argv[2])"
)


def wait_for(condition, seconds: float = 240) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)


def test_a_run_killed_at_any_moment_continues_to_the_same_weights(tmp_path):
    settings = dict(seed=3, tower_steps=3, language_steps=3, checkpoint_every=1)
    config, broken = training.TrainConfig(**settings), tmp_path / "broken"
    whole = training.train(config, tmp_path / "whole", progress=False)
    chance = random.SystemRandom()
    lines, pause = chance.randint(1, 4), chance.uniform(0, 0.5)
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(settings), str(broken)], cwd=ROOT, stderr=subprocess.PIPE
    )
    log = broken / "log.jsonl"
    try:
        wait_for(lambda: child.poll() is not None or (log.exists() and len(log.read_text().splitlines()) >= lines))
        time.sleep(pause)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    resumed = training.train(config, broken, progress=False)
    for (name, a), (_, b) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(a, b), f"{name} differs after a kill {pause:.3f} s behind log line {lines}"
    logs = [[json.loads(line) for line in (tmp_path / f / "log.jsonl").open()] for f in ("whole", "broken")]
    assert [{**r, "seconds": 0} for r in logs[0]] == [{**r, "seconds": 0} for r in logs[1]]


def test_two_processes_average_their_gradients_and_a_lost_one_ends_the_run(tmp_path):
    config = training.TrainConfig(seed=4, tower_steps=1000, language_steps=1, processes=2, checkpoint_every=2)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            training.train(config, tmp_path, progress=False)
        except RuntimeError as error:
            raised.append(error)

    before = set(multiprocessing.active_children())
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for(lambda: not thread.is_alive() or (tmp_path / "tower/state.json").exists())
    workers = sorted(child.pid for child in set(multiprocessing.active_children()) - before)
    assert len(workers) == 2, raised
    os.kill(workers[1], signal.SIGKILL)
    thread.join(60)
    assert not thread.is_alive(), "the run hangs without its second worker"
    assert "start the same training again" in str(raised[0])

    model, steps = build_model(config.seed), training.look_at_run(config, tmp_path)["tower"]
    assert steps % 2 == 0 and steps > 0
    parameters = [p for name, p in model.named_parameters() if "visual" in name]
    optimizer = torch.optim.AdamW(parameters, lr=config.tower_lr, betas=(0.9, 0.98), weight_decay=0.01)
    with training.one_thread():
        for step in range(steps):
            gradients = []
            for rank in range(2):
                loss, _ = tower_loss(model, config.seed, rank, step, step / config.tower_steps)
                gradients.append(torch.autograd.grad(loss, parameters, allow_unused=True))
            for p, a, b in zip(parameters, *gradients, strict=True):
                p.grad = None if a is None else (a + b) / 2
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.param_groups[0]["lr"] = training.learning_rate(config.tower_lr, step, config.tower_steps)
            optimizer.step()
    saved = load_file(newest(tmp_path / "tower") / "model.safetensors")
    for name, mine in parameters_of(model).items():
        assert torch.allclose(mine, saved[name], atol=1e-6), name


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    folder = tmp_path / "tower"
    for step in range(2):
        replace_folder(folder, lambda target, s=step: (target / "state.json").write_text(str(s)))
    assert (folder / "state.json").read_text() == "1"
    assert list(tmp_path.iterdir()) == [folder]
    os.replace(folder, beside(folder, "previous"))  # killed here: the new folder was not yet renamed
    assert newest(folder) == beside(folder, "previous")
    with pytest.raises(OSError, match="no space"):  # the only checkpoint survives a failing write
        replace_folder(folder, full_disk)
    assert newest(folder) == beside(folder, "previous")
    replace_folder(folder, lambda target: (target / "state.json").write_text("2"))
    assert newest(folder) == folder and list(tmp_path.iterdir()) == [folder]


def full_disk(target: Path) -> None:
    raise OSError("no space left on device")


def test_what_was_logged_behind_the_last_checkpoint_is_dropped(tmp_path):
    log = tmp_path / "log.jsonl"
    steps = (("tower", 1), ("tower", 2), ("language", 1))
    lines = [json.dumps({"stage": stage, "step": step}) for stage, step in steps]
    log.write_text("\n".join([*lines, '{"stage": "langu']))
    training.trim_log(log, {"tower": 2, "language": 1})
    assert log.read_text().splitlines() == lines
    training.trim_log(log, {"tower": 1, "language": 0})
    assert log.read_text().splitlines() == lines[:1]


def test_foreign_and_damaged_runs_are_named(tmp_path, short_run):
    with pytest.raises(ValueError, match="holds a run with seed=5; resume with the same settings"):
        training.train(training.TrainConfig(seed=4, tower_steps=1, language_steps=1), short_run)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        training.load_run(tmp_path)
    run = shutil.copytree(short_run, tmp_path / "run")
    weights, config = run / "tower/model.safetensors", training.TrainConfig(seed=5, tower_steps=1, language_steps=1)
    shutil.rmtree(run / "language")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        training.train(config, run)
    shutil.copy(run / "tower/optimizer.safetensors", weights)
    with pytest.raises(ValueError, match="is not a checkpoint of such a model"):
        training.train(config, run)
    (run / "tower/state.json").write_text('{"step": 1')
    with pytest.raises(ValueError, match="is not the state of a training run"):
        training.train(config, run)
