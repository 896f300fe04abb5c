"""Seconds by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Stopwatch:
    """Adds up seconds by stage.

    Parameters
    ----------
    model
        Whose device is waited for.
    synchronize
        Wait for the device before reading the clock; without it a GPU's work is booked where it is awaited.
    """

    def __init__(self, model: PreTrainedModel, synchronize: bool) -> None:
        self.seconds: dict[str, float] = {}
        self._devices = {p.device for p in model.parameters() if p.device.type == "cuda"} if synchronize else set()
        self._start = self._now()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self._now() - start

    def since_start(self) -> float:
        """Seconds since the watch was made."""
        return self._now() - self._start

    def _now(self) -> float:
        for device in self._devices:
            torch.cuda.synchronize(device)
        return time.perf_counter()
