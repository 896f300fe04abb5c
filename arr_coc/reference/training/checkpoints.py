"""Checkpoints of the reference trainer: written aside and renamed, read completely before anything is changed."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLForConditionalGeneration

_MOMENTS = {"step": False, "exp_avg": True, "exp_avg_sq": True}
"""What AdamW keeps of each parameter, and whether it has the parameter's shape."""


def beside(folder: Path, name: str) -> Path:
    """A sibling of ``folder``: ``folder.name``."""
    return folder.with_name(f"{folder.name}.{name}")


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a new folder, then put it in place of ``folder``; a kill at any moment leaves one whole."""
    new, old = beside(folder, "writing"), beside(folder, "previous")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    write(new)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint: ``folder``, or its predecessor if a kill fell between the two renames."""
    return next((f for f in (folder, beside(folder, "previous")) if (f / "state.json").is_file()), None)


def parameters_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters by name, each once (the tied head is the embedding)."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def save_checkpoint(
    folder: Path,
    model: Qwen2VLForConditionalGeneration,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Write weights, optimizer moments and ``state`` (JSON) to ``folder``, replacing what is there."""

    def write(target: Path) -> None:
        save_file(parameters_of(model), target / "model.safetensors")
        moments = {
            f"{i}.{key}": torch.as_tensor(value).clone()
            for i, entry in optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
        save_file(moments, target / "optimizer.safetensors")
        (target / "state.json").write_text(json.dumps(state, indent=1))

    replace_folder(folder, write)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What ``state.json`` says: ``step``, ``seconds``, ``config``. ValueError if it is not one."""
    file = checkpoint / "state.json"
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        step, seconds, running = state["step"], state["seconds"], state.get("running", {})
        counts = type(step) is int and _counts([step, seconds, *running.values()])
        if counts and isinstance(state["config"], dict):
            return dict(state)
    except (ValueError, TypeError, LookupError, AttributeError, OSError, RecursionError):
        pass
    raise ValueError(f"{file} is not the state of a training run; remove {checkpoint} to train this stage anew")


def _counts(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) and 0 <= value < math.inf for value in values)


def _fits(value: torch.Tensor, shape: torch.Size) -> bool:
    return value.shape == shape and value.is_floating_point() and bool(value.isfinite().all())


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}); remove its folder to train this stage anew") from error


def load_parameters(model: torch.nn.Module, file: Path) -> None:
    """Weights of a checkpoint into ``model``. ValueError, and nothing loaded, if they are another model's."""
    weights, mine = _read_tensors(file), dict(model.named_parameters())
    wrong = sorted(
        {name for name in weights.keys() & mine.keys() if not _fits(weights[name], mine[name].shape)}
        | (weights.keys() ^ mine.keys())
    )
    if wrong:
        raise ValueError(
            f"{file} is not a checkpoint of such a model: {', '.join(wrong[:3])[:200]} missing, unexpected, of "
            "another shape or not finite; name a folder that this training wrote"
        )
    model.load_state_dict(weights, strict=False)  # lm_head is tied, so it is named in the model and not in the file


def load_optimizer(optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Moments of a checkpoint into an AdamW over the same parameters. ValueError if they are not those."""
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _read_tensors(file).items():
        index, _, key = name.partition(".")
        known = index.isdecimal() and int(index) < len(shapes) and key in _MOMENTS
        if not known or not _fits(value, shapes[int(index)] if _MOMENTS[key] else torch.Size()):
            raise ValueError(f"{file} says {name[:80]!r}, no moment of this model; remove its folder to train anew")
        if key != "exp_avg" and bool((value < 0).any()):
            raise ValueError(f"{file} has a negative {name}; remove its folder to train this stage anew")
        state.setdefault(int(index), {})[key] = value
    if any(moments.keys() != _MOMENTS.keys() for moments in state.values()):
        raise ValueError(f"{file} lacks moments of some parameters; remove its folder to train this stage anew")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
