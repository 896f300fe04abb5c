"""Bad input: one clear error that names the value, the rule and the remedy, before anything runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import BlipConfig, BlipForConditionalGeneration, DynamicCache, LlamaConfig, LlamaForCausalLM

import arr_coc
from arr_coc.config import ArrCocConfig
from arr_coc.families import Family, known_families, register_family
from arr_coc.families.compat import cache_name
from arr_coc.scene.contract import Plan
from arr_coc.wrapping.wrapper import ArrCoc
from tests import tiny, zoo
from tests.wrapping.conftest import BUDGETS, SIDE, Pattern, built
from tests.wrapping.matrix import Cell
from tests.wrapping.test_exactness import MIXED, PROMPTS, logits

CONFIG = ArrCocConfig(budgets=BUDGETS, patch_side=SIDE)


def both(model, inputs, match, **extra):
    """``forward`` and ``generate`` refuse alike, and the next good call works."""
    for call in (
        lambda: model.model(**inputs, **extra),
        lambda: model.model.generate(**inputs, **extra, max_new_tokens=1),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.fixture
def model(wrapped):
    model = built("reference")
    wrapped(model, 4)
    yield model
    logits(model.model, model.make(PROMPTS))


def test_images_without_placeholders_and_placeholders_without_images(model):
    inputs = model.make(PROMPTS)
    text = inputs | {"input_ids": inputs["input_ids"].masked_fill(inputs["input_ids"] == tiny.IMAGE, 30)}
    both(model, text, r"fills 256 placeholders, but sample 3 has 0 left")
    fewer = inputs | {"input_ids": inputs["input_ids"].clone()}
    fewer["input_ids"][0, 10] = 30
    both(model, fewer, "fills 256 placeholders, but sample 0 has")
    alone = {k: v for k, v in inputs.items() if k not in ("pixel_values", "image_grid_thw")}
    both(model, alone, "622 image placeholders, but no pixel_values")
    one = inputs | {"pixel_values": inputs["pixel_values"][:256], "image_grid_thw": inputs["image_grid_thw"][:1]}
    both(model, one, "The prompt holds 622 image placeholders, the images fill 256")


def test_layouts_that_do_not_add_up(model):
    inputs = model.make(PROMPTS)
    both(
        model,
        inputs | {"pixel_values": inputs["pixel_values"][:-1]},
        "describes 622 ViT patches, pixel_values holds 621",
    )
    both(model, {k: v for k, v in inputs.items() if k != "image_grid_thw"}, "image_grid_thw is missing")
    both(model, {k: v for k, v in inputs.items() if k != "mm_token_type_ids"}, "mm_token_type_ids is missing")
    qwen = built("qwen2_vl")
    with arr_coc.wrap(qwen.model, None, CONFIG, Pattern(4)):
        odd = qwen.make([[2, (8, 8), 2]])
        odd["image_grid_thw"] = torch.tensor([[1, 15, 16]])
        both(qwen, odd, "must have heights and widths that are multiples of 2")


def test_masks_embeddings_and_caches(model):
    inputs = model.make(PROMPTS)
    both(model, inputs | {"attention_mask": inputs["attention_mask"][:, 1:]}, r"attention_mask has shape \(4, ")
    both(
        model,
        inputs | {"attention_mask": inputs["attention_mask"][:, None, None]},
        "four dimensions are not supported",
    )
    embeds = model.model.get_input_embeddings()(inputs["input_ids"]).detach()
    both(model, inputs | {"inputs_embeds": embeds}, "inputs_embeds can't be combined with images")
    with pytest.raises(ValueError, match="inputs_embeds can't be combined"):
        model.model(**{k: v for k, v in inputs.items() if k != "input_ids"}, inputs_embeds=embeds)
    with pytest.raises(ValueError, match="labels has shape"):
        model.model(**inputs, labels=inputs["input_ids"][:, 1:])
    cache = DynamicCache(config=model.model.config.get_text_config())
    model.model(input_ids=torch.tensor([[30, 31]]), **{cache_name(): cache})
    both(model, inputs, "The cache holds tokens already", **{cache_name(): cache})


def test_dtypes_that_do_not_go_together(model):
    inputs = model.make(PROMPTS)
    both(model, inputs | {"input_ids": inputs["input_ids"].float()}, "input_ids has dtype float32")
    both(model, inputs | {"pixel_values": inputs["pixel_values"].to(torch.uint8)}, "pixel_values has dtype uint8")
    for value in (float("nan"), float("inf")):
        pixels = inputs["pixel_values"].clone()
        pixels[-1, -1] = value
        both(model, inputs | {"pixel_values": pixels}, "pixel_values holds NaN or infinite values")
    # Other tensors of a call may be of any kind that holds their numbers.
    want = logits(model.model, inputs)
    odd = {"attention_mask": inputs["attention_mask"].bool(), "image_grid_thw": inputs["image_grid_thw"].int()}
    assert torch.equal(logits(model.model, inputs | odd), want)


@pytest.mark.parametrize("name", ["kimi_k25", "internvl"])
def test_pixels_of_another_dtype_than_the_model(name):
    """Most towers cast them, as without the wrapper; the others fail, and that has one clear error."""
    cell = Cell(zoo.build(name))
    cell.model.to(torch.bfloat16)
    inputs = cell.make(0)
    if name == "internvl":
        want = cell.logits(inputs)
        with cell.wrapped(16):
            assert torch.equal(cell.logits(inputs), want)
        return
    with cell.wrapped():
        both(cell, inputs, "failed on pixel_values of torch.float32, while the model is torch.bfloat16; pass inputs")
        cell.logits(inputs | {"pixel_values": inputs["pixel_values"].bfloat16()})


def test_allocations_and_questions(model):
    inputs = model.make(PROMPTS)
    good = [[4] * 4, [64] * 5, [], [4] * 5]
    both(model, inputs, "allocation has 1 lists for 4 samples", allocation=[[4]])
    both(model, inputs, r"allocation\[0\] holds 3 budgets for 4 patches", allocation=[[4] * 3, *good[1:]])
    both(
        model,
        inputs,
        r"allocation\[1\] holds 100, which is none of the budgets",
        allocation=[good[0], [100] * 5, *good[2:]],
    )
    both(model, inputs, "2 questions were passed for 4 samples", question=["a", "b"])
    both(model, inputs, "question=' ' is empty", question=" ")
    text = model.make([[7]])
    both(model, text, "no pixel_values to spend it on", allocation=[[]])
    model.model.generate(**inputs, max_new_tokens=1, allocation=good, question="what ?")
    records = model.model.generate.__self__.last
    assert [record.budgets for record in records] == good and records[0].question == "what ?"


def test_a_prompt_that_asks_nothing(model):
    inputs = model.make([[(8, 8)]])
    both(model, inputs, "Sample 0 asks nothing")
    model.model.generate(**inputs, max_new_tokens=1, question="w40 w41")
    arr = model.model.generate.__self__
    assert arr.planner.scenes[-1].question_ids.tolist() == [40, 41]
    arr.planner = Pattern(4, needs=())
    model.model.generate(**inputs, max_new_tokens=1)


def test_a_plan_that_does_not_fit(model):
    arr = model.model.generate.__self__
    before = arr.planner.plan
    arr.planner.plan = lambda scene: Plan([4])
    both(model, model.make(PROMPTS), r"Pattern\.plan holds 1 budgets for 4 patches")
    arr.planner.plan = lambda scene: Plan([5] * len(scene.patches))
    both(model, model.make(PROMPTS), r"Pattern\.plan holds 5, which is none of the budgets")
    arr.planner.plan = before


def test_models_that_can_not_be_wrapped(monkeypatch):
    llama = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(ValueError, match=r"'llama' model, which is no supported .* Known: .*qwen2_5_vl.*qwen3_vl"):
        arr_coc.wrap(llama, None, CONFIG, Pattern(4))
    blip = BlipForConditionalGeneration(
        BlipConfig(
            text_config={"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
            vision_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 16},
        )
    )
    with pytest.raises(ValueError, match="BlipForConditionalGeneration is not supported: its text attends .* Known: "):
        arr_coc.wrap(blip, None, CONFIG, Pattern(4))
    exaone = SimpleNamespace(config=SimpleNamespace(model_type="exaone4_5"))
    with pytest.raises(ValueError, match="positions='keep' can't be used with .* Use positions='auto' or 'compact'"):
        ArrCoc(exaone, None, ArrCocConfig(positions="keep"), Pattern(4))
    with pytest.raises(ValueError, match="Linear is no transformers model"):
        arr_coc.wrap(torch.nn.Linear(2, 2), None, CONFIG, Pattern(4))
    with pytest.raises(TypeError, match="needs a Family instance"):
        register_family("mine", Family)
    assert "mine" not in known_families()
    with pytest.raises(ValueError, match="realizer='rescal' is unknown. Did you mean 'rescale'"):
        arr_coc.wrap(built("reference").model, None, ArrCocConfig(realizer="rescal"), Pattern(4))
    assert "generate" not in vars(built("reference").model)
    monkeypatch.setattr("arr_coc.families.compat.version", lambda name: "5.22.0")
    monkeypatch.setattr("arr_coc.families.compat.installed_transformers", lambda: (5, 22))
    edge = SimpleNamespace(config=SimpleNamespace(model_type="cosmos3_edge"))
    with pytest.raises(ValueError, match=r"'cosmos3_edge' needs transformers >= 5\.23, found 5\.22\.0; upgrade it"):
        ArrCoc(edge, None, CONFIG, Pattern(4))
    monkeypatch.setattr("arr_coc.families.compat.version", lambda name: "5.17.0")
    monkeypatch.setattr("arr_coc.families.compat.installed_transformers", lambda: (5, 17))
    with pytest.raises(ImportError, match=r"needs transformers >= 5\.19 and < 6, found 5\.17\.0"):
        arr_coc.wrap(built("reference").model, None, CONFIG, Pattern(4))


def test_a_patch_below_the_window_of_the_tower():
    model = built("qwen2_5_vl")
    with (
        arr_coc.wrap(model.model, tiny.tokenizer(), ArrCocConfig(budgets=(4, 9), patch_side=3), Pattern(4)),
        pytest.raises(ValueError, match="patch_side=3 is below the attention window of this tower; use at least 4"),
    ):
        model.model(**model.make(PROMPTS))


def test_a_mask_that_was_left_out_is_the_one_transformers_assumes(wrapped):
    model = built("qwen2_vl")
    inputs = model.make(PROMPTS[:2])
    wrapped(model, *MIXED)
    want = model.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    inputs.pop("attention_mask")
    assert torch.equal(model.model.generate(**inputs, max_new_tokens=3, do_sample=False), want)
