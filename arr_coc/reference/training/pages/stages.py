"""The stages of training, in order; each draws its pictures once, resumes from its checkpoint and builds on the last."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from ...pages.dense import crowded
from ...pages.model import build_config, build_model
from ...pages.page import draw_page
from ...pages.tokenizer import ID, SIZE, build_backend

from .batches import collate, fill, text_prefix
from .language import answer_loss
from .pool import Pool, draw_pool, open_pool
from .run import run_stage
from .tower import Heads, tower_batch, tower_loss

MIXED = True
"""Whether matrix products run in bfloat16."""


def dense_pool(out: Path, n: int = 8000) -> Pool:
    """Patches crowded with print."""
    draw_pool(out / "pool-dense", n, (1, 1), lambda rng: (crowded(rng), None), "dense")
    return open_pool(out / "pool-dense")


def page_pool(out: Path, rows: int, cols: int, n: int) -> Pool:
    """Pages of one grid."""
    folder = out / f"pool-{rows}x{cols}"
    draw_pool(folder, n, (rows, cols), lambda rng: draw_page(rng, "train", (rows, cols)), f"pages/{rows}x{cols}")
    return open_pool(folder)


def new_model():
    """The untrained model."""
    return build_model(build_config(SIZE, ID), 0)


def tower(out: Path, accelerator: Accelerator, steps: int | None, lr: float | None) -> None:
    """Reading: characters, words and inks of cells."""
    pool, model = dense_pool(out), new_model()
    torch.manual_seed(0)
    module = nn.ModuleDict({"tower": model.model.visual, "heads": Heads(model.config.text_config.hidden_size)})
    run_stage(
        "tower", module,
        lambda step, progress: tower_loss(module["tower"], module["heads"], tower_batch(pool, 0, step, progress, 4800),
                                          MIXED),
        out, steps or 4000, lr or 2e-3, accelerator,
    )  # fmt: skip


def text(out: Path, accelerator: Accelerator, steps: int | None, lr: float | None) -> None:
    """The language model alone on text documents with rows and columns: transcripts, questions and answers."""
    pool, model = page_pool(out, 1, 1, 12000), new_model()
    encode = lambda s: backend.encode(s).ids  # noqa: E731
    backend = build_backend()
    for p in model.model.visual.parameters():
        p.requires_grad_(False)

    def loss(step: int, progress: float):
        rng = random.Random(f"text/{step}")
        pages = [rng.choice(pool.facts) for _ in range(28)]
        batch = collate([fill(rng, p, text_prefix(rng, p, encode), encode, 150, rng.random() < 0.7) for p in pages])
        with torch.autocast("cpu", torch.bfloat16, enabled=MIXED):
            return answer_loss(model, batch)

    run_stage("text", model, loss, out, steps or 4000, lr or 1.5e-3, accelerator)


STAGES: dict[str, Callable[[Path, Accelerator, int | None, float | None], None]] = {"tower": tower, "text": text}
