"""Load against direct generate, a soak, and kill -9 under load."""

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
from eval.records import environment
from eval.serving.server import Sample, Server, Traffic, check_log, drive, samples


def kills(
    folder: Path, times: int, minutes: float = 600.0, seed: int = 0, clients: int = 4, progress: bool = False
) -> dict[str, Any]:
    """kill -9 at random moments under load, each time on the same log; none is begun when the minutes are over.

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
        server, traffic = Server(folder / "log").wait(), Traffic()
        asyncio.run(_killed_under_load(server, questions, clients, rng.uniform(0.0, 3.0), traffic))
        server.process.wait()
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
    server.process.kill()
    await load


_WRITER = """
import sys
from arr_coc.serving.log import DecisionLog
log, pending = DecisionLog(sys.argv[1], segment_bytes=200_000), []
for n in range(10**9):
    pending.append((n, log.append("decision", {"n": n, "pad": "x" * (n % 3000)})))
    while len(pending) > 64 or (pending and pending[0][1].done()):
        m, future = pending.pop(0)
        print(m, future.result(), flush=True)
"""


def log_kills(folder: Path, times: int, seed: int = 0) -> dict[str, Any]:
    """kill -9 of a process that does nothing but append, at random moments, each time on the same log.

    No model, so that many kills are cheap: what is tried is the log alone, under a load that no model allows.
    """
    from arr_coc.serving.log import read_records

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


def direct(questions: Sequence[Sample], batch: int) -> list[float]:
    """Seconds of each generate call of the wrapped model in this process, preparation and decoding included."""
    import torch

    import arr_coc
    from arr_coc import reference
    from arr_coc.asking import answers, prepare

    model, processor = reference.load()
    seconds = []
    with arr_coc.ArrCoc.from_pretrained(reference.policy_path(), model, processor), torch.no_grad():
        for k in range(0, len(questions), batch):
            part = questions[k : k + batch]
            began = time.perf_counter()
            inputs = prepare(processor, [q["image"] for q in part], [q["question"] for q in part])
            answers(processor, inputs["input_ids"], model.generate(**inputs, do_sample=False))
            seconds.append(time.perf_counter() - began)
    return seconds


def load(folder: Path, count: int = 240, rounds: int = 1) -> dict[str, Any]:
    """Throughput and latency of the server against direct generate, in turns, so that what slows one slows both."""
    questions = samples(32, seed=2)
    direct(questions[:8], 8)  # warm
    server = Server(folder / "log", "--queue", "64", "--timeout", "300").wait()
    results: dict[str, Any] = {"questions": count, "rounds": rounds}
    try:
        asyncio.run(drive(server.url, questions, 8, 8))  # warm
        table: dict[str, list[dict[str, float]]] = {}
        for _ in range(rounds):
            for batch in (1, 8):
                part = questions[: max(8, min(32, count // 4))]
                seconds = direct(part, batch)
                table.setdefault(f"direct generate, batches of {batch}", []).append(
                    {"per second": len(part) / sum(seconds), **_quantiles(seconds)}
                )
            for clients in (1, 8, 32):
                began = time.perf_counter()
                traffic = asyncio.run(drive(server.url, questions, count // rounds, clients))
                rate = len(traffic.seconds) / (time.perf_counter() - began)
                table.setdefault(f"server, {clients} clients", []).append(
                    {"per second": rate, **_quantiles(traffic.seconds), "errors": _errors(traffic)}
                )
        results["table"] = {
            name: {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
            for name, rows in table.items()
        }
        over = asyncio.run(drive(server.url, questions, count, 200, 30))  # more clients than places
        results["beyond the queue"] = {**over.statuses, "errors": _errors(over)}
        results["log"] = check_log(folder / "log", over)
    finally:
        server.stop()
    return results


def soak(
    folder: Path, count: int, minutes: float = 600.0, clients: int = 8, progress: bool = False
) -> dict[str, Any]:
    """Many requests at one server, until all are answered or the minutes are over: errors, and its memory."""
    questions = samples(64, seed=3)
    server = Server(folder / "log", "--timeout", "300").wait()
    memory, asked, errors, began = [], 0, 0, time.monotonic()
    bar = tqdm(total=count, desc="questions", disable=not progress)
    everything = Traffic()
    try:
        while asked + errors < count and time.monotonic() - began < 60 * minutes:
            traffic = asyncio.run(drive(server.url, questions, min(100, count - asked), clients))
            asked, errors = asked + len(traffic.seconds), errors + _errors(traffic)
            everything.decisions += traffic.decisions
            everything.rewards |= traffic.rewards
            memory.append(server.memory() / 2**20)
            bar.update(len(traffic.seconds))
    finally:
        bar.close()
        server.stop()
    half = memory[len(memory) // 2 :]
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0]) if len(half) > 2 else None
    return {
        "questions": asked, "errors": errors, "seconds": time.monotonic() - began,
        "log": check_log(folder / "log", everything),
        "MiB after each hundred": [round(m, 1) for m in memory], "MiB per hundred, second half": slope,
    }  # fmt: skip


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {name: 1000 * float(np.quantile(seconds, q)) for name, q in (("p50 ms", 0.5), ("p99 ms", 0.99))}


def _errors(traffic: Traffic) -> int:
    return sum(count for status, count in traffic.statuses.items() if status not in ("200", "429"))


def record(out: Path, name: str, results: dict[str, Any]) -> None:
    """Write results with the circumstances of the measurement."""
    out.mkdir(parents=True, exist_ok=True)
    facts = {**environment(), "load average": os.getloadavg()}
    replace_file(out / f"{name}.json", json.dumps({**results, "environment": facts}, indent=1) + "\n")
