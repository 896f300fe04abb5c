"""Malformed and hostile requests."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import hooks
from .server import ROOT, Server, drive, samples

SIZES = (5, 40, 1000, 100_000)


def hostile(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Malformed and hostile requests by hand; the schema-based ones are those of :func:`fuzz`.

    Returns
    -------
    dict
        Statuses, and how many replies were 5xx or looked like a traceback.
    """
    import httpx

    statuses: Counter[str] = Counter()
    bad: list[str] = []
    with (
        Server(folder / "log", "--timeout", "20") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        server.wait()
        for request in hostile_requests(seed):
            try:
                reply = client.request(**request)
            except httpx.TransportError:
                statuses["connection closed"] += 1
                continue
            statuses[str(reply.status_code)] += 1
            if reply.status_code >= 500 or "Traceback" in reply.text:
                bad.append(f"{request['method']} {request['url'][:60]}: {reply.status_code}")
        alive = client.get("/readyz").status_code == 200
        slow = _slow_clients(server.port)
        alive = client.get("/readyz").status_code == 200 and alive
    return {
        "requests": sum(statuses.values()), "statuses": dict(statuses), "5xx or traceback": bad,
        "tracebacks in the server's output": server.output.read_text().count("Traceback"),
        "slow clients": slow, "alive afterwards": alive,
    }  # fmt: skip


def fuzz(folder: Path, examples: int = 100) -> dict[str, Any]:
    """Requests made from the OpenAPI schema by schemathesis; it must be installed, see ``make hostile``.

    The schema alone makes no picture that can be read and no decision that was made, so that most requests would be
    refused at the door: `eval.serving.hooks` puts real ones into a part of them, and counts the replies.

    Returns
    -------
    dict
        Its exit code, the statuses of every operation, and the end of what it says.
    """
    with Server(folder / "log", "--timeout", "60") as server:
        server.wait()
        known = asyncio.run(drive(server.url, samples(16, seed=6), max(examples // 4, 1), 2, reward=False))
        replies = folder / "replies.jsonl"
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--seed", "0"]
        command += ["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]
        command += ["--checks", "response_schema_conformance", "--max-examples", str(examples), "--no-color"]
        env = {**os.environ, "SCHEMATHESIS_HOOKS": "eval.serving.hooks", hooks.REPLIES: str(replies)}
        env[hooks.DECISIONS] = json.dumps(known.decisions)
        env["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=env, cwd=folder)
    statuses: dict[str, Counter[str]] = {}
    for line in replies.read_text().splitlines() if replies.is_file() else ():
        operation, status = json.loads(line)
        statuses.setdefault(operation, Counter())[str(status)] += 1
    return {
        "exit code": done.returncode,
        "statuses": {operation: dict(sorted(counts.items())) for operation, counts in sorted(statuses.items())},
        "says": done.stdout.splitlines()[-25:] or done.stderr.splitlines()[-25:],
        "tracebacks in the server's output": server.output.read_text().count("Traceback"),
    }


def hostile_requests(seed: int = 0) -> Iterator[dict[str, Any]]:
    """About 200 requests that no friend would send."""
    rng = random.Random(seed)
    good = samples(1, seed=4)[0]
    names = [
        "../../etc/passwd",
        "/etc/shadow",
        "..\\..\\x",
        "a\x00b",
        "%2e%2e%2f",
        "con",
        "x" * 5000,
        "\u202egnp.exe",
        "",
    ]
    words = [
        "",
        " ",
        "\x00",
        "\u0000what",
        "?" * 2000,
        "x" * 3000,
        "\ud7ff",
        "𝔘𝔫𝔦",
        "<|im_start|>",
        "<image>",
        "a\nb\r\n\r\n",
    ]
    pictures = [good["png"][:k] for k in (0, 1, 8, 20, 33, 60, 200, len(good["png"]) // 2)]
    pictures += [
        b"GIF89a" + rng.randbytes(50),
        b"\xff\xd8\xff\xe0" + rng.randbytes(500),
        b"II*\x00" + rng.randbytes(99),
    ]
    pictures += [b"RIFF\xff\xff\xff\xffWEBP" + rng.randbytes(99), b"<svg onload=x>", b"%PDF-1.7", _bomb()]
    for name in names:
        yield _ask(good["png"], "what is this ?", name)
    for word in words:
        yield _ask(good["png"], word)
    for picture in pictures:
        yield _ask(picture, "what is this ?")
    for _ in range(40):  # flipped bytes
        broken = bytearray(good["png"])
        for _ in range(rng.choice([1, 5, 50])):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        yield _ask(bytes(broken), "what is this ?")
    for _ in range(40):  # bodies that are no multipart, or not quite
        body = rng.randbytes(rng.choice(SIZES))
        kind = rng.choice(
            ["multipart/form-data", "multipart/form-data; boundary=b", "application/json", "text/plain", "x"]
        )
        head = rng.choice(
            [b"", b"--b\r\n", b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n']
        )
        yield {"method": "POST", "url": "/answer", "content": head + body, "headers": {"content-type": kind}}
    ids = [
        "../../../etc/passwd",
        "x" * 79,
        "0" * 80,
        "\u0661",
        "20261124t000000000000-abcdef-000001-0-0123456789abcdef",
    ]
    for name in ids:
        for value in (0, 1, -1, 2, "1", None, [], {}, True, 1e308):
            yield _json("/reward", {"id": name, "reward": value})
        yield _json("/reward", {"id": name, "answers": ["x"] * 60})
        yield _json("/reward", {"id": name, "answers": [None]})
    for text in (
        "",
        "{",
        "null",
        "[1]",
        '{"id": 1}',
        '{"id": "a", "reward": NaN}',
        "[" * 5000,
        '"' + "x" * 10**6 + '"',
    ):
        yield {"method": "POST", "url": "/reward", "content": text, "headers": {"content-type": "application/json"}}
    for path in (
        "/../../etc/passwd",
        "/answer/../metrics",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/answer?policy=/etc",
        "/\u0661",
    ):
        for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE"):
            yield {"method": method, "url": path}


def _ask(picture: bytes, question: str, name: str = "image") -> dict[str, Any]:
    return {"method": "POST", "url": "/answer", "files": {"image": (name, picture)}, "data": {"question": question}}


def _json(url: str, body: Any) -> dict[str, Any]:
    return {"method": "POST", "url": url, "content": json.dumps(body), "headers": {"content-type": "application/json"}}


def _bomb() -> bytes:
    """A PNG of half a kilobyte that declares 3.6 gigapixels."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 99999)))
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def _slow_clients(port: int, count: int = 8) -> dict[str, int]:
    """Clients that begin a head or announce a body, and send a byte now and then; the server must hang up on them."""
    kind = "Content-Type: multipart/form-data; boundary=b"
    lines = ("POST /answer HTTP/1.1", "Host: a", kind, "Content-Length: 5000")
    head = "\r\n".join((*lines, "", "")).encode()
    beginnings = [head, head[:40]] * (count // 2)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    until = time.monotonic() + 40
    for client, beginning in zip(clients, beginnings, strict=True):
        client.sendall(beginning)
    while clients and time.monotonic() < until:
        time.sleep(1.0)
        for client in list(clients):
            client.settimeout(0.01)
            try:
                client.sendall(b"x")
                gone = bool(client.recv(4096)) or not client.recv(4096)  # a 408, then the end
            except TimeoutError:
                gone = False
            except OSError:  # closed while we talked
                gone = True
            if gone:
                clients.remove(client)
                client.close()
    for client in clients:
        client.close()
    return {"clients": count, "hung up on": count - len(clients), "still open after 40 s": len(clients)}
