"""The resumable trainer of the reference VLM: stage "tower", then stage "language".

Every step's batch is a pure function of (seed, rank, step), checkpoints hold model, optimizer and step and are
replaced atomically, so a run killed at any moment continues to the same weights as an unbroken one. With two processes
the gradients of two batches are averaged (gloo).
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, spawn
from tqdm.auto import tqdm
from transformers import Qwen2VLForConditionalGeneration

from allocator.locks import FolderLock
from allocator.storage import replace_file

from ..model import build_model
from .checkpoints import load_optimizer, load_parameters, newest, read_state, replace_folder, save_checkpoint
from .language import language_loss
from .packed import Loss
from .tower import tower_loss

STAGES: dict[str, Callable[..., Loss]] = {"tower": tower_loss, "language": language_loss}


@dataclass
class TrainConfig:
    """What ``arr-coc reference train`` does. Steps are optimizer steps; learning rates are peaks."""

    seed: int = 0
    tower_steps: int = 5600
    language_steps: int = 4200
    tower_lr: float = 2e-3
    language_lr: float = 1e-3
    processes: int = 1
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("tower_steps", "language_steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1 step")
        for name in ("tower_lr", "language_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; a learning rate must be positive and finite")
        if self.processes not in (1, 2):
            raise ValueError(f"processes is {self.processes}; the reference trainer runs in 1 or 2 processes")


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Linear warm-up over 50 steps, flat to the middle, linear to 2 %."""
    progress = step / steps
    return peak * min(1.0, (step + 1) / 50) * (1.0 if progress < 0.5 else max(0.02, 2 * (1 - progress)))


def average_gradients(parameters: list[torch.nn.Parameter], processes: int) -> None:
    """Replace every gradient by its mean over the processes."""
    if processes == 1:
        return
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= processes
    for p, g in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = g.view_as(p).clone()


def run_stage(
    stage: str, model: Qwen2VLForConditionalGeneration, config: TrainConfig, out: Path, rank: int, progress: bool
) -> None:
    """Train one stage to its end, resuming from ``out / stage`` if it holds a checkpoint."""
    steps, peak = getattr(config, f"{stage}_steps"), getattr(config, f"{stage}_lr")
    for name, parameter in model.named_parameters():
        # The embeddings stay the codes that the tower learned to write.
        seeing, words = "visual" in name, "embed_tokens" in name
        parameter.requires_grad_(seeing if stage == "tower" else not (seeing or words))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0}
    checkpoint = newest(out / stage)
    if checkpoint is not None:
        state = read_state(checkpoint)
        load_parameters(model, checkpoint / "model.safetensors")
        load_optimizer(optimizer, checkpoint / "optimizer.safetensors")
    began, running = time.monotonic() - state["seconds"], dict[str, float](state.get("running", {}))
    model.train()
    bar = tqdm(
        range(state["step"], steps), initial=state["step"], total=steps, desc=stage, unit="step", mininterval=2,
        disable=rank > 0 or not progress,
    )  # fmt: skip
    for step in bar:
        optimizer.param_groups[0]["lr"] = learning_rate(peak, step, steps)
        loss, metrics = STAGES[stage](model, config.seed, rank, step, step / steps)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(parameters, config.processes)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0).item()
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient of step {step} of stage {stage} is {norm} (loss {loss.item():.3g}); lower {stage}_lr"
            )
        optimizer.step()
        for key, (total, count) in metrics.items():
            decay = 0.97 ** min(count, 20)
            running[key] = decay * running.get(key, 0.0) + (1 - decay) * total / count
        bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
        done = step + 1
        if rank == 0 and (done % config.checkpoint_every == 0 or done == steps):
            elapsed = time.monotonic() - began
            record = {"stage": stage, "step": done, "seconds": round(elapsed, 1), "loss": round(loss.item(), 4)}
            accuracy = {key: round(value, 3) for key, value in sorted(running.items())}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps({**record, "accuracy": accuracy}) + "\n")
            state = {"step": done, "seconds": elapsed, "config": asdict(config), "running": running}
            save_checkpoint(out / stage, model, optimizer, state)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Two busy threads on a shared machine were eight times slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_rank(rank: int, config: TrainConfig, out: Path, progress: bool, rendezvous: Path | None = None) -> None:
    """What one process of a run does. Rank 0 alone writes to ``out``."""
    if rendezvous is not None:
        dist.init_process_group(
            "gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=config.processes,
            timeout=timedelta(minutes=10),
        )  # fmt: skip
    with one_thread():
        model = build_model(config.seed)
        for stage in STAGES:
            run_stage(stage, model, config, out, rank, progress)
    if rank == 0:
        replace_folder(out / "model", model.eval().save_pretrained)
    if rendezvous is not None:
        dist.destroy_process_group()


def look_at_run(config: TrainConfig, out: Path) -> dict[str, int]:
    """Steps done by stage. ValueError if ``out`` was begun with settings that give other weights."""
    done, mine = dict.fromkeys(STAGES, 0), asdict(config)
    for stage in STAGES:
        checkpoint = newest(out / stage)
        if checkpoint is None:
            continue
        state = read_state(checkpoint)
        irrelevant = {"checkpoint_every"} | ({"language_steps", "language_lr"} if stage == "tower" else set())
        theirs = {**mine, **{k: v for k, v in state["config"].items() if k not in irrelevant}}
        if theirs != mine:
            different = ", ".join(f"{k}={v}" for k, v in theirs.items() if mine.get(k) != v)
            raise ValueError(
                f"{out} holds a run with {different}; resume with the same settings or name another folder"
            )
        done[stage] = state["step"]
    return done


def trim_log(file: Path, done: dict[str, int]) -> None:
    """Drop what a killed run logged after its last checkpoint: those steps are done again."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            if record["step"] <= done[record["stage"]]:
                kept.append(line + "\n")
        except (ValueError, TypeError, KeyError):
            continue  # the kill fell into the middle of a line
    replace_file(file, "".join(kept))


def train(config: TrainConfig, out: str | Path, progress: bool = True) -> Qwen2VLForConditionalGeneration:
    """Train the reference VLM to the end, or go on with a broken run.

    Parameters
    ----------
    config
        Seed, steps, learning rates, processes.
    out
        Run folder: ``tower/`` and ``language/`` hold the checkpoints, ``log.jsonl`` one line per checkpoint (loss and
        running accuracies on the training batches), ``model/`` the finished model.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Qwen2VLForConditionalGeneration
        The trained model, in evaluation mode.

    Raises
    ------
    ValueError
        If ``out`` holds a run with other settings, or files that are no checkpoint.
    OSError
        If ``out`` cannot be written.
    FloatingPointError
        If the gradient overflows.
    RuntimeError
        If one of two processes fails; the other one is ended.
    """
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with FolderLock(out):
        trim_log(out / "log.jsonl", look_at_run(config, out))
        if config.processes == 1:
            train_rank(0, config, out, progress)
        else:
            with tempfile.TemporaryDirectory(prefix="arr-coc-") as scratch:
                arguments = (config, out, progress, Path(scratch) / "rendezvous")
                try:
                    spawn(train_rank, arguments, nprocs=config.processes)
                except (ProcessRaisedException, ProcessExitedException) as error:
                    raise RuntimeError(
                        f"a training process ended early: {error}; start the same training again to go on from "
                        f"its last checkpoint in {out}"
                    ) from error
    return Qwen2VLForConditionalGeneration.from_pretrained(out / "model", local_files_only=True).eval()


def load_run(run: str | Path) -> Qwen2VLForConditionalGeneration:
    """The model of a run folder at its newest checkpoint, finished or not, in evaluation mode.

    Raises ValueError if the folder holds no checkpoint.
    """
    for stage in reversed(STAGES):
        checkpoint = newest(Path(run) / stage)
        if checkpoint is not None:
            model = build_model(0)
            load_parameters(model, checkpoint / "model.safetensors")
            return model.eval()
    raise ValueError(f"{run} holds no checkpoint; make one with arr-coc reference train --out {run}")
