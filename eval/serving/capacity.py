"""What a question costs, from the server to the night's retraining, and what that makes of a thousand or a million."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .server import Server, drive, samples

RATES = (1, 1_000, 1_000_000)
LAST = 200_000
"""Rounds that the nightly job keeps, as in the ConfigMap; half of them judge."""

_SHARE_BUSY = 0.7
_COPIES = 20  # of the rounds when time is taken, so that what is paid once weighs little


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Ask a real server, then read its log, learn from it and judge by it: processor time, whatever else is running.

    Returns
    -------
    dict
        Milliseconds per question of the server (one at a time, the reward included), bytes of log per record,
        milliseconds per round of each step of retraining, and the `arithmetic` of all that.
    """
    from allocator import Policy
    from allocator.logged.judge import judge
    from allocator.logged.log import segments
    from allocator.logged.rounds import read_rounds
    from arr_coc import reference
    from arr_coc.wrapping.saving import POLICY

    log, questions = folder / "log", samples(32, seed=4)
    with Server(log, "--timeout", "300") as server:
        server.wait()
        asyncio.run(drive(server.url, questions, 8, 1))  # warm
        before = server.cpu()
        asyncio.run(drive(server.url, questions, count, 1))
        spent = server.cpu() - before
    lines = [line for path in segments(log) for line in path.read_bytes().splitlines(keepends=True)]
    rounds = read_rounds(log).rounds
    many = rounds * _COPIES
    incumbent, new = (Policy.load(reference.policy_path() / POLICY) for _ in range(2))
    model: Any = new
    sizes = {kind: [len(x) for x in lines if x.startswith(b'{"kind": "' + kind)] for kind in (b"decision", b"reward")}
    facts = {
        "server, ms per question": 1000 * spent / count,
        **{f"bytes per {kind.decode()}": float(np.mean(found)) for kind, found in sizes.items()},
        "read, ms per round": _milliseconds(lambda: read_rounds(log)) / len(rounds),
        "learn, ms per round": _milliseconds(
            lambda: new.update_many([r.decision for r in many], [r.reward for r in many])
        ) / len(many),
        "judge, ms per round": _milliseconds(lambda: judge(many, incumbent, new, model)) / len(many),
    }  # fmt: skip
    patches = float(np.mean([len(r.costs) for r in rounds]))
    return {
        "questions": count, "patches per question": patches,
        "features of a patch": rounds[0].decision.contexts.shape[1], **facts,
        "at questions per hour": {str(rate): arithmetic(rate, facts) for rate in RATES},
    }  # fmt: skip


def arithmetic(rate: float, facts: dict[str, float]) -> dict[str, float]:
    """What so many questions per hour need, if each costs what was measured and each is rewarded."""
    nightly, cores = 24 * rate, rate / 3600 * facts["server, ms per question"] / 1000
    replicas = max(1, math.ceil(cores / _SHARE_BUSY))
    kept = min(nightly, LAST)
    milliseconds = (
        nightly * facts["read, ms per round"]
        + kept / 2 * facts["learn, ms per round"]
        + kept / 2 * facts["judge, ms per round"]
    )
    return {
        "questions per second": rate / 3600,
        "busy cores": cores,
        f"replicas of one core, {100 * _SHARE_BUSY:g} % busy": replicas,
        "log, MB per day": nightly * (facts["bytes per decision"] + facts["bytes per reward"]) / 1e6,
        "fsyncs per second and replica, at most": 2 * rate / 3600 / replicas,
        "rounds per night": nightly,
        "retraining, s": milliseconds / 1000,
    }


def _milliseconds(function: Callable[[], Any]) -> float:
    before = time.process_time()
    function()
    return 1000 * (time.process_time() - before)
