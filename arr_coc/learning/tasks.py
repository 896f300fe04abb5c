"""Questions, by one vocabulary: what learning learns from and evaluation judges on.

A sample is a dict: ``image`` (PIL, RGB), ``question``, ``answers`` (list of str), ``kind``, ``image_id`` and
``question_id`` (str, unique), and whatever else its source knows (the reference world: ``evidence``, ``grid``,
``level``; a table: its other columns). Rows that cannot be read are counted, never silently dropped.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..reference import MODELS
from .sources import READERS, Row, Sample, checked, in_memory
from .task_config import FIELDS, TaskConfig

__all__ = ["Sample", "Task", "TaskConfig", "learning_task"]


class Task:
    """An iterable of samples that can be read again and again in the same order.

    Parameters
    ----------
    config
        See `TaskConfig`.
    rows
        Those of the source "rows", see `of`.

    Attributes
    ----------
    name
        What reports call it.
    unreadable
        ``{"row", "reason"}`` of each row that the last pass could not read.
    read
        Rows that the last pass looked at.
    check
        Refuses, by a ValueError, questions that a model can't be asked; such a row cannot be read either.

    Raises
    ------
    ValueError
        While iterating, when more than ``max_unreadable`` of the rows cannot be read, a question's id comes twice,
        or no row is left.
    """

    def __init__(self, config: TaskConfig, rows: Iterable[Mapping[str, Any]] | None = None) -> None:
        self.config, self._rows = config, rows
        self.name = config.name or str(config.source)
        self.unreadable: list[dict[str, str]] = []
        self.read = 0
        self.check: Callable[[str], None] | None = None
        if rows is None:
            _check_paths(config)

    @classmethod
    def of(cls, questions: str | os.PathLike[str] | Iterable[Mapping[str, Any]], **settings: Any) -> Task:
        """A task by what people have at hand.

        Parameters
        ----------
        questions
            ``"reference"``, a file, a dataset's name or folder, or rows in memory: mappings with ``image``,
            ``question`` and ``answers`` or ``answer`` (or as ``columns=`` says), a list of them or a Hugging Face
            dataset.
        settings
            Other fields of `TaskConfig`; without ``limit`` all questions.
        """
        if isinstance(questions, str | os.PathLike):
            named = {"source": questions} if questions in MODELS else {"path": os.fspath(questions), "limit": None}
            return cls(TaskConfig(**{**named, **settings}))
        return cls(TaskConfig(**{"limit": None, **settings, "source": "rows"}), questions)

    def _found(self) -> Iterator[Row]:
        config, kept = self.config, self._rows
        rows = READERS[str(config.source)](config) if kept is None else in_memory(config, kept)
        return itertools.islice(rows, config.skip, None)

    def count(self) -> int | None:
        """Rows there are, at most ``limit``, without reading a picture; ``None`` for a stream, whose end is far."""
        if self.config.streaming or self.config.source in MODELS:
            return self.config.limit
        return sum(1 for _ in itertools.islice(self._found(), self.config.limit))

    def __iter__(self) -> Iterator[Sample]:
        self.unreadable, self.read = [], 0
        seen: set[str] = set()
        for name, make in self._found():
            if self.config.limit is not None and len(seen) >= self.config.limit:
                break
            self.read += 1
            try:
                sample = checked(make())
                if self.check is not None:
                    self.check(sample["question"])
            except Exception as error:  # whatever a row of somebody else's provokes: it costs that row
                self.unreadable.append({"row": name, "reason": f"{type(error).__name__}: {str(error)[:500]}"})
                if self.read >= 20 or not self.config.max_unreadable:
                    self._check_unreadable()
                continue
            if sample["question_id"] in seen:
                raise ValueError(
                    f"task {self.name}: question_id {sample['question_id']!r} comes twice; ids must be unique"
                )
            seen.add(sample["question_id"])
            sample["question"] = self.config.prompt.format(question=sample["question"])
            yield sample
        self._check_unreadable()
        if not seen:
            where = f"no row is left after task.skip={self.config.skip}" if self.config.skip else "the data are empty"
            raise ValueError(
                f"task {self.name}: {where}, no question could be read; check task.path, task.split and task.columns"
            )

    def _check_unreadable(self) -> None:
        if len(self.unreadable) > self.config.max_unreadable * self.read:
            first = "; ".join(f"row {bad['row']}: {bad['reason']}" for bad in self.unreadable[:3])
            raise ValueError(
                f"task {self.name}: {len(self.unreadable)} of {self.read} rows cannot be read, more than "
                f"task.max_unreadable={self.config.max_unreadable} allows. {first}"
            )


def _check_paths(config: TaskConfig) -> None:
    for ours in config.columns:
        if ours not in FIELDS:
            raise ValueError(
                f"task.columns has the key {ours!r}; it maps our names ({', '.join(FIELDS)}) to the data's."
            )
    if config.source in MODELS:
        if config.limit is None:
            raise ValueError("task.limit=null: the reference worlds are endless; give the number of questions.")
        return
    if config.source == "rows":
        raise ValueError("task.source='rows' is for rows in memory, Task.of(rows); name a file or a dataset here.")
    if config.source == "fields":
        for name in ("images", "annotations"):
            folder = getattr(config, name)
            if folder is None or not Path(folder).is_dir():
                raise ValueError(f"task.{name}={folder!r} is no folder; source 'fields' needs pictures and objects.")
        return
    if config.path is None:
        raise ValueError(f"task.path is missing: source {config.source!r} needs to know where the questions are.")
    if config.source == "vqa_json" and (config.annotations is None or config.images is None):
        raise ValueError(
            "task.source=vqa_json needs task.annotations (file) and task.images (folder) beside task.path."
        )
    for name in ("path", "annotations"):
        file = getattr(config, name)
        if file is not None and (config.source != "dataset") and not Path(file).is_file():
            raise ValueError(f"task.{name}={file!r} is no file, so it can't be read; check the path.")
    if config.images is not None and not Path(config.images).is_dir():
        raise ValueError(f"task.images={config.images!r} is no folder; check the path.")


def learning_task(settings: Mapping[str, Any], episodes: int) -> Task:
    """The questions that a run of so many episodes learns from.

    The reference world draws one for each episode, from the pictures of its split "learn"; other data give those that
    the settings name, which learning repeats where they are fewer.

    Parameters
    ----------
    settings
        Fields of `TaskConfig`, as from the section ``task`` of a file.
    episodes
        Answers to learn from.

    Raises
    ------
    ValueError, TypeError
        As `TaskConfig` and `Task`.
    """
    config = TaskConfig(**settings)
    if config.source in MODELS:
        # How many episodes there may be is checked where they are learned.
        config = TaskConfig(**{"split": "learn", **settings, "limit": max(1, int(episodes))})
    return Task(config)
