"""The training-time forward pass is the stock model on the processor's tokens; batches are reproducible."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from arr_coc import reference
from arr_coc.reference import vocabulary as V
from arr_coc.reference.model import build_model
from arr_coc.reference.processor import build_processor
from arr_coc.reference.questions import location
from arr_coc.reference.training import language, packed, tower
from arr_coc.reference.training import train as training
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


def test_rows_are_as_long_as_the_longest_question_and_its_answer():
    picture = draw_picture(random.Random(1), "train", (2, 2))
    questions = language.draw_questions(random.Random(1), picture, [400] * 4, 6)
    batch = language.answer_batch([[("top", "left")]], [[(8, 8)]], [questions])
    assert batch.tokens.shape[2] == 1 + max(len(q.text.split()) for q in questions)
    assert (batch.labels != language.IGNORE).sum(-1).eq(2).all()  # the answer, and the end


def test_thinning_keeps_what_must_stay_and_counts_the_rest():
    always = torch.rand(3, 200, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.1, 0.3, 0.5])[:, None]
    kept, log_copies, rows = language.thin(always, 0.25, torch.Generator().manual_seed(1))
    for b in range(3):
        ground = ~always[b, kept[b]]
        assert set(always[b].nonzero()[:, 0].tolist()) <= set(kept[b].tolist())
        assert torch.equal(kept[b], kept[b].unique())
        assert log_copies[b, ~ground].eq(0).all()
        assert log_copies[b, ground].exp().sum().item() == pytest.approx(int((~always[b]).sum()), rel=1e-5)
        assert torch.equal(rows[b, kept[b]], torch.arange(kept.shape[1]))
    # The one with most that must stay keeps a quarter of its ground, and all are equally long.
    most = int(always[2].sum())
    assert kept.shape[1] == pytest.approx(most + 0.25 * (200 - most), abs=2)


def test_thinning_nothing_changes_nothing():
    always = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)) < 0.4
    kept, log_copies, rows = language.thin(always, 1.0, torch.Generator().manual_seed(1))
    assert torch.equal(kept, torch.arange(50).expand(2, -1)) and log_copies.eq(0).all() and torch.equal(rows, kept)


def test_a_thinned_prompt_estimates_the_whole_one(monkeypatch):
    """The shipped model answers the same questions alike over a quarter of the ground and over all of it."""
    trained, _ = reference.load()
    monkeypatch.setattr(language, "LANGUAGE_TOKENS", 10**6)
    monkeypatch.setattr(language, "VISION_TOKENS", 3600)

    def right(share: float) -> dict[str, tuple[float, int]]:
        monkeypatch.setattr(language, "GROUND_KEPT", share)
        with torch.no_grad():
            return language.language_loss(trained, 0, 0, 1, 0.5)[1]

    whole, part = right(1.0), right(0.25)
    assert {kind: count for kind, (_, count) in whole.items()} == {kind: count for kind, (_, count) in part.items()}
    asked = sum(count for _, count in whole.values())
    assert sum(abs(whole[kind][0] - part[kind][0]) for kind in whole) <= 0.04 * asked


def test_copies_count_in_attention(model):
    """The stock language model with the log of the copies added to its attention mask gives the same."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[V.BOS, *[V.IMAGE] * 6, V.VISION_END]])
    asked = torch.tensor([[[V.TOKEN["what"], V.TOKEN["color"], V.TOKEN["?"]]]])
    positions, rows = torch.arange(8 + 3).expand(3, 1, -1), torch.tensor([[3, 6]])
    vision, log_copies = torch.randn(6, 128, generator=generator), torch.tensor([[0, 0, 1.5, 0, 0.7, 0, 2.0, 0]])
    language_model = model.model.language_model
    with torch.no_grad():
        mine = packed.packed_forward(model, ids, vision, positions, asked, rows, log_copies=log_copies)
        embedded = language_model.embed_tokens(torch.cat([ids, asked[0]], 1))
        embedded[0, 1:7] = vision
        mask = torch.full((11, 11), -1e9).triu(1)
        mask[:, :8] += log_copies
        stock = language_model(inputs_embeds=embedded, attention_mask=mask[None, None], position_ids=positions)
        plain = packed.packed_forward(model, ids, vision, positions, asked, rows)
    assert torch.allclose(mine.hidden[0, 0], stock.last_hidden_state[0, 8:], atol=1e-4)
    assert not torch.allclose(mine.hidden, plain.hidden, atol=1e-2)
    seen = plain.image_scores > -1e9
    assert torch.allclose((mine.image_scores - plain.image_scores)[seen], log_copies.expand(1, 2, -1)[seen], atol=1e-5)


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
