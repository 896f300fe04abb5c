"""The resumable trainer of the reference VLM: stage "tower", then stage "language".

Every step's batch is a pure function of (seed, rank, step), checkpoints hold model, optimizer and step and are replaced
atomically, so a run killed at any moment continues to the same weights as an unbroken one. With two processes the gradients of two
batches are averaged (gloo).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import Qwen2VLForConditionalGeneration

from arr_coc.reference.model import build_model
from arr_coc.reference.stages import Loss, language_loss, tower_loss

STAGES: dict[str, Callable[..., Loss]] = {"tower": tower_loss, "language": language_loss}


@dataclass
class TrainConfig:
    """What ``arr-coc reference train`` does. Steps are optimizer steps; learning rates are peaks."""

    seed: int = 0
    tower_steps: int = 5600
    language_steps: int = 3600
    tower_lr: float = 2e-3
    language_lr: float = 2e-3
    processes: int = 1
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("tower_steps", "language_steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1 step")
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


def save_checkpoint(folder: Path, model, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Write model, optimizer moments and ``state`` to ``folder``, replacing what is there in one rename."""
    temporary = folder.with_name(folder.name + ".writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(trainable_state(model), temporary / "model.safetensors")
    moments = {
        f"{i}.{key}": torch.as_tensor(value).clone()
        for i, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }
    save_file(moments, temporary / "optimizer.safetensors")
    (temporary / "state.json").write_text(json.dumps(state, indent=1))
    previous = folder.with_name(folder.name + ".previous")
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        os.replace(folder, previous)
    os.replace(temporary, folder)
    shutil.rmtree(previous, ignore_errors=True)


def trainable_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters by name, each once (the tied head is the embedding)."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def load_parameters(model: torch.nn.Module, file: Path) -> None:
    missing, unexpected = model.load_state_dict(load_file(file), strict=False)
    missing = [name for name in missing if name != "lm_head.weight"]
    if missing or unexpected:
        raise ValueError(f"{file} is not a checkpoint of the reference VLM: missing {missing}, unexpected {unexpected}")


def load_optimizer(optimizer: torch.optim.Optimizer, file: Path) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(file).items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def checkpoint_at(folder: Path) -> Path | None:
    """The newest complete checkpoint: the folder itself, or its predecessor if a kill fell between the two renames."""
    return next((f for f in (folder, folder.with_name(folder.name + ".previous")) if (f / "state.json").exists()), None)


def run_stage(stage: str, model, config: TrainConfig, out: Path, rank: int) -> None:
    """Train one stage to its end, resuming from ``out / stage`` if it holds a checkpoint."""
    steps, peak = getattr(config, f"{stage}_steps"), getattr(config, f"{stage}_lr")
    tower = stage == "tower"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(("visual" in name) == tower)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    folder, first, seconds = out / stage, 0, 0.0
    checkpoint = checkpoint_at(folder)
    if checkpoint is not None:
        state = json.loads((checkpoint / "state.json").read_text())
        if {k: v for k, v in state["config"].items() if k != "checkpoint_every"} != {
            k: v for k, v in asdict(config).items() if k != "checkpoint_every"
        }:
            raise ValueError(f"{checkpoint} was made with {state['config']}, not {asdict(config)}; resume with the same settings or another folder")
        load_parameters(model, checkpoint / "model.safetensors")
        load_optimizer(optimizer, checkpoint / "optimizer.safetensors")
        first, seconds = state["step"], state["seconds"]
    began, running = time.monotonic() - seconds, dict[str, float]()
    model.train()
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=stage, disable=rank > 0, mininterval=2)
    for step in bar:
        optimizer.param_groups[0]["lr"] = learning_rate(peak, step, steps)
        loss, metrics = STAGES[stage](model, config.seed, rank, step, step / steps)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(parameters, config.processes)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for key, (total, count) in metrics.items():
            decay = 0.97 ** min(count, 20)
            running[key] = decay * running.get(key, 0.0) + (1 - decay) * total / count
        done = step + 1
        if rank == 0 and (done % config.checkpoint_every == 0 or done == steps):
            elapsed = time.monotonic() - began
            record = {"stage": stage, "step": done, "seconds": round(elapsed, 1), "loss": round(loss.item(), 4)}
            record["accuracy"] = {key: round(value, 3) for key, value in sorted(running.items())}
            save_checkpoint(folder, model, optimizer, {"step": done, "seconds": elapsed, "config": asdict(config)})
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            bar.set_postfix(loss=record["loss"])
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def train_rank(rank: int, config: TrainConfig, out: Path) -> None:
    torch.set_num_threads(1)  # two busy threads on a shared machine were eight times slower than one
    if config.processes > 1:
        store = out / f"rendezvous-{os.getppid()}"
        dist.init_process_group("gloo", init_method=f"file://{store.resolve()}", rank=rank, world_size=config.processes)
    model = build_model(config.seed)
    for stage in STAGES:
        run_stage(stage, model, config, out, rank)
    if rank == 0:
        model.eval().save_pretrained(out / "model")
    if config.processes > 1:
        dist.destroy_process_group()


def train(config: TrainConfig, out: str | Path) -> Qwen2VLForConditionalGeneration:
    """Train the reference VLM to the end (or go on with a broken run in ``out``) and return it.

    Raises ValueError if ``out`` holds a run with other settings, OSError if it cannot be written.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if config.processes == 1:
        train_rank(0, config, out)
    else:
        torch.multiprocessing.spawn(train_rank, (config, out), nprocs=config.processes)
    return Qwen2VLForConditionalGeneration.from_pretrained(out / "model").eval()
