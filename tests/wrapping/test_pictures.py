"""The cache of pictures: the second question about a picture reads only its words, and is answered the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from arr_coc.config import ArrCocConfig
from arr_coc.families.compat import cache_name
from arr_coc.realizing import Realised
from arr_coc.wrapping.pictures import LOOKS, Picture
from arr_coc.wrapping.prefill import Reading
from tests import tiny

from .conftest import BUDGETS, Deep, built
from .test_exactness import TOLERANCE, families, generated
from .test_prefill import Ran, close

FLOOR, ROOM = BUDGETS[0], 10**8
RAISED = (FLOOR, FLOOR, FLOOR, 64)
PICTURES: list[Any] = [3, (16, 16), (13, 9)]


def about(model: Any, words: int) -> dict[str, torch.Tensor]:
    """A question of so many words about the same pictures."""
    inputs = tiny.one(model.make([[*PICTURES, 12]]), 0)
    keep = inputs["input_ids"].shape[1] - 12 + words
    ids = {k: v[:, :keep] if v.shape == inputs["input_ids"].shape else v for k, v in inputs.items()}
    ids["input_ids"] = ids["input_ids"].clone()
    ids["input_ids"][:, -1] = 20 + words
    return ids


@families
@pytest.mark.parametrize("realizer", ["rescale", "rescale-separate", "pool"])
def test_a_second_question_reads_only_its_words(name, realizer, wrapped):
    model = built(name)
    arr = wrapped(model, FLOOR, realizer=realizer, picture_cache=ROOM)
    answers: list[Any] = []
    for room in (ROOM, 0):
        arr.builder.pictures.limit = room
        arr.builder.pictures.clear()
        for words, pattern in (
            (5, (FLOOR,)), (9, (FLOOR,)), (7, RAISED), (9, (FLOOR,)), (6, (FLOOR, 64)), (8, RAISED), (7, RAISED),
            (9, (64,)), (9, (FLOOR,)),
        ):  # fmt: skip
            arr.planner, ran = Deep(pattern), Ran(model.model)
            try:
                answers.append(generated(model.model, about(model, words), steps=2))
            finally:
                ran.handle.remove()
            scene = arr.planner.scenes[0]
            answers.append((scene.read_attention([0, 2]), scene.glance_answer()))
            if room and len(answers) > 2:
                assert ran.lengths[0] <= words  # the pass over the glance
                assert pattern is not RAISED or words == 7 or ran.lengths[1] <= words  # raised alike before
    half = len(answers) // 2
    for kept, fresh in zip(answers[:half], answers[half:], strict=True):
        if isinstance(kept, tuple):
            assert all((a - b).abs().max() < TOLERANCE for a, b in zip(kept, fresh, strict=True))
        else:
            close(kept, fresh)


def test_the_tower_does_not_run_again(wrapped):
    model = built("reference")
    arr = wrapped(model, FLOOR, picture_cache=ROOM)
    ran: list[int] = []
    handle = model.model.base_model.visual.register_forward_hook(lambda *_: ran.append(1))
    try:
        for words in (5, 6):
            arr.planner = Deep((FLOOR,))
            generated(model.model, about(model, words), steps=1)
    finally:
        handle.remove()
    assert len(ran) == 1


@pytest.mark.parametrize(("realizer", "runs"), [("rescale", [1, 1, 0, 1, 0]), ("rescale-separate", [1, 1, 0, 1, 0])])
def test_what_was_raised_before_is_not_encoded_again(realizer, runs, wrapped):
    model = built("reference")
    arr = wrapped(model, FLOOR, realizer=realizer, picture_cache=ROOM)
    ran: list[int] = []
    handle = model.model.base_model.visual.register_forward_hook(lambda *_: ran.append(1))
    found = []
    try:
        for words, pattern in ((5, (FLOOR,)), (6, RAISED), (7, RAISED), (8, (64, FLOOR)), (9, RAISED)):
            arr.planner = Deep(pattern)
            generated(model.model, about(model, words), steps=1)
            found.append(len(ran))
            ran.clear()
    finally:
        handle.remove()
    assert found == runs


def test_a_batch_finds_each_of_its_pictures(wrapped):
    """Two pictures of one size: the second is known, raised and at its floor, the first is not; then both are."""
    model = built("reference")
    arr = wrapped(model, FLOOR, picture_cache=ROOM)
    samples = [[3, (16, 16), 6], [2, (16, 16), 9]]
    alone, both = tiny.one(model.make(samples), 1), model.make(samples)
    patterns = (FLOOR, 64, FLOOR, FLOOR), RAISED
    ran: list[int] = []
    handle = model.model.base_model.visual.register_forward_hook(lambda *_: ran.append(1))
    answers = []
    try:
        for room in (ROOM, 0):
            arr.builder.pictures.limit = room
            arr.builder.pictures.clear()
            arr.planner = Deep(RAISED)
            generated(model.model, alone, steps=1)
            for some in (patterns, ((FLOOR,), RAISED), patterns, patterns[::-1], patterns[::-1]):
                arr.planner = Deep(*some)
                ran.clear()
                answers.append((generated(model.model, both, steps=2), len(ran)))
    finally:
        handle.remove()
    for (kept, _), (fresh, _) in zip(answers[:5], answers[5:], strict=True):
        close(kept, fresh)
    assert [runs for _, runs in answers[:5]] == [2, 0, 0, 1, 0]


def test_only_a_cache_that_can_be_cropped_is_gone_on_from():
    """One that generation has gone on with holds more than the prompt."""
    for tokens, kept in ((3, True), (4, False)):
        cache = DynamicCache()
        cache.update(torch.zeros(1, 1, tokens, 2), torch.zeros(1, 1, tokens, 2), 0)
        reading = Reading({"input_ids": torch.zeros(1, 3)}, (), SimpleNamespace(**{cache_name(): cache}))
        picture = Picture(Realised(torch.zeros(1), (), None))
        picture.add([(1, 1)], {}, reading)
        assert (picture.nearest([(1, 1)]) is reading) is kept


def test_looks_at_a_picture_are_bounded_and_give_way_to_the_latest(wrapped):
    model = built("reference")
    arr = wrapped(model, FLOOR, picture_cache=ROOM)
    patterns = [tuple(64 if i == j else FLOOR for j in range(4)) for i in range(4)]
    patterns += [tuple(36 if i == j else FLOOR for j in range(4)) for i in range(4)] + [(FLOOR,), (64,)]
    sizes = []
    for words, pattern in enumerate(patterns, 4):
        arr.planner = Deep(pattern)
        generated(model.model, about(model, words), steps=1)
        (picture,) = (picture for _, picture in arr.builder.pictures._known.values())
        assert len(picture.looks) <= LOOKS and arr.builder.pictures.size == picture.size
        assert tuple(arr.builder.realizer.grid(arr.family, p, FLOOR) for p in arr.last[0].patches) in picture.looks
        sizes.append(picture.size)
    assert sizes[0] < sizes[1] < sizes[2]
    for limit in (sizes[3], sizes[0], sizes[0] // 8):  # several looks, fewer, and no room for one
        arr.builder.pictures.limit = limit
        arr.planner = Deep(RAISED)
        generated(model.model, about(model, 7), steps=1)
        assert arr.builder.pictures.size <= limit
        assert len(arr.builder.pictures) == (limit >= sizes[0])


def test_what_was_worked_out_from_the_pixels_is_kept_and_counted(wrapped):
    model = built("reference")
    arr = wrapped(model, FLOOR, picture_cache=ROOM)
    found, sizes = [], []
    for words in (5, 6):
        arr.planner = Deep((FLOOR,))
        plan = arr.planner.plan

        def noted(scene, plan=plan):
            found.append(dict(scene.kept))
            scene.kept["mine"] = torch.zeros(7), (torch.zeros(2, 3),)
            return plan(scene)

        arr.planner.plan = noted
        generated(model.model, about(model, words), steps=1)
        sizes.append(arr.builder.pictures.size)
    assert found[0] == {} and set(found[1]) == {"mine"}
    arr.builder.pictures.clear()
    arr.planner = Deep((FLOOR,))
    generated(model.model, about(model, 6), steps=1)
    assert sizes[1] == arr.builder.pictures.size + (7 + 6) * 4


def test_other_pixels_are_another_picture(wrapped):
    model = built("reference")
    arr = wrapped(model, FLOOR, picture_cache=ROOM)
    inputs = about(model, 5)
    other = inputs | {"pixel_values": inputs["pixel_values"].clone()}
    other["pixel_values"][7, 3] += 1e-3
    for each in (inputs, other, inputs):
        arr.planner = Deep((FLOOR,))
        generated(model.model, each, steps=1)
    assert len(arr.builder.pictures) == 2


def test_the_bound_holds_to_the_byte(wrapped):
    model = built("reference")
    arr = wrapped(model, FLOOR, picture_cache=ROOM)
    sizes = []
    for seed in range(4):
        arr.planner = Deep((FLOOR,))
        generated(model.model, tiny.one(model.make([[3, (16, 16), 4]], seed=seed), 0), steps=1)
        sizes.append(arr.builder.pictures.size)
    assert sizes == [sizes[0] * n for n in (1, 2, 3, 4)]
    tokens, width, layers = 16 + 9, 64, 3
    cache = 2 * layers * 2 * 16 * tokens * 4
    assert sizes[0] > cache + 16 * width * 4
    for limit, left in ((3 * sizes[0], 3), (3 * sizes[0] - 1, 2), (sizes[0] - 1, 0)):
        arr.builder.pictures.limit = limit
        arr.planner = Deep((FLOOR,))
        generated(model.model, tiny.one(model.make([[3, (16, 16), 4]], seed=9 + left), 0), steps=1)
        assert len(arr.builder.pictures) == left and arr.builder.pictures.size <= limit


def test_nothing_is_kept_by_default_or_in_training(wrapped):
    model = tiny.build("reference")
    for room in (0, ROOM):
        arr = wrapped(model, FLOOR, picture_cache=room)
        model.model.train(bool(room))
        arr.planner = Deep((FLOOR,))
        generated(model.model, about(model, 5), steps=1)
        assert len(arr.builder.pictures) == 0
    with pytest.raises(ValueError, match=r"picture_cache=-1 must be a number of bytes"):
        ArrCocConfig(picture_cache=-1)
