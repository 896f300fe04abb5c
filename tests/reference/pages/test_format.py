"""What training shows the model is what the stock classes show it in use."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

import arr_coc
from arr_coc.asking.ask import answers, prepare
from arr_coc.reference import generate
from arr_coc.reference.pages.lexicon import WORDS
from arr_coc.reference.pages.page import draw_page
from arr_coc.reference.pages.questions import Question
from arr_coc.reference.pages.tokenizer import ID, build_backend
from arr_coc.reference.training.pages import batches
from arr_coc.reference.training.pages.batches import IGNORE, collate, fill, page_prefix
from arr_coc.reference.training.pages.language import hidden_states
from arr_coc.reference.training.pages.vision import angles, encode, to_float, to_rows


def test_the_classes_are_stock(fresh: tuple[Any, Any], tmp_path: Path):
    model, processor = fresh
    assert type(model) is Qwen2_5_VLForConditionalGeneration
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    assert type(again) is Qwen2_5_VLProcessor
    (sample,) = generate(1, world="pages", grid=(1, 2))
    one, two = (prepare(p, [sample["image"]], [sample["question"]]) for p in (processor, again))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_processor_keeps_the_pixels_of_a_page(fresh: tuple[Any, Any]):
    _, processor = fresh
    (sample,) = generate(1, world="pages", grid=(2, 3))
    inputs = prepare(processor, [sample["image"]], ["what is the title ?"])
    assert inputs["image_grid_thw"].tolist() == [[1, 40, 60]]
    ours = to_rows(to_float(np.asarray(sample["image"])[None]), (40, 60))
    assert torch.allclose(inputs["pixel_values"], ours[0], atol=1e-5)


def test_a_packed_question_gets_the_stock_logits(fresh: tuple[Any, Any]):
    model, processor = fresh
    (sample,) = generate(1, world="pages", grid=(1, 2))
    backend = build_backend()
    canvas, page = draw_page(random.Random(2), "train", (1, 2))
    rng = random.Random(0)
    packed = fill(rng, page, page_prefix((20, 40)), lambda s: backend.encode(s).ids, 150, True)
    batch = collate([packed])
    with torch.no_grad():
        rows = to_rows(to_float(canvas.pixels()[None]), (20, 40))
        vision = encode(model.model.visual, rows, *angles(model.model.visual, (20, 40)))[0]
        embedded = model.model.language_model.embed_tokens(batch.ids)
        embedded = embedded.masked_scatter((batch.ids == ID["image"])[..., None], vision)
        logits = model.lm_head(hidden_states(model, embedded, batch))[0]
        for block in (1, 2, len(packed.kinds)):
            own = [i for i, b in enumerate(packed.block) if b == block]
            ids = torch.tensor([[packed.ids[i] for i, b in enumerate(packed.block) if b in (0, block)]])
            stock = model(
                input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=rows[0],
                image_grid_thw=torch.tensor([[1, 20, 40]]), mm_token_type_ids=(ids == ID["image"]).long(),
            ).logits[0, -len(own) :]  # fmt: skip
            assert torch.allclose(logits[own], stock, atol=1e-4), (logits[own] - stock).abs().max()


def test_the_chat_template_writes_what_training_wrote(fresh: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch):
    _, processor = fresh
    asked = Question("field", "what is the total ?", "4.50", (), 64)
    monkeypatch.setattr(batches, "ask", lambda *_: [asked])
    backend = build_backend()
    canvas, page = draw_page(random.Random(2), "train", (1, 1))
    row = fill(random.Random(0), page, page_prefix((20, 20)), lambda s: backend.encode(s).ids, 150, False)
    prompt = prepare(processor, [canvas.image], [asked.text])["input_ids"][0].tolist()
    assert row.ids[: len(prompt)] == prompt
    said = [label for label in row.labels if label != IGNORE]
    assert said == row.ids[len(prompt) :] and said[-1] == ID["eos"]
    assert answers(processor, torch.tensor([prompt]), torch.tensor([row.ids])) == ["4.50"]


def test_digits_and_words_are_single_tokens():
    backend = build_backend()
    assert all(len(backend.encode(f" {word}").ids) == 1 for word in WORDS)
    assert backend.encode(" 12.05").tokens == ["Ġ1", "2", ".", "0", "5"]
    assert backend.decode(backend.encode(" Ä zebra costs 5% ?").ids) == " ä zebra costs 5% ?"


def test_blocks_see_the_page_and_themselves_only():
    row = batches.Sample([1] * 6, np.zeros((3, 6), int), [IGNORE] * 6, [0, 0, 1, 1, 2, 2], ["a", "b"])
    mask = collate([row]).mask()[0, 0]
    wanted = [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0],
              [1, 1, 0, 0, 1, 1]]  # fmt: skip
    assert mask.int().tolist() == wanted


def test_wrapped_at_full_budget_it_is_the_untouched_model(fresh: tuple[Any, Any]):
    model, processor = fresh
    (sample,) = generate(1, world="pages", grid=(2, 2))
    inputs = prepare(processor, [sample["image"]], [sample["question"]])
    ask = dict(max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True)
    alone = model.generate(**inputs, **ask)
    with arr_coc.wrap(model, processor, arr_coc.ArrCocConfig(policy="uniform", budget=400)) as arr:
        wrapped = model.generate(**inputs, **ask)
        assert [p.native for p in arr.last[0].patches] == [400] * 4
    assert torch.equal(alone.sequences, wrapped.sequences)
    assert all(torch.equal(a, b) for a, b in zip(alone.logits, wrapped.logits, strict=True))


@pytest.mark.parametrize("realizer", ["rescale", "rescale-separate", "pool", "select"])
@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_mixed_budgets_run_under_every_realizer(fresh: tuple[Any, Any], realizer: str, positions: str):
    model, processor = fresh
    (sample,) = generate(1, world="pages", grid=(2, 2))
    inputs = prepare(processor, [sample["image"]], [sample["question"]])
    config = arr_coc.ArrCocConfig(policy="uniform", budget=64, realizer=realizer, positions=positions)
    with arr_coc.wrap(model, processor, config) as arr:
        model.generate(**inputs, allocation=[[64, 400, 128, 256]], max_new_tokens=2, do_sample=False)
        assert arr.last[0].tokens == 848


def test_pages_are_cut_into_the_patches_that_were_drawn(fresh: tuple[Any, Any]):
    model, processor = fresh
    for sample in generate(4, world="pages"):
        inputs = prepare(processor, [sample["image"]], [sample["question"]])
        with arr_coc.wrap(model, processor, arr_coc.ArrCocConfig(policy="uniform", budget=64)) as arr:
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
            assert len(arr.last[0].patches) == sample["grid"][0] * sample["grid"][1]
            assert {(p.height, p.width) for p in arr.last[0].patches} == {(20, 20)}
