"""What an answer cost: time to the first token, prefill and decoding apart, the tower's time, and peak memory."""

from __future__ import annotations

import contextlib
import ctypes
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def tower_layers(model: PreTrainedModel) -> nn.ModuleList | None:
    """The layers of the vision tower: the longest list of modules outside the language model."""
    decoder = set(model.get_decoder().modules())
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and m not in decoder and len(m)]
    return max(lists, key=len, default=None)


class Clock:
    """Notes when each token of a call of ``generate`` is there; pass it as one of the ``stopping_criteria``.

    Parameters
    ----------
    model
        Whose GPU, if it is on one, is waited for before the clock is read.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        device = torch.device(model.device)
        self._device = device if device.type == "cuda" else None
        self.ticks: list[float] = []
        self.tower = 0.0
        self.began = self.ended = self.now()

    def stop(self) -> None:
        """End the call."""
        self.ended = self.now()

    @property
    def seconds(self) -> float:
        """Seconds of the whole call."""
        return self.ended - self.began

    def now(self) -> float:
        """Seconds of a steady clock, once the device is done."""
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.ticks.append(self.now())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    @property
    def first(self) -> float:
        """Seconds from the start to the first token."""
        return self.ticks[0] - self.began if self.ticks else 0.0

    @property
    def decode(self) -> float:
        """Seconds from the first token to the last."""
        return self.ticks[-1] - self.ticks[0] if self.ticks else 0.0

    @contextlib.contextmanager
    def watching(self, model: PreTrainedModel) -> Iterator[None]:
        """Time the tower of an untouched call: from its first layer to the first layer of the language model."""
        layers = tower_layers(model)
        started: list[float] = []

        def start(*_: Any) -> None:
            started.append(self.now())

        def end(*_: Any) -> None:
            if started:
                self.tower += self.now() - started[0]
                started.clear()

        hooks = []
        if layers is not None:
            hooks = [layers[0].register_forward_pre_hook(start), model.get_decoder().register_forward_pre_hook(end)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class Memory:
    """Peak memory of a stretch of code, in bytes above where it began.

    On a GPU what torch's allocator gave out at most; on Linux without one the highest resident set of the process, for
    which free memory is given back and the kernel's high-water mark reset. What the C library keeps all the same is
    reused unseen, so the second is a lower bound. ``None`` where neither can be had.
    """

    def __init__(self, device: Any) -> None:
        self._device = torch.device(device)
        self.kind = "torch.cuda" if self._device.type == "cuda" else "resident set"
        self.peak: int | None = None

    def __enter__(self) -> Memory:
        if self.kind == "torch.cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before: int | None = torch.cuda.memory_allocated(self._device)
        else:
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).malloc_trim(0)
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
            self._before = _status("VmRSS")
        return self

    def __exit__(self, *exception: object) -> None:
        if self.kind == "torch.cuda":
            after: int | None = torch.cuda.max_memory_allocated(self._device)
        else:
            after = _status("VmHWM")
        if self._before is not None and after is not None:
            self.peak = max(0, after - self._before)


def _status(name: str) -> int | None:
    """Bytes that the kernel states for this process; ``None`` outside Linux."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
