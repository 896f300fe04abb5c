"""Micro-batching: questions that arrive while the model is busy share its next generate call."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Busy(RuntimeError):
    """The queue is full.

    Attributes
    ----------
    retry_after
        Seconds after which to try again.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


class Batcher(Generic[Question, Answer]):
    """Feeds one worker thread with batches.

    Parameters
    ----------
    work
        Answers a batch, in the worker thread: per question its answer, or the exception it deserves.
    size, wait
        Most questions of a batch, and seconds to wait for more of them when the worker is idle.
    limit
        Questions inside at once.
    """

    def __init__(
        self, work: Callable[[Sequence[Question]], Sequence[Answer | Exception]], size: int, wait: float, limit: int
    ) -> None:
        self._work, self._size, self._wait, self._limit = work, size, wait, limit
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._queue: asyncio.Queue[tuple[Question, asyncio.Future[Answer]]] = asyncio.Queue()
        self._loop_task: asyncio.Task[None] | None = None
        self.inside = 0
        self.seconds = 0.1  # per question, a running mean

    def start(self) -> None:
        """Begin to work; called inside the event loop."""
        self._loop_task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop after the batch in progress. Call it when no question is inside."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop_task
        await asyncio.to_thread(self._worker.shutdown)

    async def between_batches(self, function: Callable[[], Any]) -> Any:
        """Run something in the worker thread while no batch runs: how a policy is replaced."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, function)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place inside, taken before any work is done for a question.

        Raises
        ------
        Busy
            If there is none.
        """
        if self.inside >= self._limit:
            raise Busy(max(1, math.ceil(self.inside * self.seconds)))
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def answer(self, question: Question, timeout: float) -> Answer:
        """Wait for the answer.

        Raises
        ------
        TimeoutError
            If it does not come in time; a question that still waits is then never worked on.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((question, future))
        return await asyncio.wait_for(future, timeout)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            until = loop.time() + self._wait
            while len(batch) < self._size:
                try:
                    batch.append(self._queue.get_nowait())
                except asyncio.QueueEmpty:
                    if loop.time() >= until:
                        break
                    with contextlib.suppress(TimeoutError):
                        batch.append(await asyncio.wait_for(self._queue.get(), until - loop.time()))
            batch = [(question, future) for question, future in batch if not future.done()]
            if not batch:
                continue
            began = time.perf_counter()
            try:
                answers = await self.between_batches(partial(self._work, [q for q, _ in batch]))
            except Exception as error:  # a defect of the work itself: these questions fail, the server goes on
                answers = [error] * len(batch)
            self.seconds += 0.1 * ((time.perf_counter() - began) / len(batch) - self.seconds)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
