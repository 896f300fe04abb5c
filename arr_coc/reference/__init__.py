"""The shipped reference VLM and its world: the embedded default that makes every claim of this project measurable.

``load()`` gives the trained model and its processor without a network; ``generate()`` draws fresh VQA samples with known evidence.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Qwen2VLForConditionalGeneration

    from arr_coc.reference.processor import ReferenceProcessor

__all__ = ["SPLITS", "generate", "load", "path"]

SPLITS = ("train", "learn", "eval")
"""Disjoint streams of pictures: the VLM trains on "train", policies learn on "learn", everything is judged on "eval"."""


def path() -> Path:
    """Folder of the shipped weights, tokenizer and processor; ``AutoModelForImageTextToText.from_pretrained`` takes it."""
    return Path(str(files("arr_coc.reference") / "data"))


def load(device: str = "cpu") -> tuple[Qwen2VLForConditionalGeneration, ReferenceProcessor]:
    """The reference VLM (evaluation mode, float32) and its processor. Needs no network."""
    from transformers import AutoModelForImageTextToText

    from arr_coc.reference.processor import ReferenceProcessor

    model = AutoModelForImageTextToText.from_pretrained(path(), local_files_only=True).eval().to(device)
    return model, ReferenceProcessor.from_pretrained(path(), local_files_only=True)


def generate(
    n: int,
    seed: int = 0,
    split: str = "eval",
    kinds: Sequence[str] | None = None,
    grid: tuple[int, int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Draw ``n`` reference VQA samples, one question per picture, in the VQAv2 format.

    Each is a dict: ``image`` (PIL), ``question``, ``answer``, ``answers`` (ten annotators, who agree), ``kind``, ``level`` (budget meant to
    resolve the evidence), ``evidence`` (indices of the patches that decide it, raster order), ``grid`` (rows, cols), ``image_id``, ``question_id``.
    Sample ``i`` depends on (split, seed, i) alone. Raises ValueError for an unknown split or kind.
    """
    from PIL import Image

    from arr_coc.reference.questions import KINDS, ask
    from arr_coc.reference.world import draw_picture

    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    for kind in kinds or ():
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is unknown; the kinds are {', '.join(KINDS)}")
    for i in range(n):
        rng = random.Random(f"{split}/{seed}/{i}")
        question = None
        while question is None:
            picture = draw_picture(rng, split, grid)
            question = ask(rng, picture, rng.choice(list(kinds)) if kinds else None)
        name = f"{split}-{seed}-{i}"
        yield {
            "image": Image.fromarray(picture.pixels),
            "question": question.text,
            "answer": question.answer,
            "answers": [question.answer] * 10,
            "kind": question.kind,
            "level": question.level,
            "evidence": sorted({p for p, _ in question.evidence}),
            "grid": picture.grid,
            "image_id": name,
            "question_id": name,
        }
