"""A page of sample pictures with their questions and answers, to look at the world of reference VQA."""

from __future__ import annotations

import math
import os
from pathlib import Path

from PIL import Image, ImageDraw

from . import generate
from .world import PATCH, font

CELL, MARGIN, LINE = 3 * PATCH, 16, 22
"""Pixels: side of a sample's place, space around it, height of a line of text."""


def draw(n: int = 12, seed: int = 0, split: str = "eval", out: str | Path = "reference.png",
         world: str = "reference") -> Path:  # fmt: skip
    """Write a page of ``n`` samples: the picture at its own size, the evidence patches outlined, question and answer.

    Parameters
    ----------
    n
        Number of samples.
    seed, split
        Which ones, as in ``generate``.
    out
        Picture file; its ending names the format.
    world
        "reference" or "pages". The pictures of a row have one height: that of the largest grid.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If ``n`` is not positive, the split unknown, or the ending no picture format.
    OSError
        If the file cannot be written.
    """
    if n < 1:
        raise ValueError(f"n is {n}; draw at least 1 sample")
    file, known = Path(out), Image.registered_extensions()
    if file.suffix.lower() not in known:
        raise ValueError(f"{file} must end in a picture format such as .png or .jpg")
    columns = math.ceil(math.sqrt(n))
    side = CELL if world == "reference" else 4 * PATCH
    cell = (side + 2 * MARGIN, side + 2 * MARGIN + 3 * LINE)
    page = Image.new("RGB", (columns * cell[0], math.ceil(n / columns) * cell[1]), "white")
    pen = ImageDraw.Draw(page)
    for i, sample in enumerate(generate(n, seed, split, world=world)):
        x, y = i % columns * cell[0] + MARGIN, i // columns * cell[1] + MARGIN
        page.paste(sample["image"], (x, y))
        for patch in sample["evidence"]:
            row, col = divmod(patch, sample["grid"][1])
            left, top = x + col * PATCH, y + row * PATCH
            pen.rectangle((left, top, left + PATCH - 1, top + PATCH - 1), outline=(220, 0, 120), width=2)
        below = y + sample["image"].height + 6
        words, cut = sample["question"], len(sample["question"])
        if font(15, True).getlength(words) > side:
            cut = words.rindex(" ", 0, len(words) // 2 + 8)
        for k, line in enumerate(filter(None, (words[:cut], words[cut:].strip()))):
            pen.text((x, below + k * LINE), line, font=font(15, True), fill="black")
            end = below + (k + 1) * LINE
        answer = f"{sample['answer']}   ({sample['kind']}, resolved at {sample['level']} tokens per patch)"
        pen.text((x, end), answer, font=font(15, False), fill=(60, 60, 60))
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.stem}.writing{file.suffix}")
    page.save(new)
    os.replace(new, file)
    return file
