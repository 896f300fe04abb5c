"""The rewards of a log: one file beside each segment, appended to under its lock by whoever a reward comes to."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..locks import locked
from .commit import PATIENCE, LogError
from .segments import parse, reward_file

_REMEMBERED = 200_000  # rewards that are kept in memory, beside the file they are in


class Conflict(ValueError):
    """A decision has another reward already; it is named."""


@dataclass(frozen=True)
class Rewarded:
    """The reward that counts for a decision, and whether it was there already."""

    reward: float
    repeated: bool


@dataclass(frozen=True)
class Reward:
    """A reward that somebody gives, and the segment of its decision."""

    segment: Path
    decision: str
    value: float
    client: str | None


@dataclass
class _Known:
    """What was read of a reward file: which file, how far, and the rewards."""

    inode: int
    offset: int
    rewards: dict[str, float]


class RewardFiles:
    """The reward files of a folder; one thread uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: OrderedDict[Path, _Known] = OrderedDict()

    def commit(self, rewards: Sequence[Reward]) -> list[Rewarded | Exception]:
        """Put rewards on the disk; per reward what counts now, or why it doesn't."""
        results: list[Rewarded | Exception] = [LogError("not written")] * len(rewards)
        by_segment: dict[Path, list[int]] = defaultdict(list)
        for k, reward in enumerate(rewards):
            by_segment[reward.segment].append(k)
        for segment, rows in by_segment.items():
            try:
                found: Sequence[Rewarded | Exception] = self._commit(segment, [rewards[k] for k in rows])
            except Exception as error:
                self._known.pop(reward_file(segment), None)
                reason = LogError(f"the rewards in {self.folder} can't be written: {error}")
                found = [reason] * len(rows)
            for k, result in zip(rows, found, strict=True):
                results[k] = result
        return results

    def _commit(self, segment: Path, rewards: Sequence[Reward]) -> list[Rewarded | Exception]:
        if not segment.is_file():
            return [LookupError(f"no decision has the id {r.decision!r}") for r in rewards]
        path = reward_file(segment)
        with locked(path, PATIENCE, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
            if not segment.is_file():  # pruned while we waited
                path.unlink(missing_ok=True)
                return [LookupError(f"no decision has the id {r.decision!r}") for r in rewards]
            known, foreign = self._read(path, file)
            results: list[Rewarded | Exception] = []
            data = bytearray()
            for r in rewards:
                before = known.rewards.get(r.decision)
                if before is None:
                    known.rewards[r.decision] = r.value
                    more = {} if r.client is None else {"client": r.client}
                    line = {"kind": "reward", "decision": r.decision, "reward": r.value, "time": time.time(), **more}
                    data += json.dumps(line, allow_nan=False).encode() + b"\n"
                    results.append(Rewarded(r.value, False))
                elif before == r.value:
                    results.append(Rewarded(before, True))
                else:
                    reason = f"decision {r.decision} has the reward {before} already, not {r.value}"
                    results.append(Conflict(f"{reason}; the first one counts"))
            if data or foreign:  # what another process wrote may not be on the disk yet, and is repeated here
                try:
                    write_all(file, data)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.ftruncate(file, known.offset)
                    raise
                if not known.offset:
                    sync_folder(self.folder)
            known.offset += len(data)
        self._known[path] = known
        self._known.move_to_end(path)
        while len(self._known) > 1 and sum(len(k.rewards) for k in self._known.values()) > _REMEMBERED:
            self._known.popitem(last=False)
        return results

    def _read(self, path: Path, file: int) -> tuple[_Known, bool]:
        """What the file holds, and whether others have added to it; half a line at its end is cut off."""
        inode, size = os.fstat(file).st_ino, os.fstat(file).st_size
        known = self._known.get(path)
        if known is None or known.inode != inode or known.offset > size:
            known = _Known(inode, 0, {})
        if size == known.offset:
            return known, False
        data = bytearray()
        while len(data) < size - known.offset:
            part = os.pread(file, size - known.offset - len(data), known.offset + len(data))
            if not part:
                break
            data += part
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(file, known.offset + whole)  # torn by a kill; its lock is ours, so nobody is writing it
        for line in bytes(data[:whole]).split(b"\n")[:-1]:
            with contextlib.suppress(ValueError):
                record = parse(line, "reward")
                known.rewards.setdefault(record["decision"], float(record["reward"]))
        known.offset += whole
        return known, True


def write_all(descriptor: int, data: bytearray) -> None:
    """Write all of it, and wait until it is on the disk."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
