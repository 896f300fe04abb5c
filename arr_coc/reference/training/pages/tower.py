"""Stage 1, reading: an ordinary linear head names the character, word and ink of every cell, as OCR pretraining does.

The heads are thrown away afterwards. A batch is a pure function of (seed, step) and the pool.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...pages.canvas import PATCH
from ...pages.dense import HEADS, cell_labels
from ...pages.lexicon import NUMBER_ID
from .pool import Pool, distort
from .run import Loss
from .vision import angles, encode, to_rows

WEIGHTS = {"left": 1.0, "right": 1.0, "cover": 1.0, "word": 1.0, "ink": 0.3}


TowerBatch = tuple[torch.Tensor, torch.Tensor, tuple[int, int], tuple[int, int]]


class Heads(nn.Module):
    """One linear classifier per kind of label."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, sum(HEADS.values()))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``[..., width]`` to the logits of each head."""
        logits: torch.Tensor = self.linear(self.norm(features))
        return logits.split(list(HEADS.values()), -1)


def tower_batch(dense: Pool, pages: Pool, seed: int, step: int, progress: float, tokens: int) -> TowerBatch:
    """Crops of one size: rows ``[n, L, 192]``, labels ``[5, n * L]``, grid, and the grid whose places it stands at.

    Small crops at full detail first (many characters for few cells), then whole patches at every budget; from .4 of
    the way on a quarter of the batches are patches of the world.
    """
    rng = np.random.default_rng((seed, step))
    u = rng.random()
    crop_share = 0.9 if progress < 0.3 else 0.6 if progress < 0.7 else 0.35
    pool = pages if progress >= 0.4 and rng.random() < 0.25 else dense
    if u < crop_share and pool is dense:
        side, grid = 80, ((10, 10), (10, 10), (8, 8), (6, 6))[rng.integers(4)]
    else:
        side, grid = PATCH, ((20, 20), (16, 16), (8, 16), (12, 12), (8, 8))[rng.integers(5)]
    n = max(1, tokens // (grid[0] * grid[1]))
    chosen = rng.integers(len(pool), size=n)
    corners = rng.integers(0, (PATCH - side) // 4 + 1, size=(n, 2)) * 4
    crops = np.stack([pool.pixels[i, y : y + side, x : x + side] for i, (y, x) in zip(chosen, corners, strict=True)])
    pixels = distort(rng, crops.astype(np.float32) / 255)
    labels = np.stack(
        [
            cell_labels(pool.glyphs_of(i), (x, y, x + side, y + side), grid)
            for i, (y, x) in zip(chosen, corners, strict=True)
        ],
        1,
    )
    rows = to_rows(torch.from_numpy(pixels).permute(0, 3, 1, 2), grid)
    full = side * 20 // PATCH
    return rows, torch.from_numpy(labels).flatten(1), grid, (full, full) if rng.random() < 0.4 else grid


def tower_loss(tower: nn.Module, heads: nn.Module, batch: TowerBatch, mixed: bool = False) -> Loss:
    """Cross entropy of every head, cells with and without print in equal parts; and accuracies on print."""
    rows, labels, grid, extent = batch
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=mixed):
        features = encode(tower, rows, *angles(tower, grid, rows.device, extent))
    outputs = heads(features.float().flatten(0, 1))
    total, metrics = features.new_zeros((), dtype=torch.float32), {}
    for (name, weight), logits, label in zip(WEIGHTS.items(), outputs, labels, strict=True):
        shown, absent = label > 0, label == 0
        each = F.cross_entropy(logits, label, ignore_index=-1, reduction="none")
        if name == "word":  # a number is no word to know
            each = torch.where(label == NUMBER_ID, 0.15 * each, 1.7 * each)
        if shown.any():
            total = total + weight * each[shown].mean()
            if name == "word":
                shown = shown & (label != NUMBER_ID)
            right = (logits[shown].argmax(-1) == label[shown]).sum().item()
            if shown.any():
                metrics[f"{name}@{grid[0]}x{grid[1]}"] = (right, int(shown.sum()))
        if absent.any():
            total = total + 0.5 * weight * each[absent].mean()
    return total, metrics
