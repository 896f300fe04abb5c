"""How long a server's event loop stands still under hostile traffic.

As a program it is ``arr-coc`` with a stopwatch on every callback of its event loop: ``python -m eval.serving.loop OUT
serve ...``. What stands still is noted twice: callbacks that take long, by name, with their processor time; and
beats, 20 ms apart, that come late, whatever the reason. A process that does nothing but beat beside it tells how late
the machine alone makes one.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .hostile import hostile_requests
from .server import Sample, Server, samples

BEAT = 0.02
NOTED = 0.05  # seconds from which something is written down
BAR = 0.25
PICTURES = 1000
KINDS = {"multipart": "multipart/form-data; boundary=b", "form": "application/x-www-form-urlencoded"}
_BESIDE = (
    "import time,sys\nworst=[]\nt=time.monotonic()\nwhile sys.stdin.closed is False:\n"
    f" time.sleep({BEAT})\n now=time.monotonic()\n late=now-t-{BEAT}\n t=now\n"
    f" if late>{NOTED}: print(time.time(),late,flush=True)\n"
)


def watch(out: Path) -> None:
    """Put the stopwatch on this process's event loop; what it finds is written to a file once a second."""
    found: dict[str, Any] = {"callbacks": 0, "beats": 0, "slow": [], "late": []}
    run, beating = asyncio.Handle._run, False

    def beat(loop: Any, due: float, written: float) -> None:
        now = loop.time()
        found["beats"] += 1
        if now - due > NOTED:
            found["late"].append([time.time(), now - due])
        if now - written > 1.0:
            out.with_suffix(".new").write_text(json.dumps(found))
            out.with_suffix(".new").replace(out)
            written = now
        after = loop.time() + BEAT
        loop.call_at(after, beat, loop, after, written)

    def timed(self: Any) -> None:
        nonlocal beating
        if not beating:
            beating = True
            beat(self._loop, self._loop.time(), 0.0)
        wall, used = time.perf_counter(), time.thread_time()
        run(self)
        wall, used = time.perf_counter() - wall, time.thread_time() - used
        found["callbacks"] += 1
        if wall > NOTED:
            found["slow"].append([time.time(), wall, used, repr(self._callback or self)[:300]])

    asyncio.Handle._run = timed  # type: ignore[method-assign]  # a stopwatch has no other place


def blocked(folder: Path, pictures: int = PICTURES) -> dict[str, Any]:
    """Send everything hostile to a server under the stopwatch, kind by kind.

    Returns
    -------
    dict
        By kind of traffic: requests, statuses, seconds, the latest beat of the loop and of the machine beside it, and
        the slowest callback with its processor time; in all how many beats were later than 250 ms, and callbacks that
        took as long by processor time.
    """
    watched = folder / "loop.json"
    beside = subprocess.Popen([sys.executable, "-c", _BESIDE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    noise: list[list[float]] = []
    assert beside.stdout is not None
    lines = beside.stdout
    reader = threading.Thread(target=lambda: noise.extend([float(x) for x in line.split()] for line in lines))
    reader.start()
    kinds: dict[str, tuple[float, float, list[str]]] = {}
    try:
        with Server(folder / "log", "--timeout", "20", program=("eval.serving.loop", str(watched))) as server:
            server.wait()
            for name, attack in _attacks(server, pictures).items():
                began = time.time()
                statuses = attack()
                time.sleep(1.2)  # what it has set off is still running
                kinds[name] = began, time.time(), statuses
            alive = _post(server, "GET", "/readyz") == "200"
    finally:
        beside.kill()
        reader.join()
        beside.wait()
    found = json.loads(watched.read_text())
    table = {name: _kind(found, noise, *kind) for name, kind in kinds.items()}
    return {
        "kinds": table,
        "callbacks": found["callbacks"],
        "beats": found["beats"],
        "beats later than 250 ms": sum(late > BAR for _, late in found["late"]),
        "of the machine alone": sum(late > BAR for _, late in noise),
        "callbacks of 250 ms by the clock": sum(wall > BAR for _, wall, _, _ in found["slow"]),
        "callbacks of 250 ms of processor time": sum(used > BAR for _, _, used, _ in found["slow"]),
        "alive afterwards": alive,
    }


def _kind(found: Any, noise: list[list[float]], begin: float, end: float, statuses: list[str]) -> dict[str, Any]:
    slow = [row for row in found["slow"] if begin <= row[0] <= end]
    worst = max(slow, key=lambda row: row[2], default=None)
    return {
        "requests": len(statuses),
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
        "seconds": round(end - begin, 1),
        "latest beat, ms": _most(row[1] for row in found["late"] if begin <= row[0] <= end),
        "latest beat of the machine, ms": _most(row[1] for row in noise if begin <= row[0] <= end),
        "slowest callback, ms": _most(row[1] for row in slow),
        "most processor time, ms": _most(row[2] for row in slow),
        "its name": None if worst is None else worst[3],
    }


def _most(seconds: Iterator[float]) -> float | str:
    worst = max(seconds, default=0.0)
    return round(1000 * worst) if worst else f"below {1000 * NOTED:.0f}"


# ---------------------------------------------------------------- traffic


def _attacks(server: Server, pictures: int) -> dict[str, Callable[[], list[str]]]:
    from .pictures import many_frames, many_scans, many_tags, many_tags_tiff, mutated

    good = samples(4, seed=6)
    return {
        "questions": lambda: _ask(server, [q["png"] for q in good] * 10, clients=8),
        "hostile requests": lambda: _send(server, hostile_requests()),
        "mutated pictures": lambda: _ask(server, (data for _, data in mutated(pictures, seed=9))),
        "dear pictures": lambda: _ask(
            server, [many_tags(), many_tags_tiff(), many_scans(), many_frames(), *_large()] * 2
        ),
        "big rewards": lambda: _send(server, _rewards(server, good[0])),
        "big bodies": lambda: _send(server, _bodies()),
        "big heads": lambda: _heads(server.port),
        "slow bodies": lambda: _trickle(server, good),
        "policies": lambda: _reload(server),
    }


def _large() -> Iterator[bytes]:
    """Pictures of 20 megapixels, in a file that is small."""
    from PIL import Image

    for mode, kind in (("RGB", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("RGB", "JPEG"), ("L", "WEBP")):
        file = io.BytesIO()
        Image.new(mode, (5000, 3990)).save(file, kind)
        yield file.getvalue()


def _rewards(server: Server, sample: Sample) -> Iterator[dict[str, Any]]:
    """Rewards of up to the 64 KiB that are read, and beyond."""
    import httpx

    def post(body: str | bytes) -> dict[str, Any]:
        head = {"content-type": "application/json"}
        return {"method": "POST", "url": "/reward", "content": body, "headers": head}

    words = ("a " * 500, "1,000 " * 150, "." * 999, "don't " * 160, "\u0130" * 300, "; / [ ] " * 120, "x" * 1000)
    for word in words:
        files = {"image": ("image", sample["png"])}
        reply = httpx.post(f"{server.url}/answer", files=files, data={"question": sample["question"]}, timeout=60)
        yield post(json.dumps({"id": reply.json()["id"], "answers": [word[:1000]] * 50}, ensure_ascii=False)[: 2**16])
    name = "20261124t000000000000-abcdef-000001-0-0123456789abcdef"
    for size in (2**16 - 100, 2**23):
        keys = ", ".join(f'"{k}": 0' for k in range(size // 11))
        yield post(f'{{"id": "{name}", "reward": 1, {keys}}}')
        yield post(f'{{"id": "{name}", "answers": [{", ".join(["0"] * (size // 3))}]}}')
        yield post(f'{{"id": "{name}", "reward": {"9" * (size - 100)}}}')
        yield post("[" * size)
        yield post('{"a":' * (size // 5))
        yield post(f'{{"id": "{name}", "answers": ["{chr(92)}u0041{chr(92) * 2 * (size // 4)}"]}}')


def _bodies() -> Iterator[dict[str, Any]]:
    """Bodies of 8 MiB that cost as much as can be to take apart."""

    def post(kind: str, body: bytes) -> dict[str, Any]:
        body = body[: 8 * 2**20 - 10]
        return {"method": "POST", "url": "/answer", "content": body, "headers": {"content-type": KINDS[kind]}}

    part = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n\r\n'
    begun = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n'
    for _ in range(2):
        yield post("multipart", b"--b\r\n" + b"a: b\r\n" * 2**21)  # headers without end
        yield post("multipart", b"--b\r\n" + b"a:" + b"b" * 2**23)  # one header without end
        yield post("multipart", begun + b"a: b\r\n" * 2000 + b"\r\n\r\n")
        yield post("multipart", (part % b"x") * 2**18)
        yield post("multipart", (part.replace(b'"\r\n', b'"; filename="a"\r\n', 1) % b"image") * 2**17)
        yield post("multipart", begun + b"\r\n" + b"\r\n--" * 2**21)  # nearly the boundary, all the time
        yield post("multipart", begun + b"\r\n" + b"\r" * 2**23)
        yield post("multipart", b"--b\r\nContent-Disposition: form-data; " + b'a="b"; ' * 2**20 + b"\r\n\r\n")
        yield post("multipart", b"\r\n" * 2**22)
        yield post("form", b"a&" * 2**22)
        yield post("form", b"a=%41&" * 2**21)
        yield post("form", b"question=" + b"%41" * 2**21)


def _heads(port: int) -> list[str]:
    """Heads as long as they may be, and many requests on one connection."""
    heads = [
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 4000 + b"\r\n",
        b"GET /" + b"a" * 32000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5000,
        b"GET /" + b"%2e%2e/" * 4000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /reward HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 2**17,
        b"\r\n" * 2**20,
    ]
    statuses = []
    for head in heads * 2:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            try:
                client.sendall(head)
                statuses.append(client.recv(4096)[9:12].decode() or "closed")
            except OSError:
                statuses.append("closed")
    for step in (1, 7):  # a head a few bytes at a time, as fast as they go
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = heads[1]
            try:
                for at in range(0, len(head), step):
                    client.sendall(head[at : at + step])
                statuses.append(client.recv(4096)[9:12].decode() or "closed")
            except OSError:
                statuses.append("closed")
    return statuses


def _trickle(server: Server, good: list[Sample], clients: int = 200, seconds: float = 25.0) -> list[str]:
    """Bodies that arrive byte by byte from many, while others ask."""
    lines = ("POST /answer HTTP/1.1", "Host: localhost", f"Content-Type: {KINDS['multipart']}", "Content-Length: 5000")
    opened, until = [], time.monotonic() + seconds
    for _ in range(clients):
        opened.append(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        opened[-1].sendall("\r\n".join((*lines, "", "")).encode())
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(_ask, server, [q["png"] for q in good] * 4, 2)
        while time.monotonic() < until:
            for client in opened:
                with contextlib.suppress(OSError):
                    client.sendall(b"x")
            time.sleep(0.05)
        statuses = asked.result()
    for client in opened:
        client.close()
    return statuses


def _reload(server: Server) -> list[str]:
    """The policy read anew, while questions come."""
    good = samples(2, seed=8)
    statuses = []
    for _ in range(5):
        server.process.send_signal(signal.SIGHUP)
        statuses += _ask(server, [q["png"] for q in good])
    return statuses


def _ask(server: Server, pictures: Any, clients: int = 4) -> list[str]:
    requests = (
        {"method": "POST", "url": "/answer", "files": {"image": ("a", p)}, "data": {"question": "what is this ?"}}
        for p in pictures
    )
    return _send(server, requests, clients)


def _send(server: Server, requests: Any, clients: int = 2) -> list[str]:
    """Statuses of requests that so many clients send."""
    lock, statuses = threading.Lock(), []
    requests = iter(requests)

    def one() -> None:
        while True:
            with lock:
                request = next(requests, None)
            if request is None:
                return
            statuses.append(_post(server, **request))

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(one) for _ in range(clients)]:
            done.result()
    return statuses


def _post(server: Server, method: str, url: str, **more: Any) -> str:
    import httpx

    try:
        return str(httpx.request(method, server.url + url, timeout=60, **more).status_code)
    except (httpx.TransportError, httpx.InvalidURL):
        return "closed"


if __name__ == "__main__":
    os.environ["COLUMNS"] = "120"
    watch(Path(sys.argv.pop(1)))
    from arr_coc.cli import app

    app()
