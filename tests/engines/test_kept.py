"""What a glance has brought is not encoded again: pieces of a picture are items of their own, found by their keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from arr_coc import reference
from arr_coc.engines.vllm.kept import Kept
from arr_coc.engines.vllm.names import ENTRIES, NAMED
from arr_coc.families import family_for
from arr_coc.realizing import Call, make_realizer

from .conftest import needs_vllm

FLOOR, RAISED, FULL = (8, 8), (16, 16), (20, 20)


def test_features_are_kept_up_to_a_bound_and_the_longest_unused_go() -> None:
    kept = Kept(3 * 40)
    for number in range(3):
        kept.put([number, 7, 1], torch.full((5, 2), float(number)))
    assert kept.of([0, 7, 0]) is not None  # used: now the youngest
    kept.put([9, 7, 1], torch.ones(5, 2))
    assert kept.of([1, 7, 1]) is None and kept.of([0, 7, 1]) is not None and kept.size == 3 * 40
    kept.put([9, 7, 1], torch.ones(50, 2))  # known: nothing happens
    kept.put([10, 7, 1], torch.ones(50, 2))  # larger than all room
    assert kept.size == 3 * 40 and kept.of([10, 7, 1]) is None and kept.of([9, 8, 1]) is None
    kept.clear()
    assert kept.size == 0 and kept.of([0, 7, 1]) is None


def test_nothing_is_kept_where_the_bound_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARR_COC_KEPT_MB", "0")
    kept = Kept.by_environment()
    kept.put([1, 2, 1], torch.ones(1, 1))
    assert kept.of([1, 2, 1]) is None


@pytest.fixture(scope="module")
def given() -> tuple[Call, dict[str, Any]]:
    """A question of the reference model as the engine renders it: a picture of two by two patches."""
    pytest.importorskip("vllm")
    from vllm.multimodal.inputs import (
        MultiModalBatchedField,
        MultiModalFieldElem,
        MultiModalFlatField,
        MultiModalKwargsItem,
        MultiModalKwargsItems,
        PlaceholderRange,
    )

    model, processor = reference.load()
    (sample,) = reference.generate(1, seed=5, grid=(2, 2))
    inputs = dict(processor(images=sample["image"], text=sample["question"]))
    flat, one = MultiModalFlatField(slices=[slice(0, None)]), MultiModalBatchedField()
    item = MultiModalKwargsItem(
        {
            "pixel_values": MultiModalFieldElem(data=inputs["pixel_values"], field=flat),
            "image_grid_thw": MultiModalFieldElem(data=inputs["image_grid_thw"], field=flat),
            ENTRIES: MultiModalFieldElem(data=torch.tensor(4), field=one),
        }
    )
    ids = inputs["input_ids"][0].tolist()
    places = [i for i, token in enumerate(ids) if token == processor.image_token_id]
    place = PlaceholderRange(offset=places[0] - 3, length=places[-1] - places[0] + 5)
    rendered = {
        "type": "multimodal", "prompt_token_ids": ids, "mm_kwargs": MultiModalKwargsItems({"image": [item]}),
        "mm_hashes": {"image": ["picture"]}, "mm_placeholders": {"image": [place]},
    }  # fmt: skip
    return Call(model, family_for(model), inputs, 20), rendered


@needs_vllm
def test_a_patch_that_stays_as_it_was_keeps_its_key(given: Any) -> None:
    from arr_coc.engines.vllm.inputs import reduced

    call, rendered = given
    glance = reduced(rendered, call, [FLOOR] * 4, True)
    answer = reduced(rendered, call, [FLOOR, RAISED, FLOOR, FULL])
    keys, others = glance["mm_hashes"]["image"], answer["mm_hashes"]["image"]
    assert len(set(keys)) == len(set(others)) == 4
    assert [a == b for a, b in zip(keys, others, strict=True)] == [True, False, True, False]
    token = call.family.image_token(call.model)
    for made, lengths in ((glance, [64] * 4), (answer, [64, 256, 64, 400])):
        ids, ranges = made["prompt_token_ids"], made["mm_placeholders"]["image"]
        assert [place.length for place in ranges] == lengths and ids.count(token) == sum(lengths)
        for place in ranges:
            assert set(ids[place.offset : place.offset + place.length]) == {token} and place.is_embed is None
            assert ids[place.offset - 1] != token != ids[place.offset + place.length]
    data = answer["mm_kwargs"].get_data()
    assert torch.equal(data["pixel_values"], call.inputs["pixel_values"])  # nothing is lost on the way
    assert data[NAMED][:, 2].tolist() == [0] * 4 and data[ENTRIES].tolist() == [1] * 4
    assert glance["mm_kwargs"].get_data()[NAMED][:, 2].tolist() == [1] * 4
    # Another picture of the same shape has other keys.
    other = reduced({**rendered, "mm_hashes": {"image": ["another"]}}, call, [FLOOR] * 4)
    assert not set(other["mm_hashes"]["image"]) & set(keys)


@needs_vllm
def test_only_raised_patches_are_encoded_for_an_answer(given: Any) -> None:
    from arr_coc.engines.vllm.inputs import reduced
    from arr_coc.engines.vllm.model import Budgets

    call, rendered = given
    made: Any = Budgets.__new__(Budgets)
    made.model, made.config, made.levels, made.kept = call.model, call.model.config, None, Kept(2**24)
    made.budget_family, made.budget_side = call.family, 20
    made.budget_realizer = make_realizer("auto", call.family)
    seen: list[int] = []
    hook = call.model.model.visual.register_forward_pre_hook(lambda module, args, kwargs: seen.append(
        len(args[0] if args else kwargs["hidden_states"])), with_kwargs=True)  # fmt: skip

    def encode(grids: list[tuple[int, int]], glance: bool = False) -> list[torch.Tensor]:
        with torch.no_grad():
            found: list[torch.Tensor] = made.embed_multimodal(
                **reduced(rendered, call, grids, glance)["mm_kwargs"].get_data()
            )
        return found

    mixed = [FLOOR, RAISED, FLOOR, FULL]
    before = encode(mixed)
    assert seen == [64 + 256 + 64 + 400] and not made.kept.features  # answers are not kept
    floor = encode([FLOOR] * 4, glance=True)
    after = encode(mixed)
    hook.remove()
    assert seen[1:] == [4 * 64, 256 + 400]
    assert [len(part) for part in after] == [64, 256, 64, 400]
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert torch.equal(after[0], floor[0]) and torch.equal(after[2], floor[2])
    made.kept.clear()
    assert torch.allclose(encode(mixed)[0], before[0], atol=1e-5)
