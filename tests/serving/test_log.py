"""The decision log: acknowledged means on the disk, torn lines are never read, ids find their records."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

from allocator.logged import log as module
from allocator.logged.log import Damage, DecisionLog, LogError, Rewarded, find, read_records, segments

ROOT = Path(__file__).parents[2]


def test_every_acknowledged_record_is_read_back_in_order_and_found_by_its_id(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, segment_bytes=2000)
    names = [log.append({"n": n, "answer": "é\n" * (n % 7)}).result() for n in range(60)]
    assert log.reward(names[3], 1.0, client="a").result() == Rewarded(1.0, False)
    log.close()
    assert len(segments(tmp_path)) > 3 and len(set(names)) == 60
    records = sorted(read_records(tmp_path), key=lambda r: r["n"])
    assert [r["id"] for r in records] == names
    assert [(r["decision"], r["client"]) for r in read_records(tmp_path, "reward")] == [(names[3], "a")]
    for name, record in zip(names, records, strict=True):
        assert find(tmp_path, name) == record


def test_many_writers_share_one_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    log = DecisionLog(tmp_path, on_commit=lambda seconds, lines: groups.append(lines))
    release, fsync, calls = Future(), os.fsync, []

    def slow(descriptor: int) -> None:
        calls.append(descriptor)
        release.result(10)  # the disk is busy: meanwhile others arrive
        fsync(descriptor)

    monkeypatch.setattr(module.os, "fsync", slow)
    futures = [log.append({"n": n}) for n in range(200)]
    assert not any(future.done() for future in futures)  # nothing is acknowledged before it is on the disk
    release.set_result(None)
    wait(futures, 10)
    log.close()
    assert sum(groups) == 200 and 1 <= len(calls) <= 3
    assert [r["n"] for r in read_records(tmp_path)] == list(range(200))


def test_a_full_disk_is_reported_and_the_log_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, write = DecisionLog(tmp_path), os.write
    log.append({"n": 0}).result()

    def full(descriptor: int, data: Any) -> int:
        write(descriptor, bytes(data)[: len(data) // 2])  # half a line gets there
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    with pytest.raises(LogError, match="No space left"):
        log.append({"n": 1}).result()
    assert log.failure is not None
    monkeypatch.setattr(module.os, "write", write)
    log.append({"n": 2}).result()
    assert log.failure is None

    def unsafe(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", unsafe)  # the whole line is there, and nobody was told so
        with pytest.raises(LogError, match="Input/output"):
            log.append({"n": 3}).result()
    log.append({"n": 4}).result()
    log.close()
    assert [r["n"] for r in read_records(tmp_path)] == [0, 2, 4]


def test_whatever_fails_is_said_to_those_who_wait(tmp_path: Path) -> None:
    """A defect, not the disk: an append that is never answered would hang its request for ever."""
    broken = [True]

    def token(size: int) -> str:
        if broken[0]:
            raise ZeroDivisionError
        return "ab" * size

    log = DecisionLog(tmp_path, token=token)
    with pytest.raises(LogError, match="can't be written"):
        log.append({}).result(10)
    broken[0] = False
    log.append({"n": 1}).result(10)
    log.close()
    assert [r["n"] for r in read_records(tmp_path)] == [1]


def test_the_segments_written_last_can_be_read_alone(tmp_path: Path) -> None:
    old, young = DecisionLog(tmp_path, segment_bytes=1), DecisionLog(tmp_path, segment_bytes=1)
    for n, log in enumerate((young, old, young, old)):  # every record is a segment of its own; the names tell no time
        name = log.append({"n": n}).result()
        os.utime(tmp_path / (name.rpartition("-")[0].rpartition("-")[0] + ".jsonl"), (n, n))
    old.close()
    young.close()
    assert [r["n"] for r in read_records(tmp_path, newest=2)] == [2, 3]
    assert [r["n"] for r in read_records(tmp_path)] == [0, 1, 2, 3]


def test_a_torn_tail_is_not_read_and_a_damaged_line_is_named(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path)
    for n in range(3):
        log.append({"n": n}).result()
    log.close()
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    for cut in range(len(whole) - len(whole.splitlines()[-1]) - 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert [r["n"] for r in read_records(tmp_path)] == [0, 1]
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:40] + b"\n" + lines[2])
    damage = Damage()
    assert [r["n"] for r in read_records(tmp_path, damage=damage)] == [0, 2]
    assert damage.lines == 1 and "line 2" in damage.places[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_never_reaches_the_log(tmp_path: Path, value: float) -> None:
    log = DecisionLog(tmp_path)
    name = log.append({}).result()
    for wrong in (lambda: log.append({"price": value}), lambda: log.reward(name, value), lambda: log.reward("x", 1.0)):
        with pytest.raises(ValueError):
            wrong()
    log.close()
    assert len(list(read_records(tmp_path))) == 1 and list(read_records(tmp_path, "reward")) == []


@pytest.mark.parametrize(
    "name",
    ["", "x", "../../etc/passwd", "/etc/passwd", "{id}/..", "{id}\n", "{id}0", "{arabic}", "{other}", "{far}"],
)
def test_foreign_ids_find_nothing(tmp_path: Path, name: str) -> None:
    log = DecisionLog(tmp_path)
    known = log.append({}).result()
    log.close()
    far = known.replace("-000001-0-", "-000001-99999999-")
    forms = {"id": known, "other": known[:-1] + "g", "far": far, "arabic": known.replace("2", "٢")}
    assert find(tmp_path, name.format(**forms)) is None
    assert find(tmp_path, known[:-4] + "0000") is None  # the random part counts
    assert find(tmp_path, known) is not None


WRITER = """
import sys
from allocator.logged.log import DecisionLog
log = DecisionLog(sys.argv[1], segment_bytes=20_000)
pending = []
for n in range(10**9):
    pending.append((n, log.append({"n": n, "pad": "x" * (n % 300)})))
    while len(pending) > 50 or (pending and pending[0][1].done()):
        m, future = pending.pop(0)
        print(m, future.result(), flush=True)
"""


@pytest.mark.parametrize("lines", [1, 700])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, lines: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline() for _ in range(lines)]
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += writer.stdout.read().splitlines(keepends=True)
    writer.wait()
    known = dict(line.split() for line in acknowledged if line.endswith("\n"))
    found = {str(r["n"]): r["id"] for r in read_records(tmp_path)}
    assert len(known) >= lines and known.items() <= found.items()
    assert list(found) == [str(n) for n in range(len(found))]  # whole, in order, none twice
    again = DecisionLog(tmp_path)  # a successor takes segments of its own
    again.append({"n": "after"}).result()
    again.close()
    assert [r["n"] for r in read_records(tmp_path)] == [*range(len(found)), "after"]
    assert json.dumps(list(read_records(tmp_path, "reward"))) == "[]"
