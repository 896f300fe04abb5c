"""Conversations on a kept cache."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from arr_coc.families.compat import cache_name, output_cache
from tests import tiny
from tests.wrapping.conftest import built
from tests.wrapping.test_exactness import MIXED, PROMPTS, TOLERANCE, families

OPTIONS = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


def grown(inputs, ids):
    """The inputs with the conversation ``ids``, which begins with theirs."""
    extra = ids.shape[1] - inputs["input_ids"].shape[1]
    pad = torch.nn.functional.pad
    return inputs | {
        "input_ids": ids,
        "attention_mask": pad(inputs["attention_mask"], (0, extra), value=1),
        "mm_token_type_ids": pad(inputs["mm_token_type_ids"], (0, extra)),
    }


@families
@pytest.mark.parametrize(
    ("positions", "pattern", "pixels"),
    [
        ("auto", MIXED, True),
        ("keep", MIXED, False),
        ("compact", MIXED, True),
        ("auto", (64,), False),
        ("auto", (64,), True),
    ],
)
def test_a_second_turn_on_the_cache_is_that_of_the_whole_conversation(name, positions, pattern, pixels, wrapped):
    model = built(name)
    inputs = model.make([PROMPTS[1], PROMPTS[3]])
    arr = wrapped(model, *pattern, positions=positions)
    first = model.model.generate(**inputs, **OPTIONS)
    budgets = [record.budgets for record in arr.last]
    more = torch.tensor([[40, 41, 42], [43, 44, 45]])
    second = grown(inputs, torch.cat([first.sequences, more], 1))
    whole = model.model.generate(**second, **OPTIONS, allocation=budgets)
    turn = second if pixels else {k: v for k, v in second.items() if k not in ("pixel_values", "image_grid_thw")}
    model.model.generate(**tiny.one(inputs, 0), max_new_tokens=1)  # another conversation in between
    kept = model.model.generate(**turn, **OPTIONS, **{cache_name(): output_cache(first)})
    assert torch.equal(kept.sequences, whole.sequences)
    for a, b in zip(kept.logits, whole.logits, strict=True):
        assert (a - b).abs().max() < TOLERANCE
    third = grown(second, torch.cat([kept.sequences, more], 1))
    whole = model.model.generate(**third, **OPTIONS, allocation=budgets)
    kept = model.model.generate(**third, **OPTIONS, **{cache_name(): output_cache(kept)})
    assert torch.equal(kept.sequences, whole.sequences)


@families
def test_a_new_question_without_the_cache_is_allocated_anew(name, wrapped):
    model = built(name)
    inputs = model.make(PROMPTS[1:2])
    arr = wrapped(model, 4)
    first = model.model.generate(**inputs, **OPTIONS)
    arr.planner.pattern = (64,)
    model.model.generate(**grown(inputs, first.sequences), **OPTIONS)
    assert arr.last[0].tokens == arr.last[0].full_tokens


def test_what_a_cache_can_not_carry_on(wrapped):
    model = built("reference")
    inputs = model.make(PROMPTS[1:2])
    wrapped(model, 4)
    cache = DynamicCache(config=model.model.config.get_text_config())
    ids = model.model.generate(**inputs, max_new_tokens=2, **{cache_name(): cache})
    assert cache.get_seq_length() < inputs["input_ids"].shape[1]
    other = grown(inputs, ids)
    other["input_ids"] = other["input_ids"].roll(1, 1)
    with pytest.raises(ValueError, match="do not begin with that call's prompt"):
        model.model.generate(**other, max_new_tokens=1, **{cache_name(): cache})
    image = grown(inputs, torch.cat([ids, torch.tensor([[tiny.IMAGE]])], 1))
    with pytest.raises(ValueError, match="The new turn brings an image"):
        model.model.generate(**image, max_new_tokens=1, **{cache_name(): cache})
    assert (
        model.model.generate(**grown(inputs, ids), max_new_tokens=1, **{cache_name(): cache}).shape[1]
        == ids.shape[1] + 1
    )
