"""The append-only log of decisions and rewards.

JSON Lines in segments. Whoever appends waits until the line is on the disk (fsync); one fsync covers all lines that
arrived meanwhile (group commit), so waiting costs latency but no throughput. Each process writes segments of its own
and never opens an old one again: what a kill leaves torn is a last line without its newline, which no reader takes.

A decision's id says where it lies (writer, segment, byte offset) and carries a random part that cannot be guessed, so
a late reward finds its decision without an index, after a restart, and from another replica that shares the folder.

    20261124t093000123456-1f3a9c-000001.jsonl      decisions of one writer; it holds a lock on the file while it writes
    20261124t093000123456-1f3a9c-000001.rewards    their rewards, whoever they came to, under a lock

One decision, one reward, however late and at whichever replica: all rewards of a segment are in one file, and who
appends to it holds its lock and has read what is there. The first one counts, whatever any clock says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

from ..locks import locked, same_file, try_lock
from .commit import PATIENCE, GroupCommit, LogError, acknowledged
from .feedback import Conflict, Reward, Rewarded, RewardFiles, sync_folder, write_all
from .segments import (
    Damage,
    Record,
    find,
    prune,
    read_records,
    segment_of,
    segments,
)

__all__ = [
    "Conflict", "Damage", "DecisionLog", "LogError", "Record", "Rewarded", "acknowledged", "find", "prune",
    "read_records", "segments",
]  # fmt: skip

SECRET = ".clients"
SEGMENT_BYTES = 64 * 2**20
SEGMENT_SECONDS = 86400.0


class DecisionLog:
    """The writing side: one open segment, a thread for decisions and one for rewards.

    Parameters
    ----------
    folder
        Made if missing. Several processes may share it; its file system must have locks (`flock`).
    segment_bytes, segment_seconds
        Size and age from which a new segment is begun.
    on_commit
        Told (seconds, lines) of every group commit, for metrics.
    token
        Random hexadecimal digits, of so many bytes, for the ids; a simulation may bring a seeded generator.

    Raises
    ------
    OSError
        If the folder can't be made, written or locked.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        segment_bytes: int = SEGMENT_BYTES,
        on_commit: Callable[[float, int], None] = lambda seconds, lines: None,
        token: Callable[[int], str] = secrets.token_hex,
        segment_seconds: float = SEGMENT_SECONDS,
    ) -> None:
        self.folder, self.on_commit, self.token = Path(folder), on_commit, token
        self.segment_bytes, self.segment_seconds = segment_bytes, segment_seconds
        self._secret: bytes | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.writer = f"{datetime.now(UTC):%Y%m%dt%H%M%S%f}-{secrets.token_hex(3)}"
        self._number, self._offset, self._file, self._path, self._begun = 0, 0, -1, self.folder, 0.0
        self._open_segment()
        self._rewards = RewardFiles(self.folder)
        where = f"the decision log in {self.folder}"
        self._decisions: GroupCommit[str, str] = GroupCommit(where, self._commit, self._look)
        self._feedback: GroupCommit[Reward, Rewarded] = GroupCommit(where, self._commit_rewards, self._look_at_folder)

    @property
    def failure(self) -> str | None:
        """Why decisions or rewards can't be written now, or None; looked at every few seconds when nothing comes."""
        return self._decisions.failure or self._feedback.failure

    def append(self, record: Record) -> Future[str]:
        """Put a decision on the log.

        Parameters
        ----------
        record
            Plain data; ``kind``, ``id`` and ``time`` are added.

        Returns
        -------
        Future
            Resolved with the decision's id once it is on the disk; raises LogError if it can't get there.

        Raises
        ------
        ValueError
            If the record is no JSON, NaN and infinity included.
        """
        return self._decisions.put(json.dumps({"time": time.time(), **record}, allow_nan=False))

    def reward(self, decision: str, value: float, client: str | None = None) -> Future[Rewarded]:
        """Put the reward of a decision on the log, unless it has one.

        Parameters
        ----------
        decision
            Its id.
        value
            In [0, 1].
        client
            Whoever gave it, as far as that is known; `arr_coc.serving.nightly` bounds what one can do.

        Returns
        -------
        Future
            Resolved once the reward is on the disk, this one or the same one that came before. Raises Conflict if
            another one came before, LookupError if the decision is not on the log, LogError if it can't get there.

        Raises
        ------
        ValueError
            If the id is none, or the value lies outside [0, 1].
        """
        place = segment_of(self.folder, decision)
        if place is None:
            raise ValueError(f"{decision!r} is no decision's id")
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"the reward {value!r} lies outside [0, 1]")
        return self._feedback.put(Reward(place[0], decision, float(value), client))

    def pseudonym(self, address: str) -> str:
        """What the log calls a client at that address: the same in all processes, and no way back without the folder's
        own secret, its file `SECRET`."""
        if self._secret is None:
            with locked(self.folder / SECRET, PATIENCE) as file:
                secret = os.pread(file, 64, 0)
                if len(secret) < 32:
                    secret = secrets.token_bytes(32)
                    os.pwrite(file, secret, 0)
            self._secret = secret[:32]
        return hashlib.blake2b(address.encode(), key=self._secret, digest_size=6).hexdigest()

    def close(self) -> None:
        """Commit what is waiting and close the segment."""
        self._decisions.close()
        self._feedback.close()
        self._leave_segment()

    def _commit(self, bodies: Sequence[str]) -> list[str]:
        began = time.perf_counter()
        try:
            old = time.monotonic() - self._begun > self.segment_seconds
            if self._file < 0 or self._offset >= self.segment_bytes or (old and self._offset):
                self._open_segment()
            names = self._write(bodies)
            if not same_file(self._file, self._path):  # somebody has deleted or renamed it: nobody would read this
                self._open_segment()
                names = self._write(bodies)
                if not same_file(self._file, self._path):
                    raise OSError(f"{self._path} is deleted while it is written")
        except Exception:
            self._abandon()
            raise
        self.on_commit(time.perf_counter() - began, len(names))
        return names

    def _write(self, bodies: Sequence[str]) -> list[str]:
        names, data = [], bytearray()
        for body in bodies:
            name = f"{self.writer}-{self._number:06d}-{self._offset + len(data)}-{self.token(8)}"
            data += f'{{"kind": "decision", "id": "{name}", {body[1:]}\n'.encode()
            names.append(name)
        write_all(self._file, data)
        self._offset += len(data)
        return names

    def _commit_rewards(self, rewards: Sequence[Reward]) -> list[Rewarded | Exception]:
        began = time.perf_counter()
        results = self._rewards.commit(rewards)
        self.on_commit(time.perf_counter() - began, len(rewards))
        return results

    def _look(self) -> None:
        """Heal what can be healed while nobody waits, and find out whether the disk can be written again."""
        if self._file < 0 or not same_file(self._file, self._path):
            self._open_segment()
        os.fsync(self._file)

    def _look_at_folder(self) -> None:
        os.stat(self.folder)

    def _open_segment(self) -> None:
        self._leave_segment()
        self._number += 1
        self._path = self.folder / f"{self.writer}-{self._number:06d}.jsonl"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        try_lock(self._file)  # `prune` asks for it
        self._offset, self._begun = 0, time.monotonic()
        sync_folder(self.folder)

    def _leave_segment(self) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):
                if not self._offset and same_file(self._file, self._path):
                    self._path.unlink()  # nothing was ever in it
            os.close(self._file)
            self._file = -1

    def _abandon(self) -> None:
        """Leave a segment that may hold half a line; the next commit begins another one."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._offset)
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1


def secret_of(folder: str | os.PathLike[str]) -> bytes:
    """What nobody outside knows of a log, 32 bytes; nothing while its servers have not named a client."""
    try:
        return (Path(folder) / SECRET).read_bytes()[:32]
    except OSError:
        return b""
