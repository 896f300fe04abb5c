"""The trainer of the pages model: what a batch depends on, what is trained when, and that a broken run goes on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from arr_coc.reference.pages.dense import crowded
from arr_coc.reference.pages.page import draw_page
from arr_coc.reference.pages.tokenizer import ID, build_backend
from arr_coc.reference.training.pages import stages
from arr_coc.reference.training.pages.__main__ import app
from arr_coc.reference.training.pages.batches import IGNORE
from arr_coc.reference.training.pages.pool import Pool, draw_pool, open_pool
from arr_coc.reference.training.pages.run import run_stage
from arr_coc.reference.training.pages.tower import Heads, tower_batch, tower_loss


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pool]:
    root = tmp_path_factory.mktemp("pools")
    draw_pool(root / "dense", 6, (1, 1), lambda rng: (crowded(rng), None), "dense")
    draw_pool(root / "pages", 6, (1, 1), lambda rng: draw_page(rng, "train", (1, 1)), "pages")
    return {name: open_pool(root / name) for name in ("dense", "pages")}


def encode(text: str) -> list[int]:
    return build_backend().encode(text).ids


def train_tower(out: Path, pools: dict[str, Pool], steps: int, stop: int | None = None) -> dict[str, torch.Tensor]:
    """The tower stage in small; ``stop`` breaks it off after so many steps."""
    torch.manual_seed(0)
    model = stages.new_model()
    module = nn.ModuleDict({"tower": model.model.visual, "heads": Heads(160)})

    def loss(step: int, progress: float) -> Any:
        if step == stop:
            raise KeyboardInterrupt
        return tower_loss(
            module["tower"], module["heads"], tower_batch(pools["dense"], pools["pages"], 0, step, progress, 400)
        )

    try:
        run_stage("tower", module, loss, out, steps, 1e-3, Accelerator(cpu=True), every=2)
    except KeyboardInterrupt:
        assert stop is not None
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_a_broken_run_goes_on_to_the_same_weights(tmp_path: Path, pools: dict[str, Pool]):
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole = train_tower(tmp_path / "whole", pools, 6)
    train_tower(tmp_path / "broken", pools, 6, stop=5)  # after the checkpoint of step 4
    resumed = train_tower(tmp_path / "broken", pools, 6)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]


def test_a_pool_that_is_there_is_not_drawn_again(tmp_path: Path):
    def draw(rng: random.Random) -> Any:
        return crowded(rng), None

    draw_pool(tmp_path / "p", 2, (1, 1), draw, "x")
    drawn = open_pool(tmp_path / "p").pixels.copy()
    draw_pool(tmp_path / "p", 2, (1, 1), lambda _: pytest.fail("drawn again"), "x")
    draw_pool(tmp_path / "q", 2, (1, 1), draw, "x")
    assert (open_pool(tmp_path / "q").pixels == drawn).all()


def test_a_tower_batch_depends_on_seed_and_step(pools: dict[str, Pool]):
    def batch(seed: int, step: int) -> Any:
        return tower_batch(pools["dense"], pools["pages"], seed, step, 0.5, 800)

    for one, two in zip(batch(0, 1)[:2], batch(0, 1)[:2], strict=True):
        assert torch.equal(one, two)
    assert batch(1, 1)[0].shape != batch(0, 1)[0].shape or not torch.equal(batch(1, 1)[0], batch(0, 1)[0])


def test_a_picture_batch_has_answers_after_questions(pools: dict[str, Pool]):
    model = stages.new_model()
    diet = stages.Diet({(1, 1, 400): 1.0}, unfit=0.5, work=1600)
    batch, states = stages.picture_batch(model, {(1, 1, 400): pools["pages"]}, diet, 3, encode, "short")
    again, _ = stages.picture_batch(model, {(1, 1, 400): pools["pages"]}, diet, 3, encode, "short")
    assert torch.equal(batch.ids, again.ids) and states.shape[:2].numel() == int((batch.ids == ID["image"]).sum())
    for row, labels in zip(batch.ids, batch.labels, strict=True):
        for place in (labels != IGNORE).nonzero().flatten().tolist():
            assert labels[place] == row[place + 1]  # every label is the next token
    assert not (batch.labels == ID["image"]).any()


def test_frozen_parts_stay_and_the_projector_moves(
    tmp_path: Path, pools: dict[str, Pool], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stages, "page_pool", lambda *_: pools["pages"])
    monkeypatch.setattr(stages, "load_stage", lambda *_: None)
    diet = stages.Diet({(1, 1, 400): 1.0}, unfit=0.0, work=900)
    frozen = ("visual.blocks", "patch_embed", "language_model")
    stages.pictures("short", "words", diet, frozen, 2, 1e-2)(tmp_path, Accelerator(cpu=True), 2, None)
    before = dict(stages.new_model().named_parameters())
    after = load_file(tmp_path / "short" / "model.safetensors")
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert moved and all("merger" in name for name in moved)


def test_an_unknown_stage_is_named():
    result = CliRunner().invoke(app, ["train", "--out", "x", "--stage", "towel"])
    assert result.exit_code == 2 and "towel" in result.output and "tower" in result.output
