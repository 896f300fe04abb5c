"""Locks between processes: on a file while it is changed, on a folder while a run works in it.

They are the kernel's (`flock`), so a process that is killed holds none. Where there are none (Windows) nothing is
locked.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock of an open file; False if another one holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def same_file(descriptor: int, path: Path) -> bool:
    """Whether an open file still has that name."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


@contextlib.contextmanager
def locked(path: Path, seconds: float, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    """An open file of that name with its exclusive lock; if the name goes to another file meanwhile, that one's.

    Raises
    ------
    TimeoutError
        If another process holds the lock for so long.
    """
    until = time.monotonic() + seconds
    while True:
        descriptor = os.open(path, flags, 0o640)
        try:
            while not try_lock(descriptor):
                if time.monotonic() > until:
                    raise TimeoutError(f"{path} is locked by another process for {seconds:g} s")
                time.sleep(0.002)
            if same_file(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


class FolderLock:
    """Held while a run works in a folder, so that no second one does; a context manager.

    Parameters
    ----------
    folder
        Made if missing.
    name
        Of the file in it that is locked and says who holds it. It stays behind.

    Raises
    ------
    ValueError
        If another run works there.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = ".lock") -> None:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not try_lock(self._file):
            holder = os.read(self._file, 200).decode(errors="replace").strip() or "it does not say which"
            os.close(self._file)
            raise ValueError(
                f"another process works in {os.fspath(folder)} ({holder}); wait for it, or choose another folder"
            )
        os.ftruncate(self._file, 0)
        os.write(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self.close = weakref.finalize(self, os.close, self._file)  # once is enough

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
