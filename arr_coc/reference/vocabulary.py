"""The words the reference VLM knows, and the orthonormal codes its embedding starts from.

The world is small enough that every attribute value, place and function word gets a direction of its own in the 128-d
residual stream. Word embeddings start as sums of such codes ("47" = number + tens 4 + units 7), and the vision tower
is trained to write the codes of what it sees. Text and image therefore share one space from the first step, which is
what real VLMs buy with their alignment stage; reading an answer off a patch becomes copying.
"""

from __future__ import annotations

import functools

import torch

from .world import COLORS, LETTERS, MAX_DOTS, SHAPES, WORDS

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>", "<img>", "<vs>", "<ve>", "<video>")
PAD, BOS, EOS, UNK, IMAGE, VISION_START, VISION_END, VIDEO = range(len(SPECIALS))
PLACES = ("top", "middle", "bottom", "left", "center", "right")
KIND_WORDS = ("shape", "color", "letter", "number", "word", "dots")
FUNCTION_WORDS = tuple("what is on the sign in how many are there a larger than with yes no ?".split())
NUMBERS = tuple(str(n) for n in range(10, 100))
COUNTS = tuple(str(n) for n in range(1, MAX_DOTS + 1))
VOCABULARY = (
    *SPECIALS, *FUNCTION_WORDS, *PLACES, *KIND_WORDS, *COLORS, *SHAPES, *LETTERS, *WORDS, *COUNTS, *NUMBERS,
)  # fmt: skip
TOKEN = {word: i for i, word in enumerate(VOCABULARY)}

CLASSES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "letter": LETTERS,
    "tens": tuple("123456789"),
    "units": tuple("0123456789"),
    "word": WORDS,
    "dots": COUNTS,
}
"""Attributes of the dense labels and their values, in label order."""
KIND_OF = {
    "shape": "shape", "color": "color", "letter": "letter", "tens": "number", "units": "number", "word": "word",
    "dots": "dots",
}  # fmt: skip
"""The question's word for each attribute."""


@functools.cache
def codes(width: int = 128, seed: int = 1) -> dict[str, torch.Tensor]:
    """Orthonormal codes: ``"kind/number"``, ``"tens/4"``, ``"color/red"``, ``"text/what"``, ...

    Parameters
    ----------
    width
        Dimension of the residual stream.
    seed
        Of the random basis.

    Returns
    -------
    dict
        Name to code, each ``[width]`` float32.

    Raises
    ------
    ValueError
        If there are more codes than ``width``.
    """
    names = [f"kind/{kind}" for kind in KIND_WORDS]
    names += [f"{attribute}/{value}" for attribute, values in CLASSES.items() for value in values]
    names += [f"text/{word}" for word in (*SPECIALS, *FUNCTION_WORDS, *PLACES)]
    if len(names) > width:
        raise ValueError(
            f"{len(names)} codes do not fit in {width} orthogonal directions; use a width of at least {len(names)}"
        )
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q.float()
    return dict(zip(names, basis, strict=False))


def class_codes(attribute: str) -> torch.Tensor:
    """Codes of one attribute's values, ``[len(CLASSES[attribute]), 128]``."""
    return torch.stack([codes()[f"{attribute}/{value}"] for value in CLASSES[attribute]])


def initial_embeddings() -> torch.Tensor:
    """The word embeddings training starts from, ``[len(VOCABULARY), 128]``, rows of unit length."""
    code, rows = codes(), []
    for word in VOCABULARY:
        if word in KIND_WORDS:
            parts = [code[f"kind/{word}"]]
        elif word in NUMBERS:
            parts = [code["kind/number"], code[f"tens/{word[0]}"], code[f"units/{word[1]}"]]
        else:
            owner = next((a for a in ("shape", "color", "letter", "word", "dots") if word in CLASSES[a]), None)
            parts = [code[f"kind/{KIND_OF[owner]}"], code[f"{owner}/{word}"]] if owner else [code[f"text/{word}"]]
        rows.append(sum(parts) / len(parts) ** 0.5)
    return torch.stack(rows)
