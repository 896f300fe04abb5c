"""The decision log against garbage, deletion, bad disks, hang-ups, restarts, replicas and wrong clocks."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from allocator.logged import commit
from allocator.logged import log as module
from allocator.logged import segments as reading
from allocator.logged.log import (
    Conflict,
    Damage,
    DecisionLog,
    LogError,
    Rewarded,
    acknowledged,
    find,
    prune,
    read_records,
    segments,
)


def test_a_garbage_line_is_counted_and_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever somebody puts into a segment, the others stay readable; a line without end fills no memory."""
    log = DecisionLog(tmp_path)
    names = [log.append({"n": n}).result() for n in range(3)]
    log.reward(names[0], 1.0).result()
    log.close()
    (path,) = segments(tmp_path)
    whole = path.read_bytes().splitlines(keepends=True)
    wrong = [
        b"\n", b"garbage\n", b"\xff\xfe\n", b'{"kind": "decision"\n', b'{"kind": "decision", "id": 3, "time": 1}\n',
        b'{"kind": "decision", "id": "../x", "time": 1}\n', whole[0].replace(b'"time": ', b'"time": NaN, "x": '),
        b'{"kind": "decision", "id": ' + b"[" * 100_000 + b"\n", b'{"kind": "reward", "reward": 1}\n',
    ]  # fmt: skip
    monkeypatch.setattr(reading, "LINE_BYTES", 400_000)
    path.write_bytes(whole[0] + b"".join(wrong) + b"x" * 900_000 + b"\n" + b"".join(whole[1:]) + b"torn")
    (tmp_path / "20261124t000000000000-abcdef-000001.jsonl").mkdir()
    damage = Damage()
    assert [r["n"] for r in read_records(tmp_path, damage=damage)] == [0, 1, 2]
    assert damage.lines == len(wrong) + 1
    rewards = path.with_suffix(".rewards")
    good = rewards.read_bytes()
    for value in (b"2", b"-1", b"NaN", b'"1"', b"true", b"null"):
        rewards.write_bytes(good.replace(b'"reward": 1.0', b'"reward": ' + value) + good)
        assert [r["reward"] for r in read_records(tmp_path, "reward", damage=damage)] == [1.0]


def test_a_segment_that_is_gone_takes_no_acknowledged_decision_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log = DecisionLog(folder)
    log.append({"n": 0}).result()
    (path,) = segments(folder)
    path.unlink()
    name = log.append({"n": 1}).result()
    assert find(folder, name) is not None
    (path,) = segments(folder)
    os.rename(path, folder / "moved away")
    other = log.append({"n": 2}).result()
    assert find(folder, name) is None and find(folder, other) is not None
    assert log.failure is None
    os.rename(folder, tmp_path / "elsewhere")
    with pytest.raises(LogError):
        log.append({"n": 3}).result()
    assert log.failure is not None  # not ready
    os.rename(tmp_path / "elsewhere", folder)
    log.close()


def test_readiness_comes_back_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sends a question to a server that isn't ready: only the log itself can find out that the disk is back."""
    monkeypatch.setattr(commit, "_RETRY", 0.02)
    log = DecisionLog(tmp_path)

    def full(descriptor: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", full)
        with pytest.raises(LogError, match="No space"):
            log.append({}).result(10)
        assert log.failure is not None
    until = time.monotonic() + 60
    while log.failure is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert log.failure is None
    log.close()


def test_a_disk_that_hangs_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "PATIENCE", 0.05)
    monkeypatch.setattr(commit, "_WAITING", 16)
    log, hang = DecisionLog(tmp_path), threading.Event()
    fsync = os.fsync
    monkeypatch.setattr(module.os, "fsync", lambda descriptor: (hang.wait(30), fsync(descriptor))[1])

    async def ask() -> None:
        with pytest.raises(LogError, match="within"):
            await acknowledged(log.append({"n": "late"}), 0.2)

    asyncio.run(ask())
    assert "has not answered" in str(log.failure)
    waiting = [log.append({"n": n}) for n in range(40)]
    assert sum(f.done() for f in waiting) >= 20  # refused at once: what waits is bounded
    hang.set()
    kept = [f for f in waiting if not f.done() or f.exception() is None]
    wait(kept, 10)
    assert log.append({"n": "after"}).result(10) and log.failure is None
    monkeypatch.setattr(commit, "PATIENCE", 10.0)
    log.close()
    assert [r["n"] for r in read_records(tmp_path)] == ["late", *range(len(kept)), "after"]


def test_a_wait_that_is_cancelled_does_not_end_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client hangs up between the write and its acknowledgement."""
    log, fsync = DecisionLog(tmp_path), os.fsync
    monkeypatch.setattr(module.os, "fsync", lambda descriptor: (time.sleep(0.1), fsync(descriptor))[1])

    async def hang_up() -> None:
        for wrapped in (acknowledged, asyncio.wrap_future):
            waiting = asyncio.ensure_future(wrapped(log.append({"n": "hung up"})))
            await asyncio.sleep(0.03)
            waiting.cancel()

    asyncio.run(hang_up())
    assert log.append({"n": "next"}).result(10)
    assert log.failure is None
    log.close()


def test_one_reward_for_a_decision_however_late_and_wherever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many writers, restarts and replicas, with clocks that are wrong, one reward is taken, all others refused."""
    names = []
    for n in range(20):  # more segments than a server would care to read when it starts
        log = DecisionLog(tmp_path, segment_bytes=1)
        names.append(log.append({"n": n}).result())
        log.close()
    first, second = DecisionLog(tmp_path), DecisionLog(tmp_path)
    monkeypatch.setattr(module.time, "time", lambda: 4e9)
    assert first.reward(names[0], 1.0).result() == Rewarded(1.0, False)
    monkeypatch.setattr(module.time, "time", lambda: 1e9)  # an earlier time, and yet later
    with pytest.raises(Conflict, match=r"the reward 1.0 already, not 0.0"):
        second.reward(names[0], 0.0).result()
    assert second.reward(names[0], 1.0).result() == Rewarded(1.0, True)
    third = DecisionLog(tmp_path)
    with pytest.raises(Conflict):
        third.reward(names[0], 0.5).result()
    futures = [log.reward(names[7], k / 10) for k in range(10) for log in (first, second, third)]  # all at once
    wait(futures, 30)
    taken = [f.result() for f in futures if f.exception() is None]
    assert sum(not t.repeated for t in taken) == 1 and len({t.reward for t in taken}) == 1 and len(taken) == 3
    assert all(isinstance(f.exception(), Conflict) for f in futures if f.exception())
    rewards = {r["decision"]: r["reward"] for r in read_records(tmp_path, "reward")}
    assert rewards == {names[0]: 1.0, names[7]: taken[0].reward}
    # A torn end, as a kill leaves it, is cut off by the next one and taken for nothing.
    (file,) = (p for p in tmp_path.glob("*.rewards") if names[7].startswith(p.stem))
    file.write_bytes(file.read_bytes()[:-7])
    assert first.reward(names[7], 0.25).result() == Rewarded(0.25, False)
    for log in (first, second, third):
        log.close()


def test_a_clients_pseudonym_is_the_same_everywhere_and_no_address(tmp_path: Path) -> None:
    one, other, elsewhere = DecisionLog(tmp_path / "a"), DecisionLog(tmp_path / "a"), DecisionLog(tmp_path / "b")
    names = [log.pseudonym("192.0.2.1") for log in (one, other, elsewhere)]
    assert names[0] == names[1] != names[2] and "192" not in names[0]
    assert one.pseudonym("192.0.2.2") != names[0]
    assert (tmp_path / "a" / ".clients").stat().st_mode & 0o007 == 0
    for log in (one, other, elsewhere):
        log.close()


def test_prune_deletes_the_oldest_and_asks_the_writers(tmp_path: Path) -> None:
    old = DecisionLog(tmp_path, segment_bytes=1)
    names = [old.append({"n": n, "pad": "x" * 1000}).result() for n in range(4)]
    old.reward(names[0], 1.0).result()
    for n, path in enumerate(sorted(segments(tmp_path))):
        os.utime(path, (1000 + n, 1000 + n))
    dry = prune(tmp_path, days=1, dry_run=True)
    assert len(dry.deleted) == 3 and len(dry.in_use) == 1 and len(segments(tmp_path)) == 4
    assert prune(tmp_path, size=3000).deleted == dry.deleted[:2]
    done = prune(tmp_path, days=1)
    assert len(done.deleted) == 1 and len(done.in_use) == 1  # the last one is being written, whatever its age
    assert not list(tmp_path.glob("*.rewards"))
    assert isinstance(old.reward(names[0], 1.0).exception(10), LookupError)
    assert old.append({"n": 4}).result()
    old.close()
    with pytest.raises(ValueError, match="days or a size"):
        prune(tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        prune(tmp_path / "none", days=1)
