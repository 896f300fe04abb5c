"""A server as a process of its own, and clients that ask it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

Sample = dict[str, Any]
ROOT = Path(__file__).parents[2]
VLLM = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_CI_ENV": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}  # fmt: skip
"""Of an engine on a small machine without a network, which shares its cores with whatever else runs."""
ENGINE = ("--engine", "vllm", "--engine-args", "--enforce-eager --max-num-seqs 16 --max-num-batched-tokens 4096")
"""Options of a `Server` that is vLLM's."""


@dataclass
class Traffic:
    """What clients saw.

    Attributes
    ----------
    seconds
        Latency of every answer.
    statuses
        How many replies had each status; "lost" where the connection broke.
    decisions, rewards
        Acknowledged decision ids, and rewards by decision id.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    decisions: list[str] = field(default_factory=list)
    rewards: dict[str, float] = field(default_factory=dict)


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """SIGTERM as an exception, so that a trial which is ended ends what it started; for the main thread."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Server:
    """``arr-coc serve`` as a process of its own, until the end of a ``with`` block.

    Parameters
    ----------
    log
        Folder of its decision log; what it prints goes to ``server.txt`` beside it.
    options
        Further command-line options.
    program
        The module that is run, with arguments of its own.
    """

    def __init__(self, log: Path, *options: str, program: Sequence[str] = ("arr_coc.cli",)) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log, self.url = log, f"http://127.0.0.1:{self.port}"
        self.output = log.parent / "server.txt"
        command = [sys.executable, "-m", *program, "serve", "--log", str(log), "--port", str(self.port), *options]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=output,
                env={**VLLM, **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def wait(self, seconds: float = 600) -> Self:
        """Until it is ready.

        Raises
        ------
        RuntimeError
            If it ends or does not become ready.
        """
        import httpx

        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return self
            time.sleep(0.1)
        raise RuntimeError(f"the server did not become ready:\n{self.output.read_text()[-2000:]}")

    def kill_worker(self) -> None:
        """kill -9 of the process that holds the model: an engine's own, else the server."""
        engines = []
        for child in self._family()[1:]:
            with contextlib.suppress(OSError):
                if "EngineCore" in Path(f"/proc/{child}/cmdline").read_text():
                    engines.append(child)
        for pid in engines or [self.process.pid]:
            os.kill(pid, signal.SIGKILL)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end, and wait."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def cpu(self) -> float:
        """Seconds of processor time until now, its children's too: what other work on the machine hardly changes."""
        seconds = 0.0
        for pid in self._family():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds

    def _family(self) -> list[int]:
        """The process and all that descend from it."""
        found = [self.process.pid]
        for pid in found:
            for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += [int(child) for child in tasks.read_text().split()]
        return found

    def memory(self) -> int:
        """Resident bytes now, its children's too; what they share counts for each."""
        pages = 0
        for pid in self._family():
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def samples(n: int, seed: int = 0) -> list[Sample]:
    """Reference questions with their pictures as PNG bytes."""
    from arr_coc import reference

    made = []
    for sample in reference.generate(n, seed=seed, split="eval"):
        file = io.BytesIO()
        sample["image"].save(file, "PNG")
        made.append({**sample, "png": file.getvalue()})
    return made


async def drive(
    url: str,
    questions: Sequence[Sample],
    count: int,
    clients: int,
    seconds: float = 600.0,
    traffic: Traffic | None = None,
    reward: bool = True,
) -> Traffic:
    """Ask and reward, `clients` at a time, until `count` questions are asked, time is up or the server is gone.

    ``traffic`` is filled on the way, for whoever watches; without ``reward`` questions are only asked.
    """
    import httpx

    traffic = Traffic() if traffic is None else traffic
    left, until = iter(range(count)), time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=clients)) as client:

        async def one() -> None:
            for n in left:
                if time.monotonic() > until:
                    return
                q = questions[n % len(questions)]
                began = time.perf_counter()
                try:
                    reply = await client.post(
                        "/answer", files={"image": ("image", q["png"])}, data={"question": q["question"]}
                    )
                    traffic.statuses[str(reply.status_code)] += 1
                    if reply.status_code == 429:
                        await asyncio.sleep(0.05)
                    if reply.status_code != 200:
                        continue
                    traffic.seconds.append(time.perf_counter() - began)
                    name = reply.json()["id"]
                    traffic.decisions.append(name)
                    if not reward:
                        continue
                    given = await client.post("/reward", json={"id": name, "answers": q["answers"]})
                    if given.status_code == 200:
                        traffic.rewards[name] = given.json()["reward"]
                except httpx.TransportError:
                    traffic.statuses["lost"] += 1
                    return

        await asyncio.gather(*(one() for _ in range(clients)))
    return traffic


def check_log(log: Path, traffic: Traffic) -> dict[str, int]:
    """What was acknowledged and is not on the log; everything must be zero.

    Raises
    ------
    ValueError
        If a record can't be read back.
    """
    from allocator.logged.log import read_records

    decisions = {record["id"] for record in read_records(log, "decision")}
    rewards: dict[str, float] = {}
    for record in read_records(log, "reward"):
        rewards.setdefault(record["decision"], record["reward"])
    return {
        "lost decisions": len(set(traffic.decisions) - decisions),
        "lost rewards": sum(rewards.get(name) != value for name, value in traffic.rewards.items()),
        "decisions twice": len(traffic.decisions) - len(set(traffic.decisions)),
    }
