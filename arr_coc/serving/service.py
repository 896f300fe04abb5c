"""The service behind the HTTP routes: places, batches, log, rewards, drift and reloads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from allocator.logged.log import DecisionLog, acknowledged, find
from allocator.logged.shift import ContextReference, Watch

from ..asking.images import read_image
from ..learning.rewards import vqa_accuracy
from .batching import Batcher
from .config import ServeConfig, usual_batch_size
from .engine import Answered, Engine, Question
from .metrics import Metrics
from .store import read_facts, resolve

logger = logging.getLogger(__name__)


class UnknownDecision(LookupError):
    """No decision has that id."""


class Service:
    """Everything a server does, without HTTP.

    Parameters
    ----------
    engine
        The wrapped model.
    config
        See `ServeConfig`.
    log
        Folder of the decision log.
    """

    def __init__(self, engine: Engine, config: ServeConfig, log: Path) -> None:
        self.engine, self.config, self.metrics = engine, config, Metrics()
        self.log = DecisionLog(log, on_commit=self.metrics.committed)
        size = config.batch_size or usual_batch_size(engine.arr.model.device)
        self.batcher = Batcher(engine.answer, size, config.batch_wait, config.queue)
        self.ready = False
        self._decoder = ThreadPoolExecutor(2, thread_name_prefix="decode")
        self._wake = asyncio.Event()
        self._watch = self._new_watch()
        self._tasks: list[asyncio.Task[None]] = []

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Begin to work."""
        self.batcher.start()
        self.metrics.policy.info({"version": self.engine.served.version})
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # no SIGHUP, or no main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._wake.set)
        self._tasks.append(asyncio.create_task(self._reload()))
        self.ready = True

    async def stop(self) -> None:
        """Finish what is inside, and leave the log closed and the model unwrapped."""
        self.ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.batcher.stop()
        self._decoder.shutdown()
        await asyncio.to_thread(self.log.close)
        self.engine.close()

    # ---------------------------------------------------------------- answers

    async def answer(self, upload: bytes, text: str) -> tuple[str, Answered, dict[str, float]]:
        """Answer a question about an uploaded picture; returned only once the decision is on the disk.

        Returns
        -------
        tuple
            Decision id, the answer, and seconds by stage.

        Raises
        ------
        Busy, TimeoutError
            If there is no place, or the answer takes too long.
        ValueError
            For a picture or question that can't be used.
        LogError
            If the decision can't be logged.
        """
        came = time.perf_counter()
        self.engine.check(text)
        async with self.batcher.place():
            loop = asyncio.get_running_loop()
            image = await loop.run_in_executor(
                self._decoder, lambda: read_image(upload, name="the upload", max_pixels=self.config.pixels)
            )
            answered = await self.batcher.answer(Question(image, text, came), self.config.timeout)
            logged = time.perf_counter()
            record = self._record(answered, text)
            name = await acknowledged(self.log.append(record))
        now = time.perf_counter()
        stages = {"queue": answered.waited, **answered.allocation.timings, "log": now - logged, "total": now - came}
        self.metrics.answered(answered, stages)
        if self._watch.question(answered.taken.decision):
            self.metrics.alarms.labels("contexts").inc()
            logger.warning("the questions have drifted: population stability index %.2f", self._watch.psi)
        self.metrics.psi.set(self._watch.psi)
        return name, answered, stages

    def _record(self, answered: Answered, text: str) -> dict[str, Any]:
        allocation = answered.allocation
        return {
            "version": answered.version,
            "model": self.engine.identity,
            "answer": answered.text,
            **({"question": text} if self.config.log_questions else {}),
            "tokens": allocation.tokens,
            "full_tokens": allocation.full_tokens,
            "price": answered.price,
            **answered.taken.to_dict(),
        }

    # ---------------------------------------------------------------- rewards

    async def reward(self, name: str, value: float | None, answers: list[str] | None) -> tuple[float, bool]:
        """Take a reward; the same one may come again, another one may not.

        Returns
        -------
        tuple
            The reward that counts, and whether it was known already.

        Raises
        ------
        UnknownDecision, Conflict, LogError
        """
        decision = await asyncio.to_thread(find, self.log.folder, name)
        if decision is None:
            raise UnknownDecision(f"no decision has the id {name!r}")
        if value is None:
            value = vqa_accuracy(decision["answer"], answers or [])
        try:
            given = await acknowledged(self.log.reward(name, value))
        except LookupError as error:  # deleted meanwhile
            raise UnknownDecision(str(error.args[0])) from error
        if given.repeated:
            return given.reward, True
        self.metrics.reward.observe(value)
        if self._watch.reward(value):
            self.metrics.alarms.labels("reward").inc()
            logger.warning("the reward has fallen; retrain, or roll back to an earlier version")
        self.metrics.fall.set(self._watch.rewards.statistic)
        return value, False

    # ---------------------------------------------------------------- reloads

    async def _reload(self) -> None:
        """Serve another policy when the pointer names one, or on SIGHUP; keep the present one if it can't be used."""
        failed = ""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.config.reload_seconds)
            asked, version = self._wake.is_set(), "?"
            self._wake.clear()
            try:
                version = (await asyncio.to_thread(resolve, self.engine.source)).version
                if version == self.engine.served.version and not asked:
                    failed = ""
                    continue
                loaded = await asyncio.to_thread(self.engine.load)
                await self.batcher.between_batches(partial(self.engine.swap, loaded))
            except Exception as error:  # whatever is wrong with the new policy, the present one goes on
                if asked or failed != f"{version}: {error}":
                    self.metrics.reloads.labels("failed").inc()
                    logger.error("policy %s is not served: %s", version, error)
                failed = f"{version}: {error}"
                continue
            failed, self._watch = "", self._new_watch()
            self.metrics.reloads.labels("done").inc()
            self.metrics.policy.info({"version": self.engine.served.version})
            logger.info("policy %s is served", self.engine.served.version)

    def _new_watch(self) -> Watch:
        known = read_facts(self.engine.served.folder).get("contexts")
        try:
            return Watch(None if known is None else ContextReference.from_dict(known))
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("the policy's reference of contexts is damaged and not used: %s", error)
            return Watch()
