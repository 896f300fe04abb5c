"""The processes that decode: killed, taken over, flooded, signalled, inherited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arr_coc.asking import isolate
from arr_coc.asking.images import ImageError, read_image
from eval.serving.pictures import sound

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files where Linux shows them")

PICTURE = sound()["png"]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> isolate.Decoders:
    """A pool of two processes that nobody else uses."""
    own = isolate.Decoders(2)
    monkeypatch.setattr(isolate, "_pool", lambda process: own)
    return own


def one(pool: isolate.Decoders) -> subprocess.Popen[bytes]:
    """The process that the next picture goes to."""
    process = pool._idle.queue[-1]
    assert process is not None
    return process._popen


def taken_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str) -> None:
    """From now on decoders are told how to behave by the first bytes of what they decode."""
    program = tmp_path / "decode.py"
    before = "        width = height = 0\n"
    text = isolate._PROGRAM.read_text()
    assert before in text
    program.write_text(text.replace(before, f"{before}        if data.startswith(b'EVIL'):\n            {line}\n"))
    monkeypatch.setattr(isolate, "_PROGRAM", program)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_ends_a_server_is_not_taken_for_a_bad_picture(pool: isolate.Decoders, number: int) -> None:
    """A terminal or a service manager sends it to the whole group, while the last questions are still answered."""
    read_image(PICTURE)
    process = one(pool)
    process.send_signal(number)
    assert read_image(PICTURE).size == (48, 64)
    assert one(pool) is process


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGXCPU])
def test_whatever_ends_an_idle_decoder_the_next_picture_is_read(pool: isolate.Decoders, number: int) -> None:
    for _ in range(3):
        read_image(PICTURE)
        process = one(pool)
        process.send_signal(number)
        process.wait()
        assert read_image(PICTURE).size == (48, 64)


@pytest.mark.parametrize(
    "line",
    [
        "replies.write(REPLY.pack(DONE, 10**6, 10**6, 3)); replies.write(b'abc'); replies.flush(); continue",
        "replies.write(REPLY.pack(DONE, 8, 8, 3)); replies.write(b'abc'); replies.flush(); continue",
        "replies.write(REPLY.pack(DONE, 0, 0, 0)); replies.flush(); continue",
        "replies.write(REPLY.pack(77, 8, 8, 2**62)); replies.flush(); continue",
        "replies.write(REPLY.pack(REFUSED, 0, 0, 2**20)); replies.write(b'a' * 2**20); replies.flush(); continue",
        "replies.write(b'a' * 5); replies.flush(); return",
        "os.abort()",
        "os._exit(0)",
        "os.close(0); os.close(1); replies.close(); os._exit(3)",
    ],
)
def test_a_decoder_that_was_taken_over_says_nothing_that_is_believed(
    pool: isolate.Decoders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    taken_over(monkeypatch, tmp_path, line)
    for name in ("alone", "after another"):
        with pytest.raises(ImageError, match=f"^{name} can't be decoded"):
            read_image(b"EVIL", name=name)
        assert read_image(PICTURE).size == (48, 64)


def test_a_decoder_that_answers_without_end_is_ended(
    pool: isolate.Decoders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken_over(monkeypatch, tmp_path, "replies.write(REPLY.pack(DONE, 100, 100, 30000)); replies.flush(); input()")
    monkeypatch.setattr(isolate, "_PATIENCE", 0.2)
    with pytest.raises(ImageError, match="takes longer"):
        read_image(b"EVIL", max_pixels=10_000)
    monkeypatch.setattr(isolate, "_PATIENCE", 20.0)
    assert read_image(PICTURE).size == (48, 64)


def test_a_decoder_knows_no_secrets(pool: isolate.Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARR_COC_TOKEN", "a secret")
    monkeypatch.setenv("HF_TOKEN", "another")
    read_image(PICTURE)
    told = Path(f"/proc/{one(pool).pid}/environ").read_bytes()
    assert b"PATH=" in told and b"secret" not in told and b"another" not in told


def test_a_flood_of_pictures_that_kill_takes_nothing_from_sound_ones(
    pool: isolate.Decoders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No file and no process is left behind, and whoever waits has a turn."""
    taken_over(monkeypatch, tmp_path, "os.abort()")
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()

    def ask(number: int) -> str:
        try:
            return str(read_image(b"EVIL" if number % 5 == 0 else PICTURE).size)
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(32) as many:
        said = Counter(many.map(ask, range(100)))
    assert said["(48, 64)"] == 80 and sum("signal 6" in words for words in said.elements()) == 20, said
    until = time.monotonic() + 60
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.05)  # timers that were cancelled
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # two pipes of each of the two
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if children.exists():
        states = [Path(f"/proc/{child}/stat").read_text().split()[2] for child in children.read_text().split()]
        assert "Z" not in states


def test_when_no_process_can_be_started_it_is_said_and_the_place_is_free_again(
    pool: isolate.Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def popen(*arguments: object, **more: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as broken:
        broken.setattr(subprocess, "Popen", popen)
        for _ in range(5):  # more than there are places
            with pytest.raises(OSError, match="temporarily"):
                read_image(PICTURE)
    assert read_image(PICTURE).size == (48, 64)


FORKED = """
import os, sys
from arr_coc.asking.images import read_image
from eval.serving.pictures import sound
picture = sound()["png"]
first = read_image(picture).tobytes()
children = [os.fork() for _ in range(1)]
if 0 in children:
    ok = all(read_image(picture).tobytes() == first for _ in range(20))
    sys.stdout.flush()
    os._exit(0 if ok else 1)
assert all(read_image(picture).tobytes() == first for _ in range(20))
assert os.waitpid(children[0], 0)[1] == 0
assert read_image(picture).tobytes() == first
print("as before")
"""


def test_a_forked_process_has_decoders_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120)
    assert done.stdout == "as before\n", done.stderr[-2000:]
