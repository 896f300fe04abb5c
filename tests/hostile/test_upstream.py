"""A server upstream that is somebody else's: replies without end, trickling, compressed, redirected."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from arr_coc.engines.gateway import LARGEST_REPLY, poster

Said = Callable[[socket.socket], None]
LIMIT = 1.5  # seconds for an answer


@contextmanager
def upstream(say: Said) -> Iterator[tuple[str, list[bytes]]]:
    """A server that does as it pleases with each connection, and the heads of what it was asked."""
    heads: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                threading.Thread(target=one, args=(client,), daemon=True).start()

    def one(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            heads.append(client.recv(2**16))
            say(client)
            client.shutdown(socket.SHUT_WR)
            while client.recv(2**16):  # who closes on unread bytes takes back what was not read yet
                pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", heads
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def reply(body: bytes, *lines: str, status: str = "200 OK") -> Said:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *lines, "", ""]).encode()
    return lambda client: client.sendall(head + body)


def completion(content: object = "yes", **usage: object) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}], "usage": usage}).encode()


def trickle(head: bytes, part: bytes, wait: float = 0.02) -> Said:
    def say(client: socket.socket) -> None:
        client.sendall(head)
        while True:
            client.sendall(part)
            time.sleep(wait)

    return say


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4000000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
    ],
    ids=["body", "chunks", "head", "hints", "no length"],
)
def test_an_answer_that_trickles_is_given_up_in_time(head: bytes, part: bytes) -> None:
    """Each byte in time, and never an end: what is bounded is the answer, not the pause between two bytes.

    Without an end to it this test would hang; how much longer than the limit it takes is not asserted.
    """
    with upstream(trickle(head, part)) as (url, _), pytest.raises(ConnectionError, match=r"no answer within 1\.5 s"):
        poster(url, None, LIMIT)({})


def test_silence_is_given_up() -> None:
    with upstream(lambda client: time.sleep(60)) as (url, _), pytest.raises(ConnectionError, match="can't be reached"):
        poster(url, None, 0.5)({})


def test_an_answer_without_end_is_not_kept() -> None:
    def flood(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(100 * LARGEST_REPLY // 2**16):
            client.sendall(b" " * 2**16)

    with upstream(flood) as (url, _), pytest.raises(ValueError, match="sends more than"):
        poster(url, None, 60)({})


def test_nothing_is_decompressed() -> None:
    """4 KiB that were four megabytes; and no encoding is asked for."""
    bomb = gzip.compress(completion(prompt_tokens=1) + b" " * (LARGEST_REPLY - 100))
    with upstream(reply(bomb, "content-encoding: gzip")) as (url, heads):
        with pytest.raises(ValueError, match="no chat completion"):
            poster(url, None, 60)({})
    assert b"accept-encoding: identity\r\n" in heads[0].lower()


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirection_is_not_followed(status: str) -> None:
    """To an address inside, with the key of the server outside."""
    with upstream(reply(completion(prompt_tokens=1))) as (inside, heads):
        with upstream(reply(b"", f"location: {inside}/v1/chat/completions", status=status)) as (url, _):
            with pytest.raises(ValueError, match=f"refuses the question .{status[:3]}"):
                poster(url, "a key", 60)({})
        assert not heads


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"true", b"{}", b"[]", b'"choices"', b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000,
        b'{"choices": {"0": 1}, "usage": {}}', b'{"choices": [null], "usage": {"prompt_tokens": 1}}',
        completion(), completion("yes", prompt_tokens=None), completion("yes", prompt_tokens="7"),
        completion("yes", prompt_tokens=True), completion("yes", prompt_tokens=[]), completion([], prompt_tokens=1),
        completion({"text": "yes"}, prompt_tokens=1), completion(float("nan"), prompt_tokens=1),
        b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": ' + b"9" * 9999 + b"}}",
        b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": Infinity}}',
    ],
)  # fmt: skip
def test_what_is_no_chat_completion_is_refused_in_words(body: bytes) -> None:
    with upstream(reply(body)) as (url, _), pytest.raises(ValueError, match="no chat completion") as refused:
        poster(url, None, 60)({})
    assert len(str(refused.value)) < 500


def test_words_can_be_printed_whatever_they_are() -> None:
    with upstream(reply(completion("\ud800 yes", prompt_tokens=7))) as (url, _):
        assert poster(url, None, 60)({}) == ("? yes", 7)
    with upstream(reply(completion(None, prompt_tokens=7))) as (url, _):
        assert poster(url, None, 60)({}) == ("", 7)
    with upstream(reply(b"\x1b]0;title\x07\x1b[2J", status="500 No")) as (url, _):
        with pytest.raises(ValueError, match="refuses") as refused:
            poster(url, None, 60)({})
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1", "http://[::1", "http://127.0.0.1:99999", ""])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises((ValueError, ConnectionError)):
        poster(url, None, 5)({})


def test_what_breaks_off_is_said() -> None:
    for said in (b"", b"HTTP/1.1", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc", b"\0" * 1000, b"a" * 200_000):
        with upstream(lambda client, said=said: client.sendall(said)) as (url, _), pytest.raises(ConnectionError):
            poster(url, None, 60)({})
