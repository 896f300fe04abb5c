"""The append-only log of decisions and rewards.

JSON Lines in segments. Whoever appends waits until the line is on the disk (fsync); one fsync covers all lines that
arrived meanwhile (group commit), so waiting costs latency but no throughput. Each process writes segments of its own
and never opens an old one again: what a kill leaves torn is a last line without its newline, which no reader takes.

A record's id says where it lies (writer, segment, byte offset) and carries a random part that cannot be guessed, so a
late reward finds its decision without an index, after a restart, and from another replica that shares the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Record = dict[str, Any]

SEGMENT_BYTES = 64 * 2**20
_GROUP = 1024  # lines of one fsync at most
_ID = re.compile(r"(\d{8}t\d{12}-[0-9a-f]{6})-(\d{6})-(\d{1,12})-[0-9a-f]{16}", re.ASCII)
_SEGMENT = re.compile(r"\d{8}t\d{12}-[0-9a-f]{6}-\d{6}\.jsonl", re.ASCII)


class LogError(OSError):
    """The log could not be written; what was to be acknowledged must not be."""


class DecisionLog:
    """The writing side: one thread, one open segment.

    Parameters
    ----------
    folder
        Made if missing. Several processes may share it.
    segment_bytes
        Size from which a new segment is begun.
    on_commit
        Told (seconds, lines) of every group commit, for metrics.
    token
        Random hexadecimal digits, of so many bytes, for the ids; a simulation may bring a seeded generator.

    Raises
    ------
    OSError
        If the folder can't be made or written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        segment_bytes: int = SEGMENT_BYTES,
        on_commit: Callable[[float, int], None] = lambda seconds, lines: None,
        token: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self.folder, self.segment_bytes, self.on_commit = Path(folder), segment_bytes, on_commit
        self.token = token
        self.folder.mkdir(parents=True, exist_ok=True)
        self.writer = f"{datetime.now(UTC):%Y%m%dt%H%M%S%f}-{secrets.token_hex(3)}"
        self.failure: Exception | None = None
        self._number, self._offset, self._file = 0, 0, -1
        self._open_segment()
        self._lines: queue.SimpleQueue[tuple[str, str, Future[str]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    def append(self, kind: str, record: Record) -> Future[str]:
        """Put a record on the log.

        Parameters
        ----------
        kind
            "decision" or "reward".
        record
            Plain data; ``kind``, ``id`` and ``time`` are added.

        Returns
        -------
        Future
            Resolved with the record's id once it is on the disk; raises LogError if it can't get there.

        Raises
        ------
        ValueError
            If the record is no JSON, NaN and infinity included.
        """
        body = json.dumps({"time": time.time(), **record}, allow_nan=False)
        future: Future[str] = Future()
        self._lines.put((kind, body, future))
        return future

    def close(self) -> None:
        """Commit what is waiting and close the segment."""
        self._lines.put(None)
        self._thread.join()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _run(self) -> None:
        while (first := self._lines.get()) is not None:
            group, last = [first], False
            with contextlib.suppress(queue.Empty):
                while len(group) < _GROUP and not last:
                    line = self._lines.get_nowait()
                    last = line is None
                    group += [] if line is None else [line]
            self._commit(group)
            if last:
                return

    def _commit(self, group: list[tuple[str, str, Future[str]]]) -> None:
        began = time.perf_counter()
        try:
            if self._file < 0 or self._offset >= self.segment_bytes:
                self._open_segment()
            ids, data = [], bytearray()
            for kind, body, _ in group:
                name = f"{self.writer}-{self._number:06d}-{self._offset + len(data)}-{self.token(8)}"
                data += f'{{"kind": "{kind}", "id": "{name}", {body[1:]}\n'.encode()
                ids.append(name)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except Exception as error:  # of whatever kind: nobody may wait for ever
            self.failure = error
            self._abandon()
            for *_, future in group:
                future.set_exception(LogError(f"the decision log in {self.folder} can't be written: {error}"))
            return
        self.failure = None
        self._offset += len(data)
        for name, (*_, future) in zip(ids, group, strict=True):
            future.set_result(name)
        self.on_commit(time.perf_counter() - began, len(group))

    def _open_segment(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._number += 1
        path = self.folder / f"{self.writer}-{self._number:06d}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        self._offset = 0
        directory = os.open(self.folder, os.O_RDONLY)  # the new name must survive a power cut too
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _abandon(self) -> None:
        """Leave a segment that may hold half a line; the next commit begins another one."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._offset)
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1


def segments(folder: str | os.PathLike[str]) -> list[Path]:
    """The segments of a log, the oldest writer first."""
    return sorted(path for path in Path(folder).glob("*.jsonl") if _SEGMENT.fullmatch(path.name))


def read_records(
    folder: str | os.PathLike[str], kind: str | None = None, newest: int | None = None
) -> Iterator[Record]:
    """Every whole record of a log, segment by segment, in the order of writing within one.

    Parameters
    ----------
    folder
        The log.
    kind
        Only records of this kind; the other lines are not even parsed.
    newest
        Only so many segments, those that were written last.

    Raises
    ------
    ValueError
        If a line that was completed is no record: the disk or somebody changed it.
    """
    start, paths = b'{"kind": "' + (kind or "").encode(), segments(folder)
    if newest is not None:
        paths = sorted(paths, key=lambda path: path.stat().st_mtime_ns)[-newest:]
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # torn by a kill, or being written right now: never acknowledged
                if not line.startswith(start):
                    if not line.startswith(b'{"kind": "'):
                        raise ValueError(f"{path}, line {number} is no log record; move that segment away")
                    continue
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path}, line {number} is damaged ({error}); move that segment away") from error


def find(folder: str | os.PathLike[str], name: str) -> Record | None:
    """The decision with that id, or None. An id is no path: only its own digits reach the file system."""
    match = _ID.fullmatch(name)
    if match is None:
        return None
    path = Path(folder) / f"{match[1]}-{match[2]}.jsonl"
    try:
        with path.open("rb") as file:
            file.seek(int(match[3]))
            line = file.readline()
    except OSError:
        return None
    if not line.endswith(b"\n") or not line.startswith(f'{{"kind": "decision", "id": "{name}"'.encode()):
        return None
    record: Record = json.loads(line)
    return record
