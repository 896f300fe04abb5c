"""Questions about other people's pictures, read by the public task path, as batches of the trainer."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ...pages.canvas import PATCH
from ...pages.tokenizer import ID
from .batches import IGNORE, Batch, Encode, Sample, collate, page_prefix

if TYPE_CHECKING:
    from ....learning.tasks import Task

CELL = 8
"""Pixels of a visual token at full detail."""
LARGEST = 3 * PATCH
"""Pixels to a side; larger pictures are shrunk to it."""


@dataclass(frozen=True)
class Questions:
    """Pictures ``[H, W, 3]`` uint8, and what is asked of each: (question, answer, kind)."""

    pictures: list[np.ndarray]
    asked: list[list[tuple[str, str, str]]]

    @cached_property
    def sizes(self) -> dict[tuple[int, int], list[int]]:
        """Pictures by their size (rows, columns of pixels)."""
        found: dict[tuple[int, int], list[int]] = {}
        for i, picture in enumerate(self.pictures):
            found.setdefault(picture.shape[:2], []).append(i)
        return found


def read_task(file: Path) -> Task:
    """The task of a YAML file with the section ``task``; others may stand beside it.

    Raises
    ------
    ValueError, TypeError
        As `read_settings`, `TaskConfig` and `Task`.
    """
    from ....learning.settings import read_settings
    from ....learning.tasks import Task, TaskConfig

    names = [field.name for field in fields(TaskConfig)]
    return Task(TaskConfig(**read_settings(file, {"task": names, "run": None, "model": None, "wrap": None})["task"]))


def read_questions(task: Task) -> Questions:
    """All questions of a task, those about one picture together, each with its first answer.

    Raises ValueError as iterating over `Task` does.
    """
    at: dict[str, int] = {}
    pictures: list[np.ndarray] = []
    asked: list[list[tuple[str, str, str]]] = []
    for sample in tqdm(task, total=task.count(), desc=f"reading {task.name}", unit="question", mininterval=5):
        name = sample["image_id"]
        if name not in at:
            at[name] = len(pictures)
            pictures.append(_fitted(sample["image"]))
            asked.append([])
        asked[at[name]].append((sample["question"], sample["answers"][0], sample["kind"]))
    return Questions(pictures, asked)


def _fitted(image: Image.Image) -> np.ndarray:
    """The picture at sides that are whole numbers of cells, at most ``LARGEST``."""
    scale = min(1.0, LARGEST / max(image.size))
    wide, tall = (max(CELL, round(side * scale / CELL) * CELL) for side in image.size)
    if image.size != (wide, tall):
        image = image.resize((wide, tall), Image.Resampling.BICUBIC)
    return np.asarray(image)


def foreign_batch(
    rng: random.Random, questions: Questions, side: tuple[int, int], work: int, room: int, encode: Encode
) -> tuple[Batch, np.ndarray, tuple[int, int], tuple[int, int]]:
    """Pictures of one size, ``side`` cells to a patch: the batch, pixels ``[n, H, W, 3]`` in [0, 1], grid, and places.

    ``work`` bounds the tokens of the batch and ``room`` those of the questions about each picture.
    """
    sizes = questions.sizes
    (height, width), members = rng.choices(list(sizes.items()), [len(found) for found in sizes.values()])[0]
    full = (height // CELL, width // CELL)
    grid = (max(1, round(height * side[0] / PATCH)), max(1, round(width * side[1] / PATCH)))
    chosen = rng.choices(members, k=max(1, round(work / (grid[0] * grid[1] + room))))
    places = full if rng.random() < 0.4 else grid
    prefix = page_prefix(grid, places)
    batch = collate([_sample(rng, questions.asked[i], prefix, encode, room) for i in chosen])
    pixels = np.stack([questions.pictures[i] for i in chosen]).astype(np.float32) / 255
    return batch, pixels, grid, places


def _sample(
    rng: random.Random, asked: list[tuple[str, str, str]], prefix: tuple[list[int], np.ndarray, int],
    encode: Encode, room: int,
) -> Sample:  # fmt: skip
    """One picture and as many of its questions, in any order, as there is room for; one at least."""
    ids, positions, start = prefix
    ids, labels, block = list(ids), [IGNORE] * len(ids), [0] * len(ids)
    places, kinds = [positions], list[str]()
    for question, answer, kind in rng.sample(asked, len(asked)):
        put = [*encode(f" {question}"), ID["assistant"]]
        said = [*encode(f" {answer}"), ID["eos"]]
        if kinds and len(ids) - len(prefix[0]) + len(put) + len(said) > room:
            break
        kinds.append(kind)
        labels += [*[IGNORE] * (len(put) - 1), *said, IGNORE]  # the label of a position is the token after it
        ids += put + said
        block += [len(kinds)] * (len(put) + len(said))
        places.append(np.arange(start, start + len(put) + len(said))[None].repeat(3, 0))
    return Sample(ids, np.concatenate(places, 1), labels, block, kinds)
