"""The service behind the HTTP routes, over whichever engine: decisions on the log, rewards, drift and reloads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from allocator.logged.commit import PATIENCE
from allocator.logged.log import DecisionLog, LogError, acknowledged, find
from allocator.logged.shift import ContextReference, Watch

from ..asking.images import read_image
from ..learning.rewards import vqa_accuracy
from .config import ServeConfig
from .engine import Answered, Busy, Engine
from .metrics import Metrics
from .room import Room
from .store import read_facts, resolve

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class UnknownDecision(LookupError):
    """No decision has that id."""


class Service:
    """Everything a server does, without HTTP.

    Parameters
    ----------
    engine
        Who answers.
    config
        See `ServeConfig`.
    log
        Folder of the decision log.
    """

    def __init__(self, engine: Engine, config: ServeConfig, log: Path) -> None:
        self.engine, self.config, self.metrics = engine, config, Metrics()
        self.log = DecisionLog(log, on_commit=self.metrics.committed)
        self.ready = False
        self._decoder, self._decoding = ThreadPoolExecutor(2, thread_name_prefix="decode"), asyncio.Semaphore(2)
        self._room = Room(config.waiting_bytes)
        self._wake = asyncio.Event()
        self._watch = self._new_watch()
        self._tasks: list[asyncio.Task[None]] = []

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Begin to work."""
        self.metrics.policy.info({"version": self.engine.policies.version})
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # no SIGHUP, or no main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._wake.set)
        self._tasks.append(asyncio.create_task(self._reload()))
        self.ready = True

    async def stop(self) -> None:
        """Finish what is inside, and leave the log closed and the model as it was."""
        self.ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.engine.stop()
        self._decoder.shutdown()
        await asyncio.to_thread(self.log.close)

    # ---------------------------------------------------------------- answers

    async def answer(
        self, upload: Callable[[], Awaitable[bytes]], text: str
    ) -> tuple[str, Answered, dict[str, float]]:
        """Answer a question about an uploaded picture; returned only once the decision is on the disk.

        The upload is read when its turn to be decoded has come: until then it lies where it arrived.

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
        if self.engine.inside >= self.config.queue:
            raise Busy(1)  # before a picture is decoded
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.config.timeout), self._decoding:
            # Whoever is next at the decoder waits for room: no more than two pictures are beyond the bound.
            read = partial(read_image, await upload(), name="the upload", max_pixels=self.config.pixels)
            image = await loop.run_in_executor(self._decoder, read)
            size = 3 * image.width * image.height
            await self._room.enter(size)
        try:
            answered = await self.engine.answer(image, text)
        finally:
            await self._room.leave(size)
        return await self.note(answered, text, came)

    async def note(self, answered: Answered, text: str, came: float) -> tuple[str, Answered, dict[str, float]]:
        """Put an answer on the log and into the metrics.

        Parameters
        ----------
        answered
            The answer.
        text
            What was asked.
        came
            When it came in (`time.perf_counter`).

        Returns
        -------
        tuple
            As of `answer`.

        Raises
        ------
        LogError
            If it can't be logged.
        """
        logged = time.perf_counter()
        name = await acknowledged(self.log.append(self._record(answered, text)))
        now = time.perf_counter()
        stages = {**answered.timings, "log": now - logged, "total": now - came}
        self.metrics.answered(answered, stages)
        if answered.taken is not None and self._watch.question(answered.taken.decision):
            self.metrics.alarms.labels("contexts").inc()
            logger.warning("the questions have drifted: population stability index %.2f", self._watch.psi)
        self.metrics.psi.set(self._watch.psi)
        return name, answered, stages

    def _record(self, answered: Answered, text: str) -> dict[str, Any]:
        return {
            "version": answered.version,
            "model": self.engine.identity,
            "answer": answered.text,
            **({"question": text} if self.config.log_questions else {}),
            "tokens": answered.tokens,
            "full_tokens": answered.full_tokens,
            "price": answered.price,
            **({"fallback": answered.fallback} if answered.taken is None else answered.taken.to_dict()),
        }

    # ---------------------------------------------------------------- rewards

    async def reward(
        self, name: str, value: float | None, answers: list[str] | None, address: str | None = None
    ) -> tuple[float, bool]:
        """Take a reward, from a client at that address; the same one may come again, another one may not.

        Returns
        -------
        tuple
            The reward that counts, and whether it was known already.

        Raises
        ------
        UnknownDecision, Conflict, LogError
        """
        decision = await _from_disk(find, self.log.folder, name)
        if decision is None:
            raise UnknownDecision(f"no decision has the id {name!r}")
        if value is None:
            if decision["answer"] is None:
                raise ValueError("the answer was streamed and is not on the log; score it yourself and give reward")
            value = vqa_accuracy(decision["answer"], answers or [])
        try:
            client = None if address is None else await _from_disk(self.log.pseudonym, address)
            given = await acknowledged(self.log.reward(name, value, client))
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
                version = (await asyncio.to_thread(resolve, self.engine.policies.source)).version
                if version == self.engine.policies.version and not asked:
                    failed = ""
                    continue
                await self.engine.adopt(await asyncio.to_thread(self.engine.policies.load))
            except Exception as error:  # whatever is wrong with the new policy, the present one goes on
                if asked or failed != f"{version}: {error}":
                    self.metrics.reloads.labels("failed").inc()
                    logger.error("policy %s is not served: %s", version, error)
                failed = f"{version}: {error}"
                continue
            failed, self._watch = "", await asyncio.to_thread(self._new_watch)
            self.metrics.reloads.labels("done").inc()
            self.metrics.policy.info({"version": self.engine.policies.version})
            logger.info("policy %s is served", self.engine.policies.version)

    def _new_watch(self) -> Watch:
        known = read_facts(self.engine.policies.folder).get("contexts")
        try:
            return Watch(None if known is None else ContextReference.from_dict(known))
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("the policy's reference of contexts is damaged and not used: %s", error)
            return Watch()


async def _from_disk(read: Callable[..., Result], *arguments: Any) -> Result:
    """What reading gives, in a thread; LogError if the disk fails or does not answer."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(read, *arguments), PATIENCE)
    except OSError as error:  # a TimeoutError is one
        raise LogError(f"the decision log can't be read: {error or 'the disk does not answer'}") from error
