"""The shipped reference VLM and its world: the embedded default that makes every claim of this project measurable.

``load()`` gives the trained model and its processor without a network; ``generate()`` draws fresh VQA samples with
known evidence.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from transformers import Qwen2VLForConditionalGeneration

    from .processor import ReferenceProcessor

__all__ = ["MODELS", "SPLITS", "generate", "load", "path", "policy_path"]

MODELS = ("reference", "pages")
"""The models that this package trained, each with a world of the same name: signs on patches, and pages of print."""

TRAINERS = {
    "reference": "arr-coc reference train, then arr-coc reference publish",
    "pages": "python -m arr_coc.reference.training.pages train --out RUN",
}

SPLITS = ("train", "learn", "eval")
"""Disjoint streams of pictures: the VLM trains on "train", policies learn on "learn", all is judged on "eval"."""


def _known(name: str, what: str) -> None:
    if name not in MODELS:
        raise ValueError(f"{what} {name!r} is unknown; it must be one of {', '.join(MODELS)}")


def path(name: str = "reference") -> Path:
    """Folder of a model's weights, tokenizer and processor; ``name`` is one of ``MODELS``.

    ``AutoModelForImageTextToText.from_pretrained`` takes it.
    """
    _known(name, "model")
    if name == "pages":
        from . import pages

        return pages.path()
    return Path(str(files("arr_coc.reference") / "data"))


def policy_path() -> Path:
    """Folder of the allocation policy learned for the reference VLM; ``ArrCoc.from_pretrained`` takes it."""
    return Path(str(files("arr_coc.reference") / "policy"))


@overload
def load(
    name: Literal["reference"] = ..., device: str = ...
) -> tuple[Qwen2VLForConditionalGeneration, ReferenceProcessor]: ...
@overload
def load(name: str, device: str = ...) -> tuple[Any, Any]: ...
def load(name: str = "reference", device: str = "cpu") -> tuple[Any, Any]:
    """A model of ``MODELS`` (evaluation mode, float32) and its processor. Needs no network.

    ``"reference"`` is fast and was built to be measured on; ``"pages"`` was trained as real models are.

    Raises ValueError for an unknown name, FileNotFoundError if the package was installed without its weights.
    """
    _known(name, "model")
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from .processor import ReferenceProcessor

    folder = path(name)
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{folder} holds no weights of the {name} model; reinstall arr-coc, take them from a source checkout, or "
            f"train them: {TRAINERS[name]}"
        )
    model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).eval().to(device)
    model.config._name_or_path = f"arr-coc {name} VLM"  # what saved policies name as their base, not this folder
    processor_class = ReferenceProcessor if name == "reference" else AutoProcessor
    return model, processor_class.from_pretrained(folder, local_files_only=True)


def generate(
    n: int,
    seed: int = 0,
    split: str = "eval",
    kinds: Sequence[str] | None = None,
    grid: tuple[int, int] | None = None,
    world: str = "reference",
) -> Iterator[dict[str, Any]]:
    """Draw ``n`` reference VQA samples, one question per picture, in the VQAv2 format.

    Sample ``i`` depends on (split, seed, i) and the restrictions alone.

    Parameters
    ----------
    n
        Number of samples.
    seed
        Names one stream of pictures within the split.
    split
        "train", "learn" or "eval"; no picture is in two of them.
    kinds
        Kinds of question to draw from, in equal shares; by default all, in the shares of ``questions.KINDS``.
    grid
        Rows and columns of patches; by default 2 x 2 to 3 x 3.
    world
        "reference", or "pages" for the world of the second model (see ``pages.generate``).

    Yields
    ------
    dict
        ``image`` (PIL), ``question``, ``answer``, ``answers`` (ten annotators, who agree), ``kind``, ``level`` (budget
        meant to resolve the evidence), ``evidence`` (indices of the patches that decide it, raster order), ``grid``
        (rows, cols), ``image_id``, ``question_id``.

    Raises
    ------
    ValueError
        For an unknown split or kind, or a grid beyond 3 x 3.
    """
    from PIL import Image

    from .questions import KINDS, ask
    from .world import draw_picture

    _known(world, "world")
    if world == "pages":
        from . import pages

        yield from pages.generate(n, seed, split, kinds, grid)
        return
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    if grid is not None and not (grid[0] in (1, 2, 3) and grid[1] in (1, 2, 3)):
        raise ValueError(f"grid is {grid}; it must be (rows, cols) with 1 to 3 of each")
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
