"""Decoding in processes of its own, with limits of memory, CPU time and wall time; one that dies is replaced.

A decoder is native code that reads what a stranger made. Here it can exhaust or crash only a process that holds
nothing else. Starting one takes about 0.1 s, once; after that a picture costs the copies through two pipes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

from PIL import Image

from .decode import ANIMATED, DONE, EXHAUSTED, REPLY, REQUEST, Refused, decode, seconds

_PROGRAM = Path(__file__).with_name("decode.py")
_PATIENCE = 5.0  # wall seconds allowed for each CPU second: the machine may be busy
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT", "LANG", "LC_ALL")
"""What a decoder is told of the environment, which may hold tokens."""


_Reply = tuple[int, int, int, bytes]


class Decoders:
    """A pool of decoding processes; any thread may use it.

    Parameters
    ----------
    size
        How many pictures are decoded at once; further callers wait.
    """

    def __init__(self, size: int = 2) -> None:
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(size):
            self._idle.put(None)

    def decode(self, data: bytes, max_pixels: int) -> tuple[Image.Image, bool]:
        """As `arr_coc.asking.decode.decode`, elsewhere.

        Raises
        ------
        Refused
            Also if the picture needs more memory or time than its size warrants, or the decoder dies of it.
        OSError
            If no process can be started.
        """
        process = self._idle.get()
        try:
            if process is not None and not process.alive:  # it died while nobody asked: no picture is at fault
                process.close()
                process = None
            fresh = process is None
            process = process or _Process()
            reply = process.ask(data, max_pixels)
            if not fresh and process.blameless(reply):
                process.close()
                process = _Process()
                reply = process.ask(data, max_pixels)
            if reply is None:
                reason, process = process.close(), None
                raise Refused(f"can't be decoded ({reason}); save the image again")
            status, width, height, body = reply
            if status == EXHAUSTED:
                process.close()
                process = None
                raise Refused("needs more memory than a picture of its size may take; save the image again")
            if status not in (DONE, ANIMATED):
                raise Refused(body.decode(errors="replace"))
            return Image.frombytes("RGB", (width, height), body), status == ANIMATED
        except Refused:
            raise
        except BaseException:  # an interrupt in the middle of a reply: what comes next would not be ours
            if process is not None:
                process.close()
                process = None
            raise
        finally:
            self._idle.put(process)


class _Process:
    """One decoding process."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        environment["OPENBLAS_NUM_THREADS"] = "1"  # its threads' stacks would count as memory
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-S", str(_PROGRAM)], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for pipe in filter(None, (self._popen.stdin, self._popen.stdout)):
            # Linux alone has it: fewer turns from one process to the other.
            with contextlib.suppress(ImportError, AttributeError, OSError):
                import fcntl

                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 2**20)
        self._late = False
        weakref.finalize(self, _end, self._popen)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def ask(self, data: bytes, max_pixels: int) -> _Reply | None:
        """The reply, or None if the process has died, or says what no decoder says: what it decodes may have taken
        it over."""
        assert self._popen.stdin is not None and self._popen.stdout is not None
        self._late = False
        timer = threading.Timer(_PATIENCE * seconds(max_pixels), self._give_up)
        timer.daemon = True
        timer.start()
        try:
            self._popen.stdin.write(REQUEST.pack(len(data), max_pixels))
            self._popen.stdin.write(data)
            self._popen.stdin.flush()
            head = self._popen.stdout.read(REPLY.size)
            if len(head) < REPLY.size:
                return None
            status, width, height, size = REPLY.unpack(head)
            picture = status in (DONE, ANIMATED)
            if size > 65536 if not picture else size != 3 * width * height or not 0 < width * height <= max_pixels:
                return None
            body = self._popen.stdout.read(size)
            return (status, width, height, body) if len(body) == size else None
        except BrokenPipeError:
            return None
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._late = True
        self._popen.kill()

    def blameless(self, reply: _Reply | None) -> bool:
        """Whether something else than the picture may be at fault: what earlier ones left, or the kernel's choice."""
        if reply is None:
            return not self._late and _end(self._popen) == -signal.SIGKILL
        return reply[0] == EXHAUSTED

    def close(self) -> str:
        """End it; returns why it had died, in words."""
        code = _end(self._popen)
        if self._late or code == -signal.SIGXCPU:
            return "it takes longer than a picture of its size may take"
        return "the decoder ends with it" if code is None or code >= 0 else f"the decoder dies of signal {-code}"


def _end(popen: subprocess.Popen[bytes]) -> int | None:
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                pass
    try:
        return popen.wait(1.0)
    except subprocess.TimeoutExpired:
        popen.kill()
        return popen.wait()


@functools.cache
def _pool(process: int) -> Decoders:
    return Decoders()


def decode_apart(data: bytes, max_pixels: int) -> tuple[Image.Image, bool]:
    """Decode in this process's pool, which is made at the first picture; after a fork each process has its own.

    Where the system has no limits for processes (Windows), in this process.
    """
    if importlib.util.find_spec("resource") is None:
        try:
            return decode(data, max_pixels)
        except MemoryError as error:
            raise Refused("needs more memory than there is; scale it down first") from error
    return _pool(os.getpid()).decode(data, max_pixels)
