"""What our own HTTP connection bounds beside uvicorn: the time of a head, and what is taken apart at a time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner

from arr_coc.cli import app
from arr_coc.serving import protocol
from tests.serving.conftest import listening


def test_who_never_ends_a_head_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody else: not who waits for an answer, nor who asks again on the same connection."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    inner = FastAPI()

    @inner.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(1.0)
        return "said"

    head = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
    with listening(inner, http=protocol.Protocol, timeout_keep_alive=60) as where:

        def closed(wait: float, *parts: bytes) -> bool:
            """Whether the server hangs up within so many seconds on who says this, after each answer but the last."""
            with socket.create_connection(where, timeout=60) as client:
                for part in parts:
                    client.sendall(part)
                    if part == head:
                        said = client.recv(4096)
                        assert said.startswith(b"HTTP/1.1 200")
                        while not said.endswith(b'"said"'):  # the body may come by itself
                            said += client.recv(4096)
                client.settimeout(wait)
                try:
                    return client.recv(4096) == b""
                except TimeoutError:
                    return False

        with ThreadPoolExecutor(6) as pool:
            hung_up_on = [(60, b""), (60, head[:9]), (60, head, head[:9])]
            kept = [(3, head), (3, head, head)]
            assert list(pool.map(lambda given: closed(*given), [*hung_up_on, *kept])) == [True] * 3 + [False] * 2

        with socket.create_connection(where, timeout=60) as client, contextlib.suppress(OSError):
            for byte in head[:9] * 20:  # a byte now and then starts no clock anew
                client.sendall(bytes([byte]))
                time.sleep(0.05)
            assert client.recv(4096) == b""


def test_what_is_read_at_a_time_is_taken_apart_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    take = protocol.Protocol.data_received
    monkeypatch.setattr(
        protocol.Protocol, "data_received", lambda self, data: (sizes.append(len(data)), take(self, data))[1]
    )
    with listening(FastAPI(), http=protocol.Protocol) as (host, port):
        assert httpx.post(f"http://{host}:{port}/x", content=b"x" * 2**20).status_code == 404
    assert sum(sizes) > 2**20 and max(sizes) <= protocol.READ_BYTES


@pytest.mark.parametrize("proxy", [None, "10.0.0.7"])
def test_a_forged_address_makes_nobody_another_client(
    proxy: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """uvicorn believes what a request from this machine says of its address; so one client could be thirty."""
    started: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: started.update(options, app=app))
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    if proxy is not None:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", proxy)
    done = CliRunner().invoke(app, ["serve", "--log", str(tmp_path / "log")])
    assert done.exit_code == 0, done.output
    assert started["proxy_headers"] is (proxy is not None) and started["http"] is protocol.Protocol
