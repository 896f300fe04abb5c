"""The training-time forward pass is the stock model on the processor's tokens; batches are reproducible."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from arr_coc import reference
from arr_coc.reference import language, packed, tower
from arr_coc.reference import train as training
from arr_coc.reference import vocabulary as V
from arr_coc.reference.model import build_model
from arr_coc.reference.processor import build_processor
from arr_coc.reference.questions import ask, location
from arr_coc.reference.world import draw_picture


@pytest.fixture(scope="module")
def model():
    return build_model(0).eval()


def test_packed_questions_get_the_stock_models_logits(model):
    rng, grid = random.Random(0), (2, 2)
    picture = draw_picture(rng, "train", grid)
    budgets = [400, 64, 256, 128]
    questions = language.draw_questions(rng, picture, budgets, 3)
    grids = [packed.TOKEN_GRIDS[b] for b in budgets]
    pixels = packed.to_float(list(picture.patches()))
    with torch.no_grad():
        vision = torch.cat([packed.encode(model, pixels[i : i + 1], g)[0] for i, g in enumerate(grids)])
        places = [[location(grid, p) for p in range(4)]]
        ids, positions, tokens, _, _ = language.answer_batch(places, [grids], [questions])
        mine = model.lm_head(packed.packed_forward(model, ids, vision, positions, tokens).hidden)
        pixel_values = torch.cat([packed.to_tokens(pixels[i : i + 1], g) for i, g in enumerate(grids)])
        for j, question in enumerate(questions):
            n = len(question.text.split())
            full = torch.cat([ids[0], tokens[0, j, :n]])[None]
            stock = model(
                input_ids=full, attention_mask=torch.ones_like(full), pixel_values=pixel_values,
                image_grid_thw=torch.tensor([[1, *g] for g in grids]), mm_token_type_ids=(full == V.IMAGE).long(),
            ).logits[0, -n:]  # fmt: skip
            assert torch.allclose(stock, mine[0, j, :n], atol=1e-4)


def test_training_and_processor_cut_the_same_tokens():
    processor = build_processor()
    sample = next(reference.generate(1, seed=5))
    inputs = processor(images=sample["image"], text=sample["question"])
    pixels = packed.to_float([np.asarray(p) for p in processor.split(sample["image"])])
    assert torch.allclose(packed.to_tokens(pixels, (20, 20)), inputs["pixel_values"], atol=1e-5)
    words = processor.tokenizer.decode(inputs["input_ids"][0]).replace("<img>", "")
    assert words.endswith(sample["question"])


def test_every_question_fits_its_row():
    longest = 0
    for i in range(150):
        rng = random.Random(i)
        question = ask(rng, draw_picture(rng, "train", (2, 2)), "compare")
        longest = max(longest, len(question.text.split()) if question else 0)
    assert longest + 1 == language.QUESTION_LENGTH


def test_a_batch_depends_on_seed_rank_and_step_alone(model):
    def loss(*key):
        with torch.no_grad():
            return tower.tower_loss(model, *key, 0.0)[0].item()

    assert loss(0, 0, 0) == loss(0, 0, 0)
    assert len({loss(0, 0, 0), loss(1, 0, 0), loss(0, 1, 0), loss(0, 0, 1)}) == 4


def test_an_overflowing_gradient_is_refused(tmp_path, monkeypatch):
    def bad(model, *args):
        return sum(p.sum() for p in model.parameters() if p.requires_grad) * float("nan"), {}

    config = training.TrainConfig(tower_steps=1, language_steps=1)
    monkeypatch.setitem(training.STAGES, "tower", bad)
    with pytest.raises(FloatingPointError, match="step 0 of stage tower is nan .* lower tower_lr"):
        training.train(config, tmp_path, progress=False)
    assert not (tmp_path / "tower").exists()


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="processes is 3"):
        training.TrainConfig(processes=3)
    with pytest.raises(ValueError, match="tower_steps is 0"):
        training.TrainConfig(tower_steps=0)
    with pytest.raises(ValueError, match="language_lr is nan"):
        training.TrainConfig(language_lr=float("nan"))
