"""Reading a decision log, finding one decision in it, and deleting its oldest part.

A line that is no record, whoever put it there, is passed over, counted and named: a log of months must not be lost to
one of them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..locks import locked, try_lock

Record = dict[str, Any]

LINE_BYTES = 16 * 2**20
"""Longest line that is read."""
_NAME = r"(\d{8}t\d{12}-[0-9a-f]{6})-(\d{6})"
_ID = re.compile(_NAME + r"-(\d{1,12})-[0-9a-f]{16}", re.ASCII)
_SEGMENT = re.compile(_NAME + r"\.jsonl", re.ASCII)


@dataclass
class Damage:
    """What a reader passed over.

    Attributes
    ----------
    lines
        How many.
    places
        The first twenty, in words.
    """

    lines: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, path: Path, number: int, reason: object) -> None:
        """Count one."""
        self.count(f"{path.name}, line {number}: {reason}")

    def count(self, place: str) -> None:
        """Count one whose place is said otherwise."""
        self.lines += 1
        if len(self.places) < 20:
            self.places.append(place[:300])


def segments(folder: str | os.PathLike[str]) -> list[Path]:
    """The segments of a log, the one written last at the end."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):  # it may be deleted while we look
                if _SEGMENT.fullmatch(entry.name) and entry.is_file():
                    found.append((entry.stat().st_mtime_ns, entry.name))
    return [Path(folder) / name for _, name in sorted(found)]


def reward_file(segment: Path) -> Path:
    """Where the rewards of a segment's decisions are."""
    return segment.with_suffix(".rewards")


def segment_of(folder: str | os.PathLike[str], name: str) -> tuple[Path, int] | None:
    """Segment and byte offset that a decision's id speaks of, or None: an id is no path, only its digits are used."""
    match = _ID.fullmatch(name)
    return None if match is None else (Path(folder) / f"{match[1]}-{match[2]}.jsonl", int(match[3]))


def parse(line: bytes, kind: str) -> Record:
    """The record of a line.

    Raises
    ------
    ValueError
        If it is none of that kind.
    """
    if len(line) > LINE_BYTES:
        raise ValueError(f"longer than {LINE_BYTES} bytes")
    if not line.startswith(b'{"kind": "' + kind.encode() + b'"'):
        raise ValueError(f"no {kind}")
    try:
        record = json.loads(line, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    names = ("id",) if kind == "decision" else ("decision",)
    numbers = ("time",) if kind == "decision" else ("time", "reward")
    for key in names:
        if not isinstance(record.get(key), str) or not _ID.fullmatch(record[key]):
            raise ValueError(f"its {key} is none")
    for key in numbers:
        value = record.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"its {key} is no number")
    if kind == "reward" and not 0 <= record["reward"] <= 1:
        raise ValueError("its reward lies outside [0, 1]")
    return record


def read_segment(path: Path, kind: str = "decision", damage: Damage | None = None) -> Iterator[Record]:
    """Every whole record of a file, in the order of writing; a file that is gone, or can't be read, has none.

    A last line without its newline was torn by a kill, or is being written: never acknowledged, so not even counted.
    """
    damage = Damage() if damage is None else damage
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(LINE_BYTES + 1):
                number += 1
                end = line
                while not end.endswith(b"\n"):
                    end = file.readline(LINE_BYTES)  # the rest of a line without end is looked at and not kept
                    if not end:
                        return
                try:
                    record = parse(line, kind)
                except ValueError as error:
                    damage.add(path, number, error)
                    continue
                yield record
    except FileNotFoundError:
        return
    except OSError as error:
        damage.add(path, number + 1, error)


def read_rewards(segment: Path, damage: Damage | None = None) -> dict[str, Record]:
    """The rewards of a segment's decisions by their ids; of two for one decision the first counts."""
    rewards: dict[str, Record] = {}
    for record in read_segment(reward_file(segment), "reward", damage):
        rewards.setdefault(record["decision"], record)
    return rewards


def read_records(
    folder: str | os.PathLike[str], kind: str = "decision", newest: int | None = None, damage: Damage | None = None
) -> Iterator[Record]:
    """Every whole record of a log, segment by segment, in the order of writing within one.

    Parameters
    ----------
    folder
        The log.
    kind
        "decision" or "reward".
    newest
        Only so many segments, those that were written last.
    damage
        Told what is passed over.
    """
    paths = segments(folder)
    for path in paths if newest is None else paths[-newest:]:
        yield from read_segment(path if kind == "decision" else reward_file(path), kind, damage)


def find(folder: str | os.PathLike[str], name: str) -> Record | None:
    """The decision with that id, or None."""
    place = segment_of(folder, name)
    if place is None:
        return None
    try:
        with place[0].open("rb") as file:
            file.seek(place[1])
            line = file.readline(LINE_BYTES + 1)
        record = parse(line, "decision")
    except (OSError, ValueError):
        return None
    return record if record["id"] == name and line.endswith(b"\n") else None


@dataclass(frozen=True)
class Pruned:
    """What `prune` did: segments deleted, their bytes, and segments that were left because a server writes them."""

    deleted: list[str]
    bytes: int
    in_use: list[str]


def prune(
    folder: str | os.PathLike[str], *, days: float | None = None, size: int | None = None, dry_run: bool = False
) -> Pruned:
    """Delete the segments that were written longest ago, with their rewards.

    Never one that a server writes: a writer holds a lock on its segment, which is how it is asked. A reward that comes
    for a decision that was deleted is refused as unknown.

    Parameters
    ----------
    folder
        The log.
    days
        Delete what was last written longer ago.
    size
        Delete the oldest until the rest, rewards included, has at most so many bytes.
    dry_run
        Only say so.

    Raises
    ------
    ValueError
        If neither is given, one is negative, or there is no such folder.
    """
    if days is None and size is None:
        raise ValueError("nothing says what to keep; give days or a size")
    if (days is not None and not days >= 0) or (size is not None and size < 0):
        raise ValueError(f"days={days}, size={size}: neither may be negative")
    if not Path(folder).is_dir():
        raise ValueError(f"{os.fspath(folder)} is no folder; name the --log folder of arr-coc serve")
    paths = segments(folder)
    sizes = {path: sum(_stat(p, "st_size") for p in (path, reward_file(path))) for path in paths}
    left, freed = sum(sizes.values()), 0
    deleted: list[str] = []
    in_use: list[str] = []
    for path in paths:
        old = days is not None and time.time() - _stat(path, "st_mtime") > 86400 * days
        if not old and (size is None or left <= size):
            continue
        if not _delete(path, dry_run):
            in_use.append(path.name)
            continue
        left, freed = left - sizes[path], freed + sizes[path]
        deleted.append(path.name)
    for lonely in Path(folder).glob("*.rewards"):  # a kill between the two, or a segment deleted by hand
        if not dry_run and not lonely.with_suffix(".jsonl").exists():
            lonely.unlink(missing_ok=True)
    return Pruned(deleted, freed, in_use)


def _delete(path: Path, dry_run: bool) -> bool:
    try:
        with path.open("r+b") as file:  # some file systems lock only what may be written
            if not try_lock(file.fileno()):
                return False
            if not dry_run:
                with locked(reward_file(path), 10.0):  # nobody is in the middle of a reward
                    path.unlink()
                    reward_file(path).unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    except TimeoutError:
        return False
    return True


def _stat(path: Path, name: str) -> Any:
    try:
        return getattr(path.stat(), name)
    except OSError:
        return 0


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
