"""The stages of training, in order. Each draws its pictures once, resumes from its checkpoint, builds on the last."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

from ...pages.canvas import Canvas
from ...pages.dense import crowded
from ...pages.model import build_config, build_model
from ...pages.page import SHARES, SKEWED, draw_page, skewed
from ...pages.questions import WEIGHTS
from ...pages.tokenizer import ID, SIZE, build_backend
from ..checkpoints import newest
from .align import align_loss, token_tables
from .batches import Batch, Encode, collate, fill, page_prefix, plain_prefix, repeated_pairs, text_prefix, word_list
from .foreign import foreign_batch, read_questions, read_task
from .language import answer_loss
from .pool import Pool, distort, draw_pool, open_pool
from .run import Loss, run_stage
from .tower import Heads, tower_batch, tower_loss
from .vision import angles, project, to_rows, trunk

Stage = Callable[[Path, Accelerator, int | None, float | None], None]
"""What runs a stage: run folder, accelerator, and steps and learning rate where they are not the stage's own."""
Grid = tuple[int, int, int]
"""Rows and columns of patches, and the finest print."""
WRITTEN = ("field", "cell", "title", "present", "larger", "most", "absent")
"""Kinds of question that a document without a picture can answer."""
TASK = "task.yaml"
"""In the run folder: the settings of the foreign questions that stage "task" learns."""
MIXED = True
"""Whether matrix products run in bfloat16."""


def dense_pool(out: Path, n: int = 8000) -> Pool:
    """Patches crowded with print."""
    draw_pool(out / "pool-dense", n, (1, 1), lambda rng: (crowded(rng), None), "dense")
    return open_pool(out / "pool-dense")


def page_pool(
    out: Path, rows: int, cols: int, n: int, finest: int = 400, stage: str = "", shares: Mapping[str, float] = SHARES
) -> Pool:
    """Pages of one grid; a quarter of those of a named ``stage`` lie askew."""
    name = f"{stage}{rows}x{cols}" + (f"-{finest}" if finest < 400 else "")

    def draw(rng: random.Random) -> tuple[Canvas, Any]:
        canvas, page = draw_page(rng, "train", (rows, cols), finest, shares)
        if stage and rng.random() < SKEWED:
            canvas.image, _ = skewed(rng, canvas.image)
        return canvas, page

    draw_pool(out / f"pool-{name}", n, (rows, cols), draw, name)
    return open_pool(out / f"pool-{name}")


def new_model() -> Qwen2_5_VLForConditionalGeneration:
    """The untrained model."""
    return build_model(build_config(SIZE, ID), 0)


def tower(out: Path, accelerator: Accelerator, steps: int | None, lr: float | None) -> None:
    """Reading: characters, words and inks of cells."""
    dense, pages, model = dense_pool(out), page_pool(out, 1, 1, 12000), new_model()
    torch.manual_seed(0)
    module = nn.ModuleDict({"tower": model.model.visual, "heads": Heads(model.config.text_config.hidden_size)})
    run_stage(
        "tower", module,
        lambda step, progress: tower_loss(
            module["tower"], module["heads"], tower_batch(dense, pages, 0, step, progress, 4800), MIXED
        ),
        out, steps or 4000, lr or 2e-3, accelerator,
    )  # fmt: skip


def text(out: Path, accelerator: Accelerator, steps: int | None, lr: float | None) -> None:
    """The language model alone on text documents with rows and columns: transcripts, questions and answers."""
    # Colours are not written.
    pool, model = page_pool(out, 1, 1, 12000), new_model()
    backend = build_backend()
    for p in model.model.visual.parameters():
        p.requires_grad_(False)

    def loss(step: int, progress: float) -> Loss:
        size = 20 // accelerator.num_processes
        batch = document_batch(random.Random(f"text/{step}"), pool, lambda s: backend.encode(s).ids, size)
        with torch.autocast("cpu", torch.bfloat16, enabled=MIXED):
            return answer_loss(model, batch)

    run_stage("text", model, loss, out, steps or 4000, lr or 1.5e-3, accelerator)


FIT = {64: (8, 8), 128: (12, 12), 256: (16, 16), 400: (20, 20)}
"""Cells per patch at which print of a level is read."""
BUDGETS = ((8, 8), (8, 16), (12, 12), (16, 16), (20, 20))


def aligned(stage: str, before: str, part: str, steps: int, peak: float) -> Stage:
    """What a cell shows, in the embedding space that the language model learned from text."""

    def run(out: Path, accelerator: Accelerator, own_steps: int | None, lr: float | None) -> None:
        pools, model, backend = (dense_pool(out), page_pool(out, 1, 1, 12000)), new_model(), build_backend()
        load_stage(model, out, before)
        for name, p in model.named_parameters():
            p.requires_grad_(part in name)
        tables = token_tables(lambda s: backend.encode(s).ids)

        def loss(step: int, progress: float) -> Loss:
            with torch.autocast("cpu", torch.bfloat16, enabled=MIXED):
                return align_loss(model, tables, pools, step, progress)

        run_stage(stage, model, loss, out, own_steps or steps, lr or peak, accelerator)

    return run


@dataclass
class Diet:
    """What a picture stage shows: (grid of patches, finest print) in shares, and how often at another scale.

    Every ``documents``-th batch has no pictures (0: none).
    """

    pools: dict[Grid, float]
    unfit: float
    work: int = 6000
    room: int = 150
    reading: float = 0.7
    documents: int = 0
    own: int = 0
    """Pages that a stage draws for itself, in these shares; 0: the pages of earlier stages."""
    drawn_for: str = ""
    """The stage whose own pages are shown; by default the stage itself."""
    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    """Of the kinds of blocks on its own pages."""
    filling: float = 0.5
    """How often questions come after a form to fill in."""
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)
    """How often a kind of question is asked."""
    colors: float = 0.0
    """Weight of the mean colour of every cell, read off its visual token by a linear head that is thrown away."""


def pictures_for(diet: Diet, length: int) -> int:
    """Pictures in a batch of sequences of ``length``: as many as ``work`` allows, attention counted.

    A token costs as much again for every 800 that it may attend to.
    """
    return max(1, round(diet.work / (length * (1 + length / 800))))


def pages_in(key: Grid) -> int:
    """How many pages a pool holds; they are seen some ten times each."""
    return 12000 if key == (1, 1, 400) else 6000 if key[:2] == (1, 1) else 3000


def picture_batch(
    model: Qwen2_5_VLForConditionalGeneration,
    pools: dict[Grid, Pool],
    diet: Diet,
    step: int,
    encode: Encode,
    stage: str,
) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Pages of one size at one scale.

    Returns the packed batch, and what ``see`` gives.
    """
    rng = random.Random(f"{stage}/{step}")
    key = rng.choices(list(diet.pools), list(diet.pools.values()))[0]
    (rows, cols, finest), pool = key, pools[key]
    side = rng.choice(BUDGETS) if rng.random() < diet.unfit else FIT[finest]
    grid = (rows * side[0], cols * side[1])
    n = pictures_for(diet, grid[0] * grid[1] + diet.room)
    stating = [i for i, page in enumerate(pool.facts) if page["facts"]]  # some pages say nothing at all
    chosen = rng.choices(stating, k=n)
    pixels = distort(np.random.default_rng(rng.getrandbits(32)), pool.pixels[chosen].astype(np.float32) / 255)
    extent = (rows * 20, cols * 20) if rng.random() < 0.4 else grid
    prefix = page_prefix(grid, extent)
    legible = max(side) * 8 >= 0.8 * {64: 64, 128: 96, 256: 128, 400: 160}[finest]
    reading = rng.random() < diet.reading and legible
    batch = collate([
        fill(rng, pool.facts[i], prefix, encode, diet.room, reading, filling=diet.filling, weights=diet.weights)
        for i in chosen
    ])  # fmt: skip
    return batch, *see(model, pixels, grid, extent)


def see(
    model: Qwen2_5_VLForConditionalGeneration, pixels: np.ndarray, grid: tuple[int, int], places: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """States of the tower ``[n, cells, width]`` and mean colours ``[n, cells, 3]`` of pictures ``[n, H, W, 3]``."""
    tower = model.model.visual
    cells = to_rows(torch.from_numpy(pixels).permute(0, 3, 1, 2), grid)
    with torch.set_grad_enabled(tower.patch_embed.proj.weight.requires_grad):
        states = trunk(tower, cells, *angles(tower, grid, extent=places))
    return states, cells.unflatten(-1, (3, -1)).mean(-1)


def pictures(
    stage: str, before: str, diet: Diet, frozen: tuple[str, ...], steps: int, peak: float, task: bool = False
) -> Stage:
    """A stage over pictures: transcripts, questions and answers; with ``task``, every third batch is of that task."""

    def run(out: Path, accelerator: Accelerator, own_steps: int | None, lr: float | None) -> None:
        foreign = read_questions(read_task(out / TASK)) if task else None
        pools = {
            key: page_pool(
                out, *key[:2], round(diet.own * share) or pages_in(key), key[2],
                f"{diet.drawn_for or stage}-" if diet.own else "", diet.shares,
            )
            for key, share in diet.pools.items()
        }
        documents = page_pool(out, 1, 1, 12000)
        model, backend = new_model(), build_backend()
        load_stage(model, out, before)
        colors = nn.Linear(model.config.text_config.hidden_size, 3)
        module = nn.ModuleDict({"model": model, "colors": colors}) if diet.colors else model

        def encode(text: str) -> list[int]:
            return backend.encode(text).ids

        for name, p in model.named_parameters():
            p.requires_grad_(not any(part in name for part in frozen))

        def loss(step: int, progress: float) -> Loss:
            rng = random.Random(f"{stage}/documents/{step}")
            with torch.autocast("cpu", torch.bfloat16, enabled=MIXED):
                if diet.documents and step % diet.documents == diet.documents - 1:
                    return answer_loss(model, document_batch(rng, documents, encode, 20))
                if foreign is not None and step % 3 == 1:
                    side = rng.choice(BUDGETS)
                    batch, pixels, grid, places = foreign_batch(rng, foreign, side, diet.work, diet.room, encode)
                    states, shown = see(model, pixels, grid, places)
                else:
                    batch, states, shown = picture_batch(model, pools, diet, step, encode, stage)
                vision = project(model.model.visual, states).float()
                value, metrics = answer_loss(model, batch, vision.flatten(0, 1))
            if diet.colors:
                error = (colors(vision) - shown).pow(2).mean()
                value, metrics = value + diet.colors * error, {**metrics, "colors": (error.item(), 1)}
            cells = states.shape[1]
            return value, {f"{k}@{cells}": v for k, v in metrics.items()}

        run_stage(stage, module, loss, out, own_steps or steps, lr or peak, accelerator)

    return run


def document_batch(rng: random.Random, pool: Pool, encode: Encode, n: int) -> Batch:
    """Documents without pictures: pages and lists, half of them plain text, half laid out in rows and columns."""
    samples, u = [], rng.random()
    if u < 0.5:
        return collate([repeated_pairs(rng, encode) for _ in range(4 * n)])
    if u < 0.75:  # short lists: looking up is learned from many of them
        for _ in range(2 * n):
            page = word_list(rng, 8)
            prefix = plain_prefix(page, encode) if rng.random() < 0.7 else text_prefix(rng, page, encode)
            samples.append(fill(rng, page, prefix, encode, 60, False, ("field", "present"), filling=1.0))
        return collate(samples)
    for _ in range(n):
        listed = rng.random() < 0.6
        page = word_list(rng) if listed else rng.choice(pool.facts)
        prefix = plain_prefix(page, encode) if rng.random() < 0.5 else text_prefix(rng, page, encode)
        reading, kinds = (0.15, ("field", "present")) if listed else (0.5, WRITTEN)
        samples.append(fill(rng, page, prefix, encode, 110, rng.random() < reading, kinds, filling=0.9))
    return collate(samples)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of the newest checkpoint of a stage. ValueError if it has none."""
    checkpoint = newest(folder)
    if checkpoint is None:
        raise ValueError(f"{folder} holds no checkpoint; train stage {folder.name!r} first")
    weights = dict(load_file(checkpoint / "model.safetensors"))
    if "colors.weight" in weights:  # the model beside a head that is thrown away
        weights = {k.removeprefix("model."): v for k, v in weights.items() if not k.startswith("colors.")}
    return weights


def load_stage(model: Qwen2_5_VLForConditionalGeneration, out: Path, before: str) -> None:
    """Weights with which a stage begins: the tower's reading and the language model's documents, or a later stage.

    A run that has not trained the stage before, but holds a published model in ``start``, goes on from that.
    """
    if newest(out / before) is None and (out / "start" / "model.safetensors").is_file():
        model.load_state_dict(load_file(out / "start" / "model.safetensors"), strict=False)
        return
    if before == "text":
        tower = weights_of(out / "tower")
        model.model.visual.load_state_dict({k[6:]: v for k, v in tower.items() if k.startswith("tower.")})
        words = weights_of(out / "text")
        model.load_state_dict({k: v for k, v in words.items() if "visual" not in k}, strict=False)
        return
    weights = weights_of(out / before)
    if before in ("align", "words"):  # the language model that it was trained under may have read on since
        words = weights_of(out / "text")
        weights = {k: v if "visual" in k else words[k] for k, v in weights.items()}
    model.load_state_dict(weights, strict=False)


SHORT = Diet(
    {
        (1, 1, 64): 0.15, (1, 1, 128): 0.2, (1, 1, 256): 0.2, (1, 1, 400): 0.2, (1, 2, 64): 0.1, (2, 1, 128): 0.1,
        (2, 2, 64): 0.05,
    },
    unfit=0.12, documents=2, room=150, work=3500,
)  # fmt: skip
QUESTIONS = Diet(
    {
        (1, 1, 400): 0.08, (1, 2, 64): 0.06, (2, 2, 64): 0.05, (3, 3, 64): 0.05, (2, 2, 256): 0.08, (2, 3, 256): 0.04,
        (1, 2, 400): 0.3, (2, 1, 400): 0.12, (2, 2, 400): 0.22,
    },
    unfit=0.15, documents=16, room=280, reading=0.5, own=8000,
)  # fmt: skip
COLORS = Diet(
    {(1, 1, 64): 0.35, (1, 1, 128): 0.3, (1, 1, 256): 0.15, (1, 1, 400): 0.08, (1, 2, 64): 0.12},
    unfit=0.15, documents=16, room=150, reading=0.2, own=8000, colors=1.0, work=4000, filling=0.9,
    shares={"sign": 0.3, "tiles": 0.35, "bars": 0.2, "fields": 0.15},
    weights={"color": 6, "on": 3, "says": 2, "count": 2, "field": 2},
)  # fmt: skip
SCENES = Diet(
    {
        (1, 1, 128): 0.08, (1, 1, 256): 0.08, (1, 1, 400): 0.14, (1, 2, 64): 0.05, (2, 2, 64): 0.05, (3, 3, 64): 0.05,
        (1, 2, 400): 0.25, (2, 1, 400): 0.1, (2, 2, 400): 0.2,
    },
    unfit=0.15, documents=16, room=250, reading=0.25, own=8000, drawn_for="questions", colors=1.0, work=4500,
    weights={"field": 4, "cell": 4, "color": 2.5, "on": 2, "most": 2.5, "count": 2.5, "larger": 2, "line": 1.5,
             "absent": 1.5, "title": 0.7, "sum": 0.4},
)  # fmt: skip
LAST = replace(
    SCENES, reading=0.3, drawn_for="",
    weights={"field": 5, "cell": 4, "color": 1.5, "on": 2, "line": 2, "count": 1.5, "title": 0.7, "sum": 0.4},
)  # fmt: skip
STAGES: dict[str, Stage] = {
    "tower": tower,
    "text": text,
    "align": aligned("align", "text", "merger", 700, 3e-3),
    "words": aligned("words", "align", "visual", 700, 1e-3),
    "short": pictures("short", "words", SHORT, ("visual.blocks", "patch_embed"), 4000, 1e-3),
    "questions": pictures("questions", "short", QUESTIONS, (), 6000, 5e-4),
    "colors": pictures("colors", "questions", COLORS, (), 2000, 8e-4),
    "scenes": pictures("scenes", "colors", SCENES, (), 2000, 6e-4),
    "task": pictures("task", "scenes", LAST, (), 2000, 6e-4, task=True),
}
