"""The engine of one process: a wrapped model that answers one question after another.

Whoever has more than one caller wants `arr_coc.engines`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from allocator.logged.explore import Exploration

from ..asking.ask import answers, prepare
from ..asking.models import model_identity
from ..wrapping.question import check_question
from .engine import Answered, Busy
from .policy import Loaded, Policies


class OwnEngine:
    """A model under a served policy.

    Parameters
    ----------
    model, processor
        As of :func:`arr_coc.wrap`.
    source
        Folder of a saved policy, or of a store of versions, whose current one is served.
    exploration
        See `allocator.logged.explore`.
    max_new_tokens
        Longest answer.
    places
        Questions inside at once.
    timeout
        Seconds after which a question is given up.
    allow, changes
        As of `Policies`.

    Raises
    ------
    ValueError
        If there is no policy, or it can't be served or does not fit the model.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        source: Path,
        exploration: Exploration,
        max_new_tokens: int | None = None,
        places: int = 64,
        timeout: float = 30.0,
        allow: Collection[str] = (),
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        from ..wrapping.wrapper import wrap

        self.processor, self.places, self.timeout = processor, places, timeout
        self.lengths = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
        self.policies = Policies(source, exploration, model, processor, allow, changes)
        self.identity = model_identity(model)
        self.arr = wrap(model, processor, self.policies.config, self.policies.once())
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")  # its queue is the queue
        self._inside, self._seconds = 0, 0.1  # the latter per question, a running mean

    @property
    def inside(self) -> int:
        """Questions that wait or are worked on."""
        return self._inside

    def check(self, text: str) -> None:
        """Refuse a question that would be no words to the model, with ValueError."""
        check_question(self.processor, text)

    async def answer(self, image: Image.Image, text: str) -> Answered:
        """See `Engine.answer`; a question that is given up while it waits is never worked on."""
        if self._inside >= self.places:
            raise Busy(max(1, math.ceil(self._inside * self._seconds)))
        self._inside += 1
        try:
            work = partial(self._answer, image, text, time.perf_counter())
            return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(self._worker, work), self.timeout)
        finally:
            self._inside -= 1

    def _answer(self, image: Image.Image, text: str, came: float) -> Answered:
        """Answer one question, in the worker's thread."""
        began, once = time.perf_counter(), self.policies.once()
        self.arr.planner = once
        try:
            inputs = prepare(self.processor, [image], [text]).to(self.arr.model.device)
            with torch.no_grad():
                sequences = self.arr.model.generate(**inputs, do_sample=False, **self.lengths)
        except (TypeError, IndexError) as error:
            raise ValueError(str(error)) from error
        (said,), (allocation,) = answers(self.processor, inputs["input_ids"], sequences), self.arr.last
        grid = getattr(self.processor, "patch_grid", None)
        self._seconds += 0.1 * (time.perf_counter() - began - self._seconds)
        return Answered(
            said, allocation.budgets, allocation.tokens, allocation.full_tokens, once.taken, once.price, once.version,
            tuple(grid(image)) if grid else None, {"queue": began - came, **allocation.timings},
        )  # fmt: skip

    async def adopt(self, loaded: Loaded) -> None:
        """Serve another policy from the next question on."""
        self.policies.loaded = loaded

    async def stop(self) -> None:
        """Finish what is inside, and leave the model as it was."""
        await asyncio.to_thread(self._worker.shutdown)
        self.arr.detach()
