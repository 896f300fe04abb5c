"""Group commit: one thread writes what many callers wait for, a group at a time.

What may go wrong with a disk goes wrong here: a write that fails is told to those who wait, and the disk is looked at
again while nobody does, so that the log is known to work before anybody is sent to it; one that hangs is waited for no
longer than a caller wants, and what queues up behind it is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 10.0
"""Seconds after which a disk that doesn't answer counts as failed."""
_GROUP = 1024  # items of one commit at most
_WAITING = 8192  # items in the queue at most; beyond it nothing is accepted
_HEARTBEAT, _RETRY = 5.0, 1.0  # seconds between two looks at the disk, when it works and when it doesn't


class LogError(OSError):
    """The log could not be written; what was to be acknowledged must not be."""


class GroupCommit(Generic[Item, Result]):
    """A thread that commits.

    Parameters
    ----------
    name
        Of the thread, and in errors.
    commit
        Puts items on the disk; per item its result, or the exception it deserves. What it raises, all of them get.
    look
        Raises OSError while the disk can't be written; called when nothing else is to be done.
    """

    def __init__(
        self, name: str, commit: Callable[[Sequence[Item]], Sequence[Result | Exception]], look: Callable[[], None]
    ) -> None:
        self.name, self._commit, self._look = name, commit, look
        self._items: queue.Queue[tuple[Item, Future[Result]] | None] = queue.Queue(_WAITING)
        self._error: Exception | None = None
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        """Why nothing can be committed now, or None."""
        since = self._since
        if since is not None and (waited := time.monotonic() - since) > PATIENCE:
            return f"{self.name}: the disk has not answered for {waited:.0f} s"
        return None if self._error is None else f"{self.name} can't be written: {self._error}"

    def put(self, item: Item) -> Future[Result]:
        """Have an item committed.

        Returns
        -------
        Future
            Its result, once it is on the disk; LogError if it can't get there. One that is cancelled before its
            turn is never written; after that it can't be cancelled.
        """
        future: Future[Result] = Future()
        try:
            self._items.put_nowait((item, future))
        except queue.Full:
            future.set_exception(LogError(f"{self.name}: {_WAITING} records wait for the disk already"))
        return future

    def close(self) -> None:
        """Commit what is waiting and end the thread; a disk that hangs isn't waited for."""
        with contextlib.suppress(queue.Full):
            self._items.put(None, timeout=PATIENCE)
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        last = False
        while not last:
            try:
                first = self._items.get(timeout=_HEARTBEAT if self._error is None else _RETRY)
            except queue.Empty:
                self._guarded(self._look)
                continue
            group, last = [] if first is None else [first], first is None
            with contextlib.suppress(queue.Empty):
                while len(group) < _GROUP and not last:
                    item = self._items.get_nowait()
                    last = item is None
                    group += [] if item is None else [item]
            # From here on nobody can cancel: a result that nobody may be given would end the thread.
            group = [(item, future) for item, future in group if future.set_running_or_notify_cancel()]
            if group:
                self._settle(group)

    def _settle(self, group: list[tuple[Item, Future[Result]]]) -> None:
        results: Sequence[Result | Exception] = ()

        def commit() -> None:
            nonlocal results
            results = self._commit([item for item, _ in group])
            failed = next((r for r in results if isinstance(r, OSError)), None)
            if failed is not None:
                raise failed

        self._guarded(commit)
        for k, (_, future) in enumerate(group):
            result = results[k] if k < len(results) else LogError(f"{self.name} can't be written: {self._error}")
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _guarded(self, work: Callable[[], None]) -> None:
        self._since = time.monotonic()
        try:
            work()
        except Exception as error:  # of whatever kind: nobody may wait for ever, and the thread must live
            self._error = error
        else:
            self._error = None
        finally:
            self._since = None


async def acknowledged(future: Future[Result], seconds: float = PATIENCE) -> Result:
    """Wait for a commit inside an event loop, where the waiting may be cancelled and the commit may not.

    Raises
    ------
    LogError
        If it failed, or took longer than that many seconds; it may still be written then.
    """
    try:
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), seconds)
    except TimeoutError:
        raise LogError(f"the decision log has not reached the disk within {seconds:g} s") from None
