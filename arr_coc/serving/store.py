"""A store of policy versions: numbered folders that never change, and one pointer to the version in use.

    store/versions/0001/   policy.safetensors, config.json, README.md (as save_pretrained writes them), version.json
    store/current          "0002"

A version folder appears by one rename and the pointer is one small file that is replaced whole, so a reader finds the
old version or the new one at any moment. Nobody is told a path: a server watches the pointer. Who moves the pointer
holds the store's lock and may say from where, so that two of them can't undo each other unseen.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allocator.locks import locked
from allocator.storage import replace_file

from ..wrapping.saving import CONFIG, POLICY

logger = logging.getLogger(__name__)

CURRENT, FACTS, HISTORY = "current", "version.json", "history.jsonl"
_NAME = re.compile(r"\d{4,}", re.ASCII)
_LOCK_SECONDS = 30.0


class Moved(ValueError):
    """The pointer names another version than the one that was to be replaced."""


@dataclass(frozen=True)
class Served:
    """A policy folder and what it is called in logs."""

    folder: Path
    version: str


def resolve(source: str | os.PathLike[str]) -> Served:
    """The policy to serve.

    Parameters
    ----------
    source
        A store, whose current version is taken, or the folder of one saved policy.

    Raises
    ------
    ValueError
        If it is neither.
    """
    folder = Path(source)
    if (folder / CURRENT).is_file():
        version = Store(folder).current
        return Served(Store(folder).folder(version), version)
    if (folder / POLICY).is_file():
        return Served(folder, digest(folder))
    raise ValueError(
        f"{folder} is neither a store of versions nor a saved policy (no {CURRENT} and no {POLICY}); "
        f"name the folder that arr-coc learn or arr-coc retrain wrote, or {_make(folder)}"
    )


def _make(folder: Path) -> str:
    """How a store comes to be."""
    return f"make one: arr-coc retrain --log LOG --incumbent reference --out {folder}"


def digest(folder: Path) -> str:
    """What a policy without a version is called: the beginning of its file's SHA-256."""
    return hashlib.sha256((folder / POLICY).read_bytes()).hexdigest()[:12]


class Store:
    """A store of versions.

    Parameters
    ----------
    folder
        Its folder; `create` makes it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder)

    @classmethod
    def create(cls, folder: str | os.PathLike[str], policy: str | os.PathLike[str]) -> Store:
        """A store whose first version is a copy of a saved policy, which is then current.

        Raises
        ------
        ValueError
            If the store holds versions already, or there is no such policy.
        """
        store, source = cls(folder), Path(policy)
        if not (source / POLICY).is_file():
            raise ValueError(f"{source} holds no {POLICY}; name the folder of a saved policy")
        if not store.versions:
            store.add(lambda new: shutil.copytree(source, new, dirs_exist_ok=True), {"from": source.name})
        elif (store.path / CURRENT).exists() or digest(store.folder("0001")) != digest(source):
            raise ValueError(f"{store.path} holds versions already; leave out the policy to begin with")
        store.point_to("0001")  # again, if a kill came between the two
        return store

    @property
    def versions(self) -> list[str]:
        """All versions, the oldest first."""
        folder = self.path / "versions"
        return sorted(p.name for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []

    @property
    def current(self) -> str:
        """The version in use.

        Raises
        ------
        ValueError
            If the pointer is missing or names no version.
        """
        try:
            name = (self.path / CURRENT).read_text(encoding="utf-8").strip()
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.path} is no store of policy versions (no {CURRENT!r}); {_make(self.path)}"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path} holds no readable pointer {CURRENT!r} ({error})") from error
        if name not in self.versions:
            raise ValueError(f"{self.path / CURRENT} names {name!r}, which is none of the versions {self.versions}")
        return name

    def folder(self, version: str) -> Path:
        """Where a version lies."""
        return self.path / "versions" / version

    def facts(self, version: str) -> dict[str, Any]:
        """What was written down when the version was made; nothing, with a warning, where that is damaged."""
        return read_facts(self.folder(version))

    def add(self, write: Callable[[Path], Any], facts: Mapping[str, Any]) -> str:
        """Make a version; it is not current yet.

        Parameters
        ----------
        write
            Fills the folder it is given.
        facts
            Plain data about its origin; the name and the policy's digest are added.

        Returns
        -------
        str
            Its name.
        """
        new = self.path / "versions" / f".new.{secrets.token_hex(4)}"  # two pods may have one process id
        new.mkdir(parents=True)
        try:
            write(new)
            if not (new / POLICY).is_file() or not (new / CONFIG).is_file():
                raise ValueError(f"a new version of {self.path} would lack {POLICY} or {CONFIG}")
            with locked(self.path / ".lock", _LOCK_SECONDS):
                name = f"{int(self.versions[-1]) + 1 if self.versions else 1:04d}"
                known = {"version": name, "policy": digest(new), **facts}
                replace_file(new / FACTS, json.dumps(known, indent=1, allow_nan=False) + "\n")
                os.rename(new, self.folder(name))
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return name

    def point_to(self, version: str, expected: str | None = None) -> None:
        """Make a version the current one.

        Parameters
        ----------
        version
            Its name.
        expected
            The version that must be current now; None for whichever.

        Raises
        ------
        Moved
            If another one is.
        ValueError
            If there is no such version.
        TimeoutError
            If another process holds the store's lock.
        """
        if version not in self.versions:
            raise ValueError(f"{self.path} has no version {version!r}; it has {', '.join(self.versions) or 'none'}")
        with locked(self.path / ".lock", _LOCK_SECONDS):
            before = self.current if (self.path / CURRENT).is_file() else None
            if expected is not None and before != expected:
                raise Moved(f"{self.path} serves version {before} by now, not {expected}: somebody else has moved it")
            history = self._history()
            replace_file(self.path / CURRENT, version + "\n")
            lines = [*history, {"from": before, "to": version}]
            replace_file(self.path / HISTORY, "".join(json.dumps(line) + "\n" for line in lines))

    def _history(self) -> list[dict[str, Any]]:
        """Every change of the pointer, the last one too if a kill kept it from being written down."""
        done = _read_history(self.path / HISTORY)
        if (self.path / CURRENT).is_file():
            before, now = done[-1]["to"] if done else None, self.current
            if now != before:
                done.append({"from": before, "to": now})
        return done

    def roll_back(self, version: str | None = None) -> str:
        """Go back to a version: by default the one that was current before.

        Raises
        ------
        ValueError
            If nothing was current before.
        """
        if version is None:
            version = self._before()
        self.point_to(version)
        return version

    def _before(self) -> str:
        """Undo the last change of the pointer that was not itself undone."""
        done: list[str] = []
        for line in self._history():
            to = line["to"]
            done = done[: done.index(to) + 1] if to in done else [*done, to]
        if len(done) < 2:
            raise ValueError(f"{self.path} has no earlier version than {self.current}; there is nothing to go back to")
        return done[-2]


def read_facts(folder: Path) -> dict[str, Any]:
    """The ``version.json`` of a policy folder; nothing where there is none, and with a warning where it is damaged."""
    file = folder / FACTS
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(facts, dict):
            return facts
        reason = "it holds no object"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)
    logger.warning("%s is damaged and not used: %s", file, reason)
    return {}


def _read_history(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    done = []
    for number, line in enumerate(lines, 1):
        try:
            change = json.loads(line)
            done.append({"from": change["from"], "to": str(change["to"])})
        except (ValueError, KeyError, TypeError, RecursionError):
            logger.warning("%s, line %d is damaged and passed over", file, number)
    return done
