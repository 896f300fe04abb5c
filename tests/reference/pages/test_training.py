"""The trainer of the pages model: what a batch depends on, what is trained when, and that a broken run goes on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from arr_coc.reference.pages.dense import crowded
from arr_coc.reference.pages.page import draw_page
from arr_coc.reference.pages.tokenizer import ID, build_backend
from arr_coc.reference.training.pages import stages
from arr_coc.reference.training.pages.__main__ import app
from arr_coc.reference.training.pages.batches import IGNORE
from arr_coc.reference.training.pages.foreign import foreign_batch, read_questions, read_task
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
    batch, states, shown = stages.picture_batch(model, {(1, 1, 400): pools["pages"]}, diet, 3, encode, "short")
    again, *_ = stages.picture_batch(model, {(1, 1, 400): pools["pages"]}, diet, 3, encode, "short")
    assert torch.equal(batch.ids, again.ids) and states.shape[:2].numel() == int((batch.ids == ID["image"]).sum())
    for row, labels in zip(batch.ids, batch.labels, strict=True):
        for place in (labels != IGNORE).nonzero().flatten().tolist():
            assert labels[place] == row[place + 1]  # every label is the next token
    assert not (batch.labels == ID["image"]).any()


def easy(folder: Path) -> Path:
    """Questions about two pictures of different sizes, as a task file."""
    for name, size in (("a", (320, 160)), ("b", (600, 100))):
        Image.new("RGB", size, "red").save(folder / f"{name}.png")
    asked = [("a", "what color ?", "red"), ("b", "is it red ?", "yes"), ("a", "what shape ?", "rectangle")]
    rows = [{"image": f"{a}.png", "image_id": a, "question": q, "answer": w} for a, q, w in asked]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text(f"task: {{source: jsonl, path: {folder / 'q.jsonl'}}}\nrun: {{price: 1}}\n")
    return folder / "task.yaml"


def test_foreign_questions_are_grouped_by_picture_and_labelled_by_the_next_token(tmp_path: Path):
    questions = read_questions(read_task(easy(tmp_path)))
    assert [picture.shape for picture in questions.pictures] == [(160, 320, 3), (80, 480, 3)]
    assert [[q for q, *_ in asked] for asked in questions.asked] == [["what color ?", "what shape ?"], ["is it red ?"]]
    seen = set()
    for seed in range(12):
        batch, pixels, grid, places = foreign_batch(random.Random(seed), questions, (8, 16), 900, 60, encode)
        seen.add((grid, places))
        assert pixels.shape[0] == len(batch.ids) and 0 <= pixels.min() <= pixels.max() <= 1
        for row, labels, block, kinds in zip(batch.ids, batch.labels, batch.block, batch.kinds, strict=True):
            assert int((row == ID["image"]).sum()) == grid[0] * grid[1] and kinds == ["all"] * int(block.max())
            scored = (labels != IGNORE).nonzero().flatten()
            assert all(labels[place] == row[place + 1] for place in scored.tolist())
            assert int((labels == ID["eos"]).sum()) == len(kinds)
    # 20 x 40 cells at full detail and 10 x 60; half of the rows at 8 to a patch, .8 of the columns at 16.
    assert {grid for grid, _ in seen} == {(8, 32), (4, 48)} and {((8, 32), (20, 40)), ((4, 48), (4, 48))} <= seen


def test_colours_are_read_off_visual_tokens_by_a_head_that_does_not_stay(
    tmp_path: Path, pools: dict[str, Pool], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stages, "page_pool", lambda *_: pools["pages"])
    monkeypatch.setattr(stages, "load_stage", lambda *_: None)
    easy(tmp_path)
    diet = stages.Diet({(1, 1, 400): 1.0}, unfit=0.0, work=900, colors=1.0)
    stages.pictures("task", "scenes", diet, ("language_model",), 2, 1e-2, task=True)(
        tmp_path, Accelerator(cpu=True), 2, None
    )
    left = stages.weights_of(tmp_path / "task")
    assert left.keys() == dict(stages.new_model().named_parameters()).keys()
    logged = json.loads((tmp_path / "log.jsonl").read_text())
    assert any(key.startswith("colors@") for key in logged) and any(key.startswith("all@") for key in logged)


def test_stage_task_wants_a_task(tmp_path: Path):
    result = CliRunner().invoke(app, ["train", "--out", str(tmp_path), "--stage", "task"])
    assert result.exit_code == 2 and "--with" in result.output


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
