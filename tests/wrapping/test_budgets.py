"""Budgets that fit the family, limits below the floor, and questions that are answered without a glance."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import arr_coc
from arr_coc.config import SHARES, ArrCocConfig, resolve_limit
from arr_coc.realizing import Pool, make_realizer
from arr_coc.scene.patches import Patch, make_patches, realised_costs
from arr_coc.wrapping.cost import Operations
from tests import tiny, zoo

from .conftest import Pattern, built
from .test_cost import counted
from .test_matrix import matrix

PROCESSOR = SimpleNamespace(
    tokenizer=tiny.tokenizer(), image_processor=SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
)


def squares(side: int) -> list[int]:
    return [n * n for n in range(1, side + 1)]


@pytest.mark.parametrize(
    ("side", "only_squares", "budgets"),
    [
        (20, False, (64, 128, 256, 400)),
        (12, False, (24, 45, 90, 144)),
        (16, False, (40, 81, 165, 256)),
        (9, False, (12, 25, 54, 81)),
        (16, True, (36, 81, 169, 256)),
    ],
)
def test_auto_budgets_are_shares_of_the_own_patch(side, only_squares, budgets):
    patch = Patch(0, 0, 0, side, 0, side)
    sizes = [math.prod(Pool().grid(None, patch, tokens)) for tokens in range(1, side * side + 1)]
    resolved = ArrCocConfig().resolved(squares(side) if only_squares else sizes)
    assert resolved.budgets == budgets and resolved.scaled
    # No other size that can be bought is nearer to its share.
    for budget, share in zip(budgets, SHARES, strict=True):
        known = squares(side) if only_squares else sizes
        assert abs(budget - share * side**2) == min(abs(size - share * side**2) for size in known)


def test_auto_is_the_default_and_numbers_are_left_alone():
    assert ArrCocConfig(budgets="auto") == ArrCocConfig() and ArrCocConfig().resolved().budgets == (64, 128, 256, 400)
    named = ArrCocConfig(budgets=(64, 128, 256, 400))
    assert named.resolved([1, 2, 3]) is named and not named.scaled
    resolved = ArrCocConfig(limit=0.4).resolved()
    assert ArrCocConfig.from_dict(resolved.to_dict()) == resolved
    assert ArrCocConfig.from_dict(ArrCocConfig().to_dict()) == ArrCocConfig()
    with pytest.raises(ValueError, match=r"budget=65 must be one of the budgets \(64, 128, 256, 400\)"):
        ArrCocConfig(policy="uniform", budget=65).resolved()
    with pytest.raises(TypeError, match="must be 'auto' or a sequence"):
        ArrCocConfig(budgets="automatic")


@given(height=st.integers(8, 120), width=st.integers(8, 120))
def test_the_floor_of_any_picture_is_about_a_sixth(height, width):
    """With absolute budgets a grid of 21 x 21, four patches of 10 or 11, had a floor of 58 %."""
    realizer = Pool()
    realizer.full = 400
    patches = make_patches([(0, 0, height, width)], 20)
    costs = realised_costs(patches, (64, 128, 256, 400), lambda patch, budget: realizer.grid(None, patch, budget))
    assert int(costs[:, -1].sum()) == height * width
    assert 0.1 < int(costs[:, 0].sum()) / (height * width) <= 0.16 + 1e-9
    for patch, row in zip(patches, costs.tolist(), strict=True):
        if (patch.height, patch.width) == (20, 20):
            assert row == [64, 128, 256, 400]


@pytest.mark.parametrize(("name", "budgets"), [("llava (CLIP)", (2, 6, 9, 16)), ("qwen2_vl", (2, 6, 9, 16))])
def test_a_wrapped_model_has_its_own_budgets(name, budgets):
    cell = matrix.Cell(zoo.build(name))
    with arr_coc.wrap(cell.model, PROCESSOR, ArrCocConfig(patch_side=4)) as arr:
        assert arr.config.budgets == budgets and arr.realizer.full == 16
        cell.model.generate(**cell.make(), max_new_tokens=1, do_sample=False)
        assert all(record.tokens <= record.full_tokens for record in arr.last)
    assert make_realizer("pool").full is None


def test_a_share_below_the_floor_means_the_floor():
    costs = torch.tensor([[64, 128, 256, 400]])
    with pytest.warns(UserWarning, match="limit=0.1 is less than the floors"):
        assert resolve_limit(0.1, costs) == 64
    with pytest.raises(ValueError, match="limit=40 allows 40 tokens, but 1 patch needs 64 at the floor; use at least"):
        resolve_limit(40, costs)
    with pytest.raises(ValueError, match="but 2 patches need 128 at the floor"):
        resolve_limit(40, costs.repeat(2, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_limit(0.16, costs) == 64 and resolve_limit(0.5, costs) == 200


def asked(model: Any, prompt: list[Any], **config: Any) -> Any:
    values = {"budgets": (4, 16, 36, 64), "patch_side": 8, "policy": "heuristic"} | config
    inputs = model.make([prompt])
    with arr_coc.wrap(model.model, PROCESSOR, ArrCocConfig(**values)) as arr:
        model.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        return arr.last[0]


def test_a_limit_below_the_floor_is_said_once_and_kept_in_the_record():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        records = [asked(built("reference"), [3, (16, 16), 4], limit=0.01) for _ in range(3)]
    assert [record.tokens for record in records] == [16] * 3 and records[0].way == "glance"
    assert records[0].why == "limit=0.01 is below the floors, so the floors are the limit"
    assert len([w for w in said if "less than the floors" in str(w.message)]) == 1


def test_one_patch_is_answered_directly():
    ran = []
    model = built("reference")
    handle = model.model.get_decoder().register_forward_hook(lambda *_: ran.append(1))
    try:
        record = asked(model, [3, (8, 8), 4])
    finally:
        handle.remove()
    assert ran == [1] and record.way == "direct" and record.tokens == 64 and "one patch" in record.why
    assert asked(model, [3, (8, 8), 4], limit=0.5).tokens == 16
    assert asked(model, [3, (8, 8), 4], limit=40).tokens == 36
    assert asked(model, [3, (8, 8), 4], direct=False).way in ("glance", "look")


def test_looking_that_can_not_pay_is_left_out():
    model = built("reference")
    assert asked(model, [3, (16, 16), 4]).way in ("glance", "look")
    prompt = [60, (8, 9), 4]  # two small patches behind a text, which the glance would read as well
    record = asked(model, prompt, realizer="pool", positions="keep", budgets=(30, 40))
    assert record.way == "direct" and record.tokens == record.full_tokens
    assert "of the untouched model's operations" in record.why
    # Under a limit somebody has to choose.
    assert asked(model, prompt, realizer="pool", positions="keep", budgets=(30, 40), limit=0.9).way != "direct"


def test_a_policy_that_explores_is_always_asked():
    """Learning needs a decision for every answer."""
    model, config = built("reference"), ArrCocConfig(budgets=(4, 16, 36, 64), patch_side=8)
    with arr_coc.wrap(model.model, PROCESSOR, config) as arr:
        assert arr.planner.direct
        arr.planner.explore = True
        model.model.generate(**model.make([[3, (8, 8), 4]]), max_new_tokens=1)
        assert not arr.planner.direct and arr.last[0].way in ("glance", "look") and arr.last[0].decision


def test_planners_that_plan_for_themselves_are_always_asked():
    model = built("reference")
    config = ArrCocConfig(budgets=(4, 16, 36, 64), patch_side=8)
    with arr_coc.wrap(model.model, PROCESSOR, config, Pattern(4)) as arr:
        model.model.generate(**model.make([[3, (8, 8), 4]]), max_new_tokens=1)
        assert arr.last[0].tokens == 4 and arr.last[0].way == "glance"
        model.model.generate(**model.make([[3, (8, 8), 4]]), max_new_tokens=1, allocation=[[16]])
        assert arr.last[0].way == "given"


@pytest.mark.parametrize("name", ["llava (CLIP)", "internvl", "qwen2_5_vl", "qwen3_vl_moe", "mistral3", "gemma3"])
def test_operations_are_those_that_are_counted(name):
    """The counter takes every pair of tokens for seen; half of them are, and the head is read for every token."""
    cell = matrix.Cell(zoo.build(name))
    inputs = cell.make(1)
    with arr_coc.wrap(cell.model, None, ArrCocConfig(patch_side=4), Pattern(2)) as arr:
        call = matrix.Call(cell.model, cell.family, inputs, 4)
        found = arr.builder.forecast(call)
    operations, length = Operations.of(cell.model), inputs["input_ids"].shape[1]
    head = 2 * cell.model.get_output_embeddings().weight.numel() * length
    half = (operations.pair + operations.sliding) * length**2 / 2
    run = counted(cell, inputs, lambda cell, inputs: cell.logits(inputs))
    assert 0.85 < run / (found.untouched + head + half) < 1.15
    assert found.glance < found.raised and found.glance == found.given[0]
