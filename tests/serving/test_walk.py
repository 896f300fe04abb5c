"""Serve and retrain, as printed: the page's lines run in their order, from nothing, against real servers."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

import arr_coc
from arr_coc.cli import app

PAGE = Path(arr_coc.__file__).parent / "serving" / "README.md"
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[:3]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def served(words: list[str], folder: Path, port: int) -> subprocess.Popen[bytes]:
    """``arr-coc serve ... &``, until it answers."""
    command = [sys.executable, "-m", "arr_coc.cli", *words[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PAGE.parents[2])}
    with (folder / "server.txt").open("ab") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return process
        except httpx.HTTPError:
            time.sleep(0.2)
    process.kill()
    pytest.fail((folder / "server.txt").read_text()[-2000:])


def test_the_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ports = {"8000": str(free_port()), "8001": str(free_port())}
    servers, replies, ran = [], [], []
    try:
        for kind, text in BLOCKS:
            for port, mine in ports.items():
                text = text.replace(port, mine)
            if kind == "python":
                exec(compile(text, str(PAGE), "exec"), {})
                continue
            for line in text.splitlines():
                words = shlex.split(line.removesuffix("&"))
                if words[0] == "pip":
                    continue
                ran.append(words[1] if words[0] == "arr-coc" else words[0])
                if line.endswith("&"):
                    port = words[words.index("--port") + 1] if "--port" in words else ports["8000"]
                    words += [] if "--port" in words else ["--port", port]
                    servers.append(served(words, tmp_path, int(port)))
                elif words[0] == "curl":
                    known = next((reply["id"] for reply in replies if isinstance(reply, dict)), "")
                    words = [word.replace('"ID"', f'"{known}"') for word in words]
                    done = subprocess.run([*words, "-s", "--fail-with-body"], capture_output=True, text=True)
                    assert done.returncode == 0, done.stdout + done.stderr
                    replies.append(json.loads(done.stdout))
                else:
                    words = [word.replace("300", "6") for word in words]
                    shown = CliRunner().invoke(app, words[1:])
                    assert shown.exit_code == 0, (line, shown.output, shown.exception)
                    replies.append(shown.output)
    finally:
        for server in servers:
            server.terminate()
            server.wait(60)
    assert ran == ["reference", "serve", "curl", "curl", "retrain", "serve", "rollback"]
    answer, reward, report, back = (reply for reply in replies if not str(reply).startswith("6 pictures"))
    assert next(iter(answer)) == "id" and answer["answer"] in ("yes", "no")
    assert reward["id"] == answer["id"] and reward["reward"] == 1.0
    assert "Incumbent 0001" in report and "| decisions | 7 |" in report
    assert back == "version 0001 -> 0001\n"


@pytest.mark.parametrize(
    ("command", "needles"),
    [
        (["retrain", "--log", "log", "--out", "store"], ["--incumbent reference"]),
        (["rollback", "store"], ["store is no store", "arr-coc retrain"]),
    ],
)
def test_without_a_store_the_remedy_is_named(tmp_path: Path, monkeypatch, command, needles) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 2 and all(needle in shown.stderr for needle in needles), shown.stderr


def test_serving_a_store_that_is_not_there_names_the_remedy(tmp_path: Path) -> None:
    from arr_coc.serving.store import resolve

    with pytest.raises(ValueError, match="make one: arr-coc retrain --log LOG --incumbent reference --out"):
        resolve(tmp_path / "store")


def test_free_settings_are_served_and_others_are_refused_before_a_model_is_loaded(reference, monkeypatch) -> None:
    from allocator.logged.explore import Exploration
    from arr_coc.serving.policy import Policies

    monkeypatch.setattr(arr_coc.reference, "load", lambda *name: pytest.fail("the model was loaded"))
    policies = Policies(
        arr_coc.reference.policy_path(), Exploration(), *reference, changes={"limit": 0.5, "price": 0.2}
    )
    for config, price in ((policies.config, policies.once().price), (None, policies.load().planner.price)):
        assert price == 0.2 and (config is None or config.limit == 0.5)
    for options, said in (
        (["--set", "wrap.scorers=[participatory]"], "arr-coc learn wrap.scorers="),
        (["--set", "wrap.limt=1"], "Did you mean 'limit'"),
        (["--model", "./no/such"], "does not exist"),
        (["--policy", "nothing/here"], "neither a store of versions nor a saved policy"),
    ):
        shown = CliRunner().invoke(app, ["serve", *options])
        assert shown.exit_code == 2 and said in shown.stderr, shown.output
