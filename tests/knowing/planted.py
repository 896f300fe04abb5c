"""Pictures whose truth is known, and scenes made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image
from torch import Tensor

from arr_coc.scene.contract import Scene
from arr_coc.scene.patches import Patch, make_patches
from arr_coc.testing import make_scene

SIDE = 160
INK, PAPER = (20, 20, 20), (235, 230, 225)


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def canvas(colour: tuple[int, int, int] = PAPER) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIDE, SIDE), colour)
    return image, ImageDraw.Draw(image)


def text(size: int = 12, ink=INK, paper=PAPER, lines: int | None = None, seed: int = 0) -> Tensor:
    """A page, or some lines, of random words."""
    rng = np.random.default_rng(seed)
    image, draw = canvas(paper)
    font = ImageFont.load_default(size)
    for line, y in enumerate(range(4, SIDE - size, int(size * 1.4))):
        if lines is not None and line >= lines:
            break
        words = "".join(chr(97 + rng.integers(26)) if rng.random() > 0.18 else " " for _ in range(60))
        draw.text((4, y), words, font=font, fill=ink)
    return tensor(image)


def sign(number: str | None = "47", size: int = 11) -> Tensor:
    """A red disc, with or without a small number on it."""
    image, draw = canvas()
    draw.ellipse((50, 60, 105, 115), fill=(235, 55, 55))
    if number:
        draw.text((68, 78), number, font=ImageFont.load_default(size), fill=INK)
    return tensor(image)


def square(side: int = 10, at: tuple[int, int] = (70, 70)) -> Tensor:
    image, draw = canvas()
    draw.rectangle((*at, at[0] + side, at[1] + side), fill=(30, 60, 200))
    return tensor(image)


def objects() -> Tensor:
    image, draw = canvas()
    for x, y, colour in (
        (10, 10, "red"),
        (60, 90, "green"),
        (120, 40, "blue"),
        (30, 120, "black"),
        (110, 120, "orange"),
    ):
        draw.ellipse((x, y, x + 18, y + 18), fill=colour)
    return tensor(image)


def noise(deviation: float = 0.1, seed: int = 0, grey: bool = False, mean: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1 if grey else 3, SIDE, SIDE, generator=generator)
    return (mean + deviation * values).expand(3, -1, -1).clamp(0, 1)


def blank(value: float = 0.5) -> Tensor:
    return torch.full((3, SIDE, SIDE), value)


def ramp(vertical: bool = False) -> Tensor:
    line = (torch.linspace(0, 1, SIDE) * 255).round() / 255
    return (line[:, None] if vertical else line[None]).expand(3, SIDE, SIDE).clone()


def vignette() -> Tensor:
    """A soft light in the middle: gradients of every orientation, and nothing to see."""
    line = torch.linspace(-1, 1, SIDE).square()
    return torch.exp(-line[:, None] - line[None]).expand(3, -1, -1).clone()


def photograph(name: str) -> Tensor:
    return torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1).float() / 255


def scene(
    pixels: Sequence[Tensor],
    patches: Sequence[Patch] | None = None,
    question: str = "what is it ?",
    attention: Tensor | None = None,
    glance: Sequence[Tensor] | None = None,
    words: Tensor | None = None,
) -> Scene:
    """A scene whose patches are separate images, unless ``patches`` says otherwise."""
    made = make_scene(question, pixels, patches)

    def read_attention(layers: Sequence[int]) -> Tensor:
        assert attention is not None
        depth = len(attention)
        return attention[[int(x * depth) if isinstance(x, float) else x for x in layers]]

    return dataclasses.replace(
        made,
        glance=list(glance) if glance is not None else [torch.zeros(64, 4) for _ in made.patches],
        question_ids=torch.zeros(3, dtype=torch.long),
        question_embeddings=words if words is not None else torch.eye(3, 4),
        read_attention=read_attention,
        glance_answer=lambda: torch.zeros(2).log_softmax(0),
    )


def mosaic(picture: Tensor, rows: int, columns: int) -> Scene:
    """One image of ``rows x columns`` patches; ``picture`` is ``[3, rows * s, columns * s]``."""
    patches = make_patches([(0, 0, 20 * rows, 20 * columns)])
    per_token = picture.shape[1] // (20 * rows)
    pixels = [
        picture[:, p.top * per_token : p.bottom * per_token, p.left * per_token : p.right * per_token] for p in patches
    ]
    return scene(pixels, patches)
