"""The run folder: what a run was, question by question, written so that a kill at any moment loses one batch at
most."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from allocator.locks import FolderLock
from allocator.storage import replace_file

PACKAGES = ("torch", "torchvision", "transformers", "tokenizers", "numpy", "scipy", "pillow", "datasets", "timm")

LARGEST = 2**30
"""Bytes of question records that are unpacked."""

Record = dict[str, Any]


class RunFolder:
    """The folder of one run.

    ``journal.jsonl`` grows by one batch at a time. `finish` turns it into ``questions.jsonl`` and writes
    ``metrics.json`` last: a folder with that file is a finished run and is never written again.

    Parameters
    ----------
    path
        Made if missing.
    config
        Plain data. A folder with an unfinished run must hold the same.

    Raises
    ------
    ValueError
        If another process works in the folder, it holds a finished run, or an unfinished one with another
        configuration, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
        self.path = Path(path)
        if (self.path / "metrics.json").exists():
            raise ValueError(f"{self.path} holds a finished run, which is never overwritten; choose another run.out")
        known = self.path / "config.yaml"
        if known.exists():
            _same_config(self.path, yaml.safe_load(known.read_text(encoding="utf-8")), json.loads(json.dumps(config)))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock = FolderLock(self.path)
            replace_file(known, yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))
        except OSError as error:
            raise ValueError(
                f"the run folder {self.path} cannot be written ({error}); choose another run.out"
            ) from error
        self.records = list(read_journal(self.path / "journal.jsonl"))

    def close(self) -> None:
        """Let another process work in the folder."""
        self.lock.close()

    def append(self, records: Iterable[Record]) -> None:
        """Add a batch to the journal and force it to the disk."""
        records = list(records)
        with (self.path / "journal.jsonl").open("a", encoding="utf-8") as journal:
            journal.write("".join(json.dumps(record, allow_nan=False) + "\n" for record in records))
            journal.flush()
            os.fsync(journal.fileno())
        self.records += records

    def note(self, status: str, **facts: Any) -> None:
        """Write ``environment.json``: where and when this ran, and how it went."""
        file = self.path / "environment.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"started": _now(), "sessions": 0}
        known["sessions"] += status == "running"
        facts = {"status": status, "changed": _now(), **environment(), **facts}
        replace_file(file, json.dumps(known | facts, indent=1))

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write the questions and, last of all, the metrics."""
        lines = (json.dumps(record, allow_nan=False) + "\n" for record in self.records)
        replace_file(self.path / "questions.jsonl", "".join(lines))
        replace_file(self.path / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False))
        (self.path / "journal.jsonl").unlink(missing_ok=True)
        (self.path / ".lock").unlink(missing_ok=True)  # of no more use: it is finished


def read_run(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Record], dict[str, Any]]:
    """Metrics, question records and configuration of a finished run.

    Raises
    ------
    ValueError
        If the folder holds no finished run.
    """
    folder = Path(path)
    metrics = read_metrics(folder)
    with understood(folder):
        lines = _questions(folder).splitlines()
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        return metrics, [json.loads(line) for line in lines], config


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Metrics of a finished run.

    Raises
    ------
    ValueError
        If the folder holds no finished run.
    """
    folder = Path(path)
    if not (folder / "metrics.json").is_file():
        state = "an unfinished run; start it again to finish it" if (folder / "config.yaml").exists() else "no run"
        raise ValueError(f"{folder} holds {state}: there is no metrics.json")
    with understood(folder):
        metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics


@contextlib.contextmanager
def understood(folder: Path) -> Iterator[None]:
    """Whatever the files of a run make fail is a ValueError that names it: they may be damaged, or somebody else's."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        if type(error) is ValueError:
            raise
        raise ValueError(f"{folder} holds no run that can be read ({type(error).__name__}: {error})") from error


def has_questions(path: str | os.PathLike[str]) -> bool:
    """Whether a finished run still has its records question by question; those kept for good may be without."""
    return any((Path(path) / name).is_file() for name in ("questions.jsonl", "questions.jsonl.gz"))


def _questions(folder: Path) -> str:
    """The question records; kept for good, they may be packed."""
    packed = folder / "questions.jsonl.gz"
    if packed.is_file():
        with gzip.open(packed) as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"{packed} unpacks to more than {LARGEST:,} bytes")
        return text.decode("utf-8")
    return (folder / "questions.jsonl").read_text(encoding="utf-8")


def environment() -> dict[str, Any]:
    """Package versions, the state of the clone, hardware: what another person needs to judge a number."""
    return {
        "packages": {"python": platform.python_version(), **versions(PACKAGES)},
        "git": {
            "commit": _git("rev-parse", "HEAD"),
            "changed files": len((_git("status", "--porcelain") or "").splitlines()),
        },
        "hardware": hardware(),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed versions of those that are."""
    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def hardware() -> dict[str, Any]:
    """What a time was measured on."""
    import torch

    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(*arguments: str) -> str | None:
    """What git says about this clone; ``None`` outside one or without git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def read_journal(path: Path) -> Iterator[Record]:
    """The whole lines of a journal; a torn last line, left by a kill, is cut off the file."""
    if not path.exists():
        return
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        with path.open("r+b") as journal:
            journal.truncate(end)
    for number, line in enumerate(whole[:end].decode("utf-8").splitlines(), start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is damaged ({error}); start again in another run.out") from error


def _same_config(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for section in sorted(before.keys() | now.keys()):
        old, new = before.get(section) or {}, now.get(section) or {}
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise ValueError(
                    f"{path} holds an unfinished run with {section}.{key}={old.get(key)!r}, not {new.get(key)!r}; "
                    "finish it with its own settings, or choose another run.out"
                )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
