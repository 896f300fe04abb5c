"""A policy's state as one file: safetensors, with everything that is not a tensor as JSON in the metadata header."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise


def replace_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file whole: a kill at any moment leaves the old one or the new one. Text is written as UTF-8."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # opened as usual, so the umask decides who may read
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_state(path: str | os.PathLike[str], state: dict[str, Any]) -> Path:
    """Write a state dict atomically: a killed run leaves the whole old state or the whole new one."""
    path = Path(path)
    tensors = {name: tensor.contiguous() for name, tensor in state["tensors"].items()}
    plain = {key: value for key, value in state.items() if key != "tensors"}
    blob = serialise(tensors, metadata={"policy_state": json.dumps(plain, allow_nan=False)})
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, blob)
    return path


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_state` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a saved policy.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no saved policy at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = json.loads((file.metadata() or {})["policy_state"])
            if not isinstance(state, dict):
                raise ValueError(f"its state is a {type(state).__name__}")
            state["tensors"] = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a saved policy: {error}") from None
    return state
