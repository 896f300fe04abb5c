"""The second reference model and its world: pages of print, read by a model whose attention nobody supervised.

``arr_coc.reference.load("pages")`` gives the trained model and its processor; ``generate()`` draws fresh questions
about pages with known evidence.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

__all__ = ["generate", "path"]


def path() -> Path:
    """Folder of the weights, tokenizer and processor; ``AutoModelForImageTextToText.from_pretrained`` takes it."""
    return Path(str(files("arr_coc.reference.pages") / "data"))


def generate(
    n: int,
    seed: int = 0,
    split: str = "eval",
    kinds: Sequence[str] | None = None,
    grid: tuple[int, int] | None = None,
    wording: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Draw ``n`` questions about pages, one each, in the VQAv2 format.

    Sample ``i`` depends on (split, seed, i) and the restrictions alone.

    Parameters
    ----------
    n
        Number of samples.
    seed
        Names one stream of pictures within the split.
    split
        "train", "learn" or "eval": streams of pictures, fonts, pieces of photographs and wordings of their own.
    kinds
        Kinds of question to draw from; by default all.
    grid
        Rows and columns of patches, 1 to 4 each; by default 1 x 2 to 4 x 4.
    wording
        "train" or "eval" for the wordings that training had or never had; by default those of the split.

    Yields
    ------
    dict
        ``image`` (PIL), ``question``, ``answer``, ``answers`` (ten annotators, who agree), ``kind``, ``level`` (budget
        meant to resolve the evidence), ``evidence`` (indices of the patches that decide it, raster order), ``boxes``
        (its pixels: left, top, right, bottom), ``grid`` (rows, cols), ``image_id``, ``question_id``.

    Raises
    ------
    ValueError
        For an unknown split, kind or wording, or a grid beyond 4 x 4.
    """
    from .page import SKEWED, draw_page, patches_of, photographed, skewed, turned
    from .questions import KINDS, SPLIT_WORDINGS, Question, ask

    if split not in SPLIT_WORDINGS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLIT_WORDINGS)}")
    if grid is not None and not (grid[0] in (1, 2, 3, 4) and grid[1] in (1, 2, 3, 4)):
        raise ValueError(f"grid is {grid}; it must be (rows, cols) with 1 to 4 of each")
    for kind in kinds or ():
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is unknown; the kinds are {', '.join(KINDS)}")
    wording = wording or SPLIT_WORDINGS[split]
    if wording not in ("train", "eval"):
        raise ValueError(f"wording is {wording!r}; it must be 'train' or 'eval'")
    for i in range(n):
        rng = random.Random(f"pages/{split}/{seed}/{i}")
        asked: list[Question] = []
        while not asked:
            canvas, page = draw_page(rng, split, grid)
            asked = ask(rng, page, 1, wording, [rng.choice(list(kinds))] if kinds else None)
        question, name = asked[0], f"pages-{split}-{seed}-{i}"
        image, boxes = canvas.image, [list(box) for box in question.boxes]
        if rng.random() < SKEWED:
            image, angle = skewed(rng, image)
            boxes = [turned(box, angle, image.size) for box in boxes]
        yield {
            "image": photographed(rng, image),
            "question": question.text,
            "answer": question.answer,
            "answers": [question.answer] * 10,
            "kind": question.kind,
            "level": question.level,
            "evidence": patches_of(boxes, (canvas.rows, canvas.cols)),
            "boxes": boxes,
            "grid": (canvas.rows, canvas.cols),
            "image_id": name,
            "question_id": name,
        }
