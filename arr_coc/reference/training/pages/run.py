"""The training loop of one stage: over accelerate, resumable, every checkpoint written aside and renamed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm

from ..checkpoints import load_optimizer, load_parameters, newest, read_state, replace_folder

Loss = tuple[torch.Tensor, dict[str, tuple[float, int]]]


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Linear warm-up over 100 steps, flat to .6 of the way, linear to 2 %."""
    left = 1 - step / steps
    return peak * min(1.0, (step + 1) / 100) * (1.0 if left > 0.4 else max(0.02, left / 0.4))


def save(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Weights of what is trained, moments and ``state`` to ``folder``, replacing what is there."""

    def write(target: Path) -> None:
        save_file({n: p.detach().cpu().contiguous() for n, p in module.named_parameters()},
                  target / "model.safetensors")  # fmt: skip
        moments = {
            f"{i}.{key}": torch.as_tensor(value).detach().cpu().clone()
            for i, entry in optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
        save_file(moments, target / "optimizer.safetensors")
        (target / "state.json").write_text(json.dumps(state, indent=1))

    replace_folder(folder, write)


def load_weights(module: nn.Module, checkpoint: Path) -> None:
    """Weights of a checkpoint of the same module."""
    load_parameters(module, checkpoint / "model.safetensors")


def average_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Replace every gradient by its mean over the processes; the loss is no ``forward`` that could be wrapped."""
    if accelerator.num_processes == 1:
        return
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    mean = accelerator.reduce(torch.cat([g.flatten() for g in grads]), "mean")
    for p, part in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p).clone()


def run_stage(
    name: str, module: nn.Module, loss_of: Callable[[int, float], Loss], out: Path, steps: int, peak: float,
    accelerator: Accelerator, every: int = 100, seconds: float = math.inf, decay: float = 0.02,
) -> bool:  # fmt: skip
    """Train the parameters of ``module`` that ask for gradients up to ``steps``; resume from ``out / name``.

    ``loss_of`` takes the number of a batch and the share of the stage that is done; processes take turns in batches.

    Returns whether the stage is finished (False: ``seconds`` ran out first).
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=decay)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "config": {}}
    checkpoint = newest(out / name)
    if checkpoint is not None:
        state = read_state(checkpoint)
        load_weights(module, checkpoint)
        load_optimizer(optimizer, checkpoint / "optimizer.safetensors")
    optimizer = accelerator.prepare(optimizer)
    running = dict[str, float](state.get("running", {}))
    start = time.monotonic()
    began = start - state["seconds"]
    module.train()
    bar = tqdm(range(state["step"], steps), initial=state["step"], total=steps, desc=name, unit="step", mininterval=10,
               disable=not accelerator.is_main_process)  # fmt: skip
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, step, steps)
        draw = step * accelerator.num_processes + accelerator.process_index
        loss, metrics = loss_of(draw, step / steps)
        optimizer.zero_grad()
        accelerator.backward(loss)
        average_gradients(parameters, accelerator)
        norm = float(accelerator.clip_grad_norm_(parameters, 1.0))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient of step {step} of stage {name} is {norm}; lower its learning rate")
        optimizer.step()
        running["loss"] = 0.98 * running.get("loss", loss.item()) + 0.02 * loss.item()
        for key, (total, count) in metrics.items():
            keep = 0.97 ** min(count, 20)
            running[key] = keep * running.get(key, total / count) + (1 - keep) * total / count
        done = step + 1
        over = time.monotonic() - start > seconds
        if accelerator.is_main_process and (done % every == 0 or done == steps or over):
            elapsed = time.monotonic() - began
            shown = {key: round(value, 3) for key, value in sorted(running.items())}
            record = {"stage": name, "step": done, "seconds": round(elapsed, 1), "norm": round(norm, 2), **shown}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            unwrapped = getattr(optimizer, "optimizer", optimizer)
            save(
                out / name,
                module,
                unwrapped,
                {"step": done, "seconds": elapsed, "config": {"steps": steps, "peak": peak}, "running": running},
            )
        if over:
            return False
    return True
