"""The server as a process of its own: kill -9 under load, SIGHUP, an orderly end, hostile bodies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from eval.serving.hostile import hostile_requests
from eval.serving.server import ROOT, Server, Traffic, check_log, drive, samples
from eval.serving.trials import kills


def test_kill_9_under_load_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    found = kills(tmp_path, 3)
    assert found["acknowledged decisions"] >= 3
    assert found["lost decisions"] == found["lost rewards"] == found["decisions twice"] == 0, found


def test_a_server_ends_in_order_reloads_on_sighup_and_refuses_strangers(tmp_path: Path) -> None:
    questions = samples(8, seed=5)
    with Server(tmp_path / "log", "--timeout", "120") as server:
        server.wait()
        os.kill(server.process.pid, signal.SIGHUP)
        until = time.monotonic() + 60
        while 'arr_coc_policy_reloads_total{result="done"} 1.0' not in httpx.get(f"{server.url}/metrics").text:
            assert time.monotonic() < until
            time.sleep(0.1)
        with httpx.Client(base_url=server.url, timeout=120) as client:
            for number, request in enumerate(hostile_requests()):
                if number % 6:
                    continue  # all of them: python -m eval serving hostile
                try:
                    reply = client.request(**request)
                except httpx.TransportError:
                    continue  # closed on it before it was done talking
                assert reply.status_code < 500 and "Traceback" not in reply.text, (request["url"], reply.text)
        traffic = Traffic()

        async def stop_under_load() -> None:
            load = asyncio.create_task(drive(server.url, questions, 200, 4, 100, traffic))
            while len(traffic.decisions) < 4:
                await asyncio.sleep(0.05)
            server.process.send_signal(signal.SIGTERM)
            await load

        asyncio.run(stop_under_load())
        server.process.wait(60)
    assert server.process.returncode in (0, -signal.SIGTERM)  # uvicorn raises the signal again when it is done
    assert set(traffic.statuses) <= {"200", "lost"}  # refused connections; what was inside was answered
    assert not any(check_log(tmp_path / "log", traffic).values())
    output = server.output.read_text()
    assert "Traceback" not in output and not any(q["question"] in output for q in questions)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")
def test_a_trial_that_is_ended_ends_its_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eval", "serving", "soak", "-n", "1000", "--out", str(tmp_path)]
    trial = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (servers := children(trial.pid)):
        assert trial.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    trial.send_signal(signal.SIGTERM)
    assert trial.wait(90) == 128 + signal.SIGTERM
    assert not any(Path(f"/proc/{pid}").exists() for pid in servers)


def children(parent: int) -> list[int]:
    """Processes that it started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        (["--host", "0.0.0.0"], "ARR_COC_TOKEN"),
        (["--policy", "/nowhere"], "neither a store"),
        (["--explore", "2"], "share"),
    ],
)
def test_bad_options_are_one_clear_line(
    options: list[str], needle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: object
) -> None:
    from typer.testing import CliRunner

    import arr_coc.reference
    from arr_coc.cli import app

    monkeypatch.delenv("ARR_COC_TOKEN", raising=False)
    monkeypatch.setattr(arr_coc.reference, "load", lambda *_, **__: reference)
    result = CliRunner().invoke(app, ["serve", "--log", str(tmp_path / "log"), *options])
    assert result.exit_code == 2 and needle in result.stderr and "Traceback" not in result.output
