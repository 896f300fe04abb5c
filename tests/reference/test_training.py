"""The training-time forward pass is the stock model; a killed training run resumes to the same weights."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from arr_coc import reference
from arr_coc.reference import packed, stages
from arr_coc.reference import train as training
from arr_coc.reference import vocabulary as V
from arr_coc.reference.model import build_model
from arr_coc.reference.processor import build_processor
from arr_coc.reference.questions import location
from arr_coc.reference.world import draw_picture


@pytest.fixture(scope="module")
def model():
    return build_model(0).eval()


def test_packed_questions_get_the_stock_models_logits(model):
    rng, grid = random.Random(0), (2, 2)
    picture = draw_picture(rng, "train", grid)
    budgets = [400, 64, 256, 128]
    questions = stages.draw_questions(rng, picture, budgets, 3)
    grids = [stages.TOKEN_GRIDS[b] for b in budgets]
    pixels = stages.to_float(list(picture.patches()))
    with torch.no_grad():
        vision = torch.cat([packed.encode(model, pixels[i : i + 1], g)[0] for i, g in enumerate(grids)])
        places = [[location(grid, p) for p in range(4)]]
        ids, positions, tokens, _, _ = stages.answer_batch(places, [grids], [questions])
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
    pixels = stages.to_float([np.asarray(p) for p in processor.split(sample["image"])])
    assert torch.allclose(packed.to_tokens(pixels, (20, 20)), inputs["pixel_values"], atol=1e-5)
    words = processor.tokenizer.decode(inputs["input_ids"][0]).replace("<img>", "")
    assert words.endswith(sample["question"])


def test_a_broken_run_continues_to_the_same_weights(tmp_path, monkeypatch):
    config = training.TrainConfig(seed=3, tower_steps=3, language_steps=2, checkpoint_every=1)
    whole = training.train(config, tmp_path / "whole")
    calls = 0

    def dies(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return stages.tower_loss(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setitem(training.STAGES, "tower", dies)
        with pytest.raises(KeyboardInterrupt):
            training.train(config, tmp_path / "broken")
    assert json.loads((tmp_path / "broken/tower/state.json").read_text())["step"] == 2
    resumed = training.train(config, tmp_path / "broken")
    for (name, a), (_, b) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(ValueError, match="resume with the same settings"):
        training.train(training.TrainConfig(seed=4, tower_steps=3, language_steps=2), tmp_path / "broken")


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="processes is 3"):
        training.TrainConfig(processes=3)
    with pytest.raises(ValueError, match="tower_steps is 0"):
        training.TrainConfig(tower_steps=0)
