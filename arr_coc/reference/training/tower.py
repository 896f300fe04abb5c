"""Stage 1 of training, the tower: every visual token learns to write the codes of what its cell shows.

A batch is a pure function of (seed, rank, step), so a resumed run sees exactly the batches of an unbroken one.
"""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from transformers import Qwen2VLForConditionalGeneration

from .. import vocabulary as V
from ..world import (
    COLORS,
    CONTENTS,
    LEVELS,
    PATCH,
    PRINT_SIZES,
    WORDS,
    Box,
    Sign,
    draw_patch,
    draw_print,
    draw_sign,
    font,
    ground,
    pick,
    place,
)
from .labels import ATTRIBUTES, dense_labels, resolved_cells
from .packed import TOKEN_GRIDS, Loss, encode, to_float

SHARPNESS = 10.0
"""Logit per unit of code amplitude; a code counts as present above an amplitude of one half."""
FINE = ("tens", "units", "word", "dots")
UNRESOLVED_WEIGHT = 0.2
"""Weight of print that the budget cannot resolve: enough to learn doubt, too little to drown what can be read."""
ATTRIBUTE_WEIGHT = {"shape": 1.0, "color": 0.6, "letter": 1.0, "tens": 1.5, "units": 1.5, "word": 1.5, "dots": 1.2}


def crowded_canvas(rng: random.Random, size: int, levels: dict[int, float]) -> tuple[np.ndarray, list[Sign]]:
    """A canvas crowded with signs and loose print: far more glyphs per token than a patch of the world has."""
    x, y = rng.randint(0, PATCH - size), rng.randint(0, PATCH - size)
    canvas = ground(rng, (1, 1), "train").crop((x, y, x + size, y + size))
    draw, taken, signs = ImageDraw.Draw(canvas), list[Box](), list[Sign]()
    small, loose = size < PATCH, 8 if size < PATCH else 7
    contents = {"number": 0.5, "word": 0.35, "dots": 0.15} if small else CONTENTS
    for _ in range(rng.choice((0, 2, 3, 4)) if small else rng.choice((1, 3, 4, 5))):
        content = pick(rng, contents)
        level = pick(rng, levels) if content in ("number", "word") else None
        sign = draw_sign(rng, draw, taken, rng.choice(list(COLORS)), size, content, level, small)
        if sign is not None:
            signs.append(sign)
    for _ in range(loose):
        content, level = rng.choice(("number", "word")), pick(rng, levels)
        value = str(rng.randint(10, 99)) if content == "number" else rng.choice(WORDS)
        points = rng.choice(PRINT_SIZES[level])
        width = font(points, True).getlength(value.upper()) + 2
        corner = place(rng, taken, size, width, points + 2, 1)
        if corner is not None:
            box = draw_print(rng, draw, value.upper(), points, corner[0] + width / 2, corner[1] + points / 2 + 1)
            signs.append(Sign("", "", content, value, level, box, box))
    return np.asarray(canvas), signs


def single_patch(rng: random.Random) -> tuple[np.ndarray, list[Sign]]:
    """One patch of the world with a sign or two."""
    canvas: Image.Image = ground(rng, (1, 1), "train")
    signs = draw_patch(rng, canvas, rng.sample(list(COLORS), rng.choices((1, 2), (0.4, 0.6))[0]))
    return np.asarray(canvas), signs


def dense_loss(features: torch.Tensor, labels: torch.Tensor, resolved: torch.Tensor, key: str) -> Loss:
    """Cross entropy of code amplitudes against the dense labels.

    ``features`` ``[cells, width]``, ``labels`` ``[attributes, cells]``, ``resolved`` ``[cells]`` bool.
    """
    total, metrics = features.new_zeros(()), {}
    for attribute, label in zip(ATTRIBUTES, labels, strict=True):
        shown, absent = label > 0, label == 0
        if not shown.any():
            continue
        amplitude = features @ V.class_codes(attribute).T
        none = torch.full_like(amplitude[:, :1], 0.5)
        logits = SHARPNESS * torch.cat([none, amplitude], 1)
        present = SHARPNESS * (features @ V.codes()[f"kind/{V.KIND_OF[attribute]}"] - 0.5)
        weight = torch.ones_like(amplitude[:, 0])
        if attribute in FINE:
            weight[~resolved] = UNRESOLVED_WEIGHT
        read = F.cross_entropy(logits[shown], label[shown], reduction="none") * weight[shown]
        loss = read.mean() + F.cross_entropy(logits[absent], label[absent])
        gate = F.softplus(-present[shown]).mean() + F.softplus(present[absent]).mean()
        total = total + ATTRIBUTE_WEIGHT[attribute] * loss + 0.3 * gate
        counted = shown & resolved if attribute in FINE else shown
        right = (logits[counted].argmax(-1) == label[counted]).sum().item()
        if counted.any():
            metrics[f"{attribute}@{key}"] = (right, int(counted.sum()))
    return total, metrics


def tower_loss(model: Qwen2VLForConditionalGeneration, seed: int, rank: int, step: int, progress: float) -> Loss:
    """One batch of about 3,200 visual tokens: crowded canvases at first, then more and more patches of the world.

    ``progress`` is the share of the stage that is done; the batch depends on (seed, rank, step, progress) alone.
    """
    rng = random.Random(f"tower/{seed}/{rank}/{step}")
    crops, crowds = (0.6, 0.3) if progress < 0.15 else (0.3, 0.4) if progress < 0.6 else (0.15, 0.35)
    u = rng.random()
    if u < crops:
        grid, size = rng.choices(((10, 10), (8, 8)), (0.65, 0.35))[0], 80
        n, budget, key = 3200 // (grid[0] * grid[1]), 400 if grid[0] == 10 else 256, f"crop{grid[0]}"
        drawn = [crowded_canvas(rng, size, {400: 0.6, 256: 0.4}) for _ in range(n)]
    else:
        budget = pick(rng, {64: 0.25, 128: 0.2, 256: 0.25, 400: 0.3})
        grid, size, key = TOKEN_GRIDS[budget], PATCH, str(budget)
        n = min(32, 3200 // budget)
        crowded = u < crops + crowds
        drawn = [crowded_canvas(rng, size, LEVELS) if crowded else single_patch(rng) for _ in range(n)]
    labels = np.stack([dense_labels(signs, size, grid) for _, signs in drawn], 1)
    resolved = np.stack([resolved_cells(signs, size, grid, budget) for _, signs in drawn])
    features = encode(model, to_float([image for image, _ in drawn]), grid).flatten(0, 1)
    return dense_loss(features, torch.from_numpy(labels).flatten(1), torch.from_numpy(resolved).flatten(), key)
