"""Load against direct generate, a soak, and kill -9 under load.

Clients are httpx's on one event loop (`server.drive`), not locust's: what is counted are acknowledged decisions on the
log, the memory of the server's processes and turns with a direct call, of which a load tool knows nothing; and locust
would bring gevent and flask.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from allocator.storage import replace_file

from ..records import environment
from .server import Sample, Server, Traffic, check_log, drive, samples

PLACES = 32
"""Of the server under load; fewer than by default, so that a bounded number of requests is too many."""

STRETCH = 25
"""Questions of a soak between two looks at the memory."""


def kills(
    folder: Path,
    times: int,
    minutes: float = 600.0,
    seed: int = 0,
    clients: int = 4,
    progress: bool = False,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """kill -9 at random moments under load, each time on the same log; none is begun when the minutes are over.

    Of an engine, its worker is killed: the process that holds the model.

    Returns
    -------
    dict
        Acknowledged decisions and rewards, and what of them was lost.
    """
    rng, questions, everything, done = random.Random(seed), samples(16, seed=1), Traffic(), 0
    until = time.monotonic() + 60 * minutes
    for _ in tqdm(range(times), "kill -9", disable=not progress):
        if time.monotonic() > until:
            break
        traffic = Traffic()
        with Server(folder / "log", *options) as server:
            server.wait()
            asyncio.run(_killed_under_load(server, questions, clients, rng.uniform(0.0, 3.0), traffic))
        done += 1
        everything.decisions += traffic.decisions
        everything.rewards |= traffic.rewards
    return {
        "kills": done,
        "acknowledged decisions": len(everything.decisions),
        "acknowledged rewards": len(everything.rewards),
        **check_log(folder / "log", everything),
    }


async def _killed_under_load(
    server: Server, questions: Sequence[Sample], clients: int, moment: float, traffic: Traffic
) -> None:
    load = asyncio.create_task(drive(server.url, questions, 10**6, clients, 300, traffic))
    while not traffic.decisions and not load.done():
        await asyncio.sleep(0.01)
    await asyncio.sleep(moment)
    server.kill_worker()
    await load


_WRITER = """
import sys
from allocator.logged.log import DecisionLog
log, pending = DecisionLog(sys.argv[1], segment_bytes=200_000), []
for n in range(10**9):
    pending.append((n, log.append({"n": n, "pad": "x" * (n % 3000)})))
    while len(pending) > 64 or (pending and pending[0][1].done()):
        m, future = pending.pop(0)
        print(m, future.result(), flush=True)
"""


def log_kills(folder: Path, times: int, seed: int = 0) -> dict[str, Any]:
    """kill -9 of a process that does nothing but append, at random moments, each time on the same log.

    No model, so that many kills are cheap: what is tried is the log alone, under a load that no model allows.
    """
    from allocator.logged.log import read_records

    rng, acknowledged, log = random.Random(seed), [], folder / "log"
    for _ in range(times):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(log)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        timer = threading.Timer(rng.uniform(0.0, 1.0), writer.kill)
        timer.start()
        lines += writer.stdout.readlines()
        writer.wait()
        acknowledged += [line.split()[1] for line in lines if line.endswith("\n")]
    found = [record["id"] for record in read_records(log)]
    return {
        "kills": times,
        "acknowledged records": len(acknowledged),
        "lost": len(set(acknowledged) - set(found)),
        "read twice": len(found) - len(set(found)),
        "on the log but not acknowledged": len(set(found) - set(acknowledged)),
    }


def direct(questions: Sequence[Sample], batch: int) -> tuple[list[float], float]:
    """The wrapped model in this process, preparation and decoding included.

    Returns
    -------
    tuple
        Seconds of each generate call, and processor seconds of all.
    """
    import torch

    import arr_coc
    from arr_coc import reference
    from arr_coc.asking.ask import answers, prepare

    model, processor = reference.load()
    seconds = []
    with arr_coc.ArrCoc.from_pretrained(reference.policy_path(), model, processor), torch.no_grad():
        before = time.process_time()
        for k in range(0, len(questions), batch):
            part = questions[k : k + batch]
            began = time.perf_counter()
            inputs = prepare(processor, [q["image"] for q in part], [q["question"] for q in part])
            answers(processor, inputs["input_ids"], model.generate(**inputs, do_sample=False))
            seconds.append(time.perf_counter() - began)
        return seconds, time.process_time() - before


def batches(size: int = 8, rounds: int = 3) -> dict[str, Any]:
    """What a generate call for several questions costs in this process, per question, and how much of it is padding.

    Returns
    -------
    dict
        Processor milliseconds per question, medians over the rounds, of three ways to ask the same questions: one at
        a time; together, so that the shorter prompts are padded; each with copies of itself, so that none is.
    """
    questions = samples(size, seed=2)
    ways = {
        "one at a time": (questions, 1),
        f"{size} together, padded to the longest": (questions, size),
        f"{size} copies of each together, no padding": ([q for q in questions for _ in range(size)], size),
    }
    direct(questions, size)  # warm
    spent = [{name: direct(part, n)[1] / len(part) for name, (part, n) in ways.items()} for _ in range(rounds)]
    return {
        "questions": size, "rounds": rounds,
        "cpu ms per question": {name: 1000 * float(np.median([turn[name] for turn in spent])) for name in ways},
    }  # fmt: skip


def load(folder: Path, count: int = 240, rounds: int = 2) -> dict[str, Any]:
    """The server against direct generate, in turns, so that what slows one slows both.

    Parameters
    ----------
    folder
        Of the log.
    count
        Questions of each row of the table, over all rounds; at least 32 each time, the same ones in every row.
    rounds
        Turns; the table has the medians over them.

    Returns
    -------
    dict
        Per row questions per second, latencies (direct: of a generate call), processor time of the process that
        answers, per question, and errors; then what became of more clients than there are places, and the log.
    """
    questions, each = samples(32, seed=2), max(32, count // rounds)
    direct(questions[:8], 8)  # warm
    table: dict[str, list[dict[str, float]]] = {}
    everything = Traffic()
    with Server(folder / "log", "--queue", str(PLACES), "--timeout", "300") as server:
        server.wait()
        asyncio.run(drive(server.url, questions, 8, 8))  # warm
        for _ in range(rounds):
            for batch in (1, 8):
                part = [questions[k % 32] for k in range(each)]
                seconds, spent = direct(part, batch)
                row = _row(len(part), sum(seconds), spent, seconds)
                table.setdefault(f"direct generate, batches of {batch}", []).append(row)
            for clients in (1, 8, 32):
                began, before = time.perf_counter(), server.cpu()
                traffic = asyncio.run(drive(server.url, questions, each, clients))
                seconds, spent = traffic.seconds, server.cpu() - before
                row = _row(len(seconds), time.perf_counter() - began, spent, seconds)
                table.setdefault(f"server, {clients} clients", []).append({**row, "errors": _errors(traffic)})
                everything.decisions += traffic.decisions
                everything.rewards |= traffic.rewards
        over = asyncio.run(drive(server.url, questions, 8 * PLACES, 4 * PLACES, 60))
        everything.decisions += over.decisions
        everything.rewards |= over.rewards
    return {
        "questions": each * rounds, "rounds": rounds,
        "table": {
            name: {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
            for name, rows in table.items()
        },
        "more clients than places": {**over.statuses, "errors": _errors(over)},
        "log": check_log(folder / "log", everything),
    }  # fmt: skip


def soak(
    folder: Path,
    count: int,
    minutes: float = 600.0,
    clients: int = 8,
    progress: bool = False,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Many requests at one server, until all are answered or the minutes are over: errors, and its memory."""
    questions = samples(64, seed=3)
    memory, asked, errors, everything = [], 0, 0, Traffic()
    with (
        Server(folder / "log", "--timeout", "300", *options) as server,
        tqdm(total=count, desc="questions", disable=not progress) as bar,
    ):
        server.wait()
        began = time.monotonic()
        while asked + errors < count and time.monotonic() - began < 60 * minutes:
            traffic = asyncio.run(drive(server.url, questions, min(STRETCH, count - asked), clients))
            asked, errors = asked + len(traffic.seconds), errors + _errors(traffic)
            everything.decisions += traffic.decisions
            everything.rewards |= traffic.rewards
            memory.append(server.memory() / 2**20)
            bar.update(len(traffic.seconds))
        seconds = time.monotonic() - began
    half = memory[len(memory) // 2 :]
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0]) if len(half) > 2 else None
    return {
        "questions": asked, "errors": errors, "seconds": seconds,
        "log": check_log(folder / "log", everything),
        f"MiB after each {STRETCH}": [round(m, 1) for m in memory], f"MiB per {STRETCH}, second half": slope,
    }  # fmt: skip


def _row(count: int, seconds: float, cpu: float, latencies: Sequence[float]) -> dict[str, float]:
    low, high = np.quantile(latencies, (0.5, 0.99)) if latencies else (np.nan, np.nan)
    return {
        "per second": count / seconds, "p50 ms": 1000 * float(low), "p99 ms": 1000 * float(high),
        "cpu ms per question": 1000 * cpu / max(count, 1),
    }  # fmt: skip


def _errors(traffic: Traffic) -> int:
    return sum(count for status, count in traffic.statuses.items() if status not in ("200", "429"))


def record(out: Path, name: str, results: dict[str, Any]) -> None:
    """Write results with the circumstances of the measurement."""
    out.mkdir(parents=True, exist_ok=True)
    facts = {**environment(), "load average": os.getloadavg()}
    replace_file(out / f"{name}.json", json.dumps({**results, "environment": facts}, indent=1) + "\n")
