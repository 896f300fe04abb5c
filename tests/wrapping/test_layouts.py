"""What is particular to a layout: pictures resized before their tower, breaks, newlines, and what doesn't add up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import arr_coc
from arr_coc.config import ArrCocConfig
from arr_coc.drawing import draw_views, spread_views
from arr_coc.families import family_for, known_families, register_family
from arr_coc.families.square import SquareGrid
from tests import tiny, zoo
from tests.wrapping.conftest import Pattern
from tests.wrapping.matrix import BUDGETS, TOLERANCE, Cell, difference

_CELLS: dict[str, Cell] = {}


def cell_of(name: str) -> Cell:
    if name not in _CELLS:
        _CELLS[name] = Cell(zoo.build(name))
    return _CELLS[name]


def smaller(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(picture[None], (height, width), mode="bicubic", antialias=True, align_corners=False)[0]


@pytest.mark.parametrize(("name", "pixels"), [("mistral3", 4), ("llava (Pixtral)", 2), ("lighton_ocr", 4)])
def test_a_one_patch_image_of_any_size_is_simply_a_smaller_image(name, pixels):
    """Tower, sequence and row breaks are those of the untouched model on the resized image, given to it natively."""
    cell = cell_of(name)
    inputs = cell.tiny.make([[3, (4, 4), 5]])
    small = cell.tiny.make([[3, (2, 2), 5]])
    small["pixel_values"] = smaller(inputs["pixel_values"][0], 2 * pixels, 2 * pixels)[None]
    want, answer = cell.logits(small), cell.generate(small)
    with cell.wrapped(BUDGETS[1], realizer="rescale") as arr:
        got = cell.logits(inputs)
        assert arr.last[0].tokens == 4
        assert torch.equal(inputs["input_ids"][0, arr.kept[0]], small["input_ids"][0])
        assert difference(got, want) < TOLERANCE
        again = cell.generate(inputs)
    assert torch.equal(again.sequences[:, -3:], answer.sequences[:, -3:])


@pytest.mark.parametrize(("name", "pixels"), [("lfm2_vl", 4), ("gemma4", 4), ("gemma4_unified", 4)])
def test_a_one_patch_image_in_rows_is_simply_a_smaller_image(name, pixels):
    """The same, where pictures come as rows of ViT patches, made by the image processors' own function."""
    from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

    cell = cell_of(name)
    generator = torch.Generator().manual_seed(1)
    picture = torch.rand(3, 4 * pixels, 4 * pixels, generator=generator)
    large, small = cell.tiny.make([[3, (4, 4), 5]]), cell.tiny.make([[3, (2, 2), 5]])
    for inputs, shown in ((large, picture), (small, smaller(picture, 2 * pixels, 2 * pixels))):
        side = round((inputs["pixel_values"].shape[-1] // 3) ** 0.5)
        inputs["pixel_values"] = convert_image_to_patches(shown, side)[None]
    want = cell.logits(small)
    with cell.wrapped(BUDGETS[1], realizer="rescale", needs=("glance", "pixels")) as arr:
        assert difference(cell.logits(large), want) < TOLERANCE
        assert arr.last[0].tokens == 4
    (shown,) = cell.family.pixels(cell.model, large, arr.last[0].patches, (0.0, 1.0))
    assert torch.equal(shown, picture)


@pytest.mark.parametrize("name", ["llava (CLIP)", "llava (SigLIP)", "paligemma", "deepseek_vl", "vipllava", "janus"])
def test_each_patch_of_a_picture_is_an_image_of_its_own(name):
    """Its features are the tower's on its own crop, resized, with interpolated positions."""
    cell = cell_of(name)
    inputs = cell.make(0)
    with cell.wrapped(BUDGETS[1], BUDGETS[-1], realizer="rescale") as arr:
        rows = cell.seen(inputs)["mm_encoder_outputs"]["image"].pooler_output
        patches = arr.last[0].patches
    rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in rows])
    unit = inputs["pixel_values"].shape[-1] // zoo.SIDE
    wanted = torch.empty_like(rows)
    places = sorted(
        (patch.top + (2 * r + 1) * 4 // (2 * side), patch.left + (2 * c + 1) * 4 // (2 * side), index, r * side + c)
        for index, patch in enumerate(patches)
        for side in [(2, 4)[index % 2]]
        for r in range(side)
        for c in range(side)
    )
    for index, patch in enumerate(patches):
        side = (2, 4)[index % 2]
        down, across = (slice(a * unit, (a + 4) * unit) for a in (patch.top, patch.left))
        shown = smaller(inputs["pixel_values"][0, :, down, across], side * unit, side * unit)[None]
        with torch.no_grad():
            out = cell.model.base_model.get_image_features(
                pixel_values=shown, interpolate_pos_encoding=True, return_dict=True
            )
        features = torch.cat([part.reshape(-1, rows.shape[-1]) for part in out.pooler_output])
        for row, (_, _, owner, number) in enumerate(places):
            if owner == index:
                wanted[row] = features[number]
    assert difference(rows, wanted) < TOLERANCE


@pytest.mark.parametrize("name", ["internvl", "qianfan_ocr", "aya_vision", "cohere2_vision", "smolvlm", "idefics3"])
def test_a_picture_that_is_one_patch_becomes_a_smaller_square(name):
    """Budgets buy squares, and the features are the tower's on the smaller picture."""
    cell = cell_of(name)
    inputs = cell.make(1)
    side = 4 if name in ("smolvlm", "idefics3") else zoo.SIDE
    budgets = (side * side // 4, side * side // 2, side * side)
    allocation = [[budgets[1], *[budgets[0]] * (len(inputs["pixel_values"].flatten(0, -4)) - 1)]]
    with cell.wrapped(realizer="rescale", budgets=budgets, patch_side=side) as arr:
        caught = {}
        handle = cell.model.base_model.register_forward_pre_hook(
            lambda module, args, kwargs: caught.update(kwargs), with_kwargs=True
        )
        with torch.no_grad():
            cell.model(**inputs, allocation=allocation)
        handle.remove()
        root = {4: 2, 8: 5}[side]  # the largest square within half the tokens
        assert arr.last[0].realised[0] == root**2 and set(arr.last[0].realised[1:]) == {budgets[0]}
    picture = inputs["pixel_values"].flatten(0, -4)[0]
    unit = picture.shape[-1] // side
    shrunk = smaller(picture, root * unit, root * unit)
    options = {"interpolate_pos_encoding": True} if name in ("aya_vision", "cohere2_vision") else {}
    nested = shrunk[None, None] if inputs["pixel_values"].ndim == 5 else shrunk[None]
    with torch.no_grad():
        out = cell.model.base_model.get_image_features(pixel_values=nested, return_dict=True, **options)
    want = out.pooler_output[0]
    got = torch.cat([part.reshape(-1, want.shape[-1]) for part in caught["mm_encoder_outputs"]["image"].pooler_output])
    assert difference(got[: root**2], want) < TOLERANCE


def test_towers_that_take_no_other_size_say_so():
    gemma = cell_of("gemma3")
    with pytest.raises(ValueError, match="realizer='rescale' can't be used .* Use realizer='pool' or 'select'"):
        arr_coc.wrap(gemma.model, None, ArrCocConfig(realizer="rescale"), Pattern(2))
    with gemma.wrapped(realizer="auto") as arr:
        assert arr.realizer.name == "pool"
    with cell_of("mistral3").wrapped(realizer="auto") as arr:
        assert arr.realizer.name == "rescale"
    internvl = cell_of("internvl")
    with (
        internvl.wrapped(2, realizer="rescale", patch_side=7, budgets=(2, 49)),
        pytest.raises(ValueError, match="A patch of 7 x 4 visual tokens can't be resized: this tower takes squares"),
    ):
        inputs = internvl.tiny.make([[2, (8, 8), 3]])
        inputs["pixel_values"] = torch.zeros(1, 3, 28, 32)
        inputs["input_ids"] = torch.tensor([[30, 31, *[tiny.IMAGE] * 56, 32]])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        internvl.logits(inputs)


def test_row_breaks_stand_between_the_rows_that_stay():
    cell = cell_of("mistral3")
    inputs = cell.tiny.make([[2, (8, 8), 3]])
    with cell.wrapped(*[2] * 4, realizer="select") as arr:
        cell.logits(inputs)
        ids = inputs["input_ids"][0, arr.kept[0]].tolist()
    rows = {patch.top + 2 for patch in arr.last[0].patches}  # two tokens of a patch lie in its middle row
    assert ids.count(zoo.BREAK) == len(rows) - 1
    inside = ids[ids.index(tiny.START) + 1 : ids.index(tiny.END)]
    assert inside == [tiny.IMAGE] * 4 + [zoo.BREAK] + [tiny.IMAGE] * 4
    with cell.wrapped(16, realizer="select") as arr:
        cell.logits(inputs)
        assert len(arr.kept[0]) == inputs["input_ids"].shape[1]


def test_newlines_stay_with_the_rows_that_stay():
    cell = cell_of("llava_next")
    inputs = cell.tiny.make([[2, (8, 8), 3]])
    with cell.wrapped(2, realizer="select") as arr:
        cell.logits(inputs)
        (record,) = arr.last
    tiles = [patch for patch in record.patches if patch.view == 1]
    assert record.newlines == len({patch.top for patch in tiles})  # one middle row per row of patches
    with cell.wrapped(16, realizer="select") as arr:
        cell.logits(inputs)
        assert arr.last[0].newlines == max(patch.bottom for patch in tiles)


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("llava (CLIP)", {"pixel_values": torch.zeros(2, 3)}, r"must be a tensor \[pictures, 3, H, W\]"),
        ("llava (CLIP)", {"pixel_values": torch.zeros(1, 3, 14, 16)}, "placeholders, the images fill 56"),
        ("mistral3", {"image_sizes": None}, "image_sizes is missing"),
        ("mistral3", {"image_sizes": torch.tensor([[32, 32], [16, 16]])}, "names 2 images, pixel_values holds 1"),
        ("mistral3", {"image_sizes": torch.tensor([[64, 32]])}, "leaves pixel_values of shape"),
        ("llava_next", {"image_sizes": None}, "image_sizes is missing"),
        ("llava_next", {"pixel_values": torch.zeros(1, 3, 12, 12)}, r"must be \[images, tiles, 3, H, W\]"),
        ("smolvlm", {"pixel_values": torch.zeros(3, 16, 16)}, r"must be \[batch, crops, 3, H, W\]"),
        ("video_llama_3", {"image_merge_sizes": None}, "image_merge_sizes is missing"),
        ("lfm2_vl", {"spatial_shapes": None}, "spatial_shapes is missing"),
        ("lfm2_vl", {"spatial_shapes": torch.tensor([[16, 16]] * 2)}, "names 2 pictures, pixel_values holds 1"),
        ("lfm2_vl", {"spatial_shapes": torch.tensor([[17, 16]])}, "A picture of 17 x 16 ViT patches does not fit"),
        ("lfm2_vl", {"spatial_shapes": torch.tensor([[15, 16]])}, "not made of whole visual tokens of 2 x 2"),
        ("gemma4", {"image_position_ids": None}, "image_position_ids is missing"),
        ("gemma4", {"image_position_ids": torch.zeros(1, 255, 2, dtype=torch.long)}, "the same pictures and ViT"),
        ("gemma4", {"image_position_ids": torch.zeros(1, 256, 2, dtype=torch.long)}, "are not in raster order"),
        ("gemma4", {"pixel_values": torch.zeros(1, 3, 16, 16)}, r"must be \[pictures, ViT patches, 3 P P\]"),
    ],
)
def test_a_layout_that_does_not_add_up_is_refused_before_the_tower_runs(name, change, match, monkeypatch):
    cell = cell_of(name)
    inputs = {k: v for k, v in (cell.make(0) | change).items() if v is not None}
    monkeypatch.setattr(cell.family, "encode", lambda *args, **extra: pytest.fail("the tower ran"))
    with cell.wrapped():
        for call in (cell.model, cell.model.generate):
            with pytest.raises(ValueError, match=match):
                call(**inputs)


def test_a_tower_that_returns_something_else_is_refused(monkeypatch):
    cell = cell_of("llava (CLIP)")
    monkeypatch.setattr(cell.family, "cell", lambda model: 4)
    inputs = cell.make(0)
    first = (inputs["input_ids"] == tiny.IMAGE).nonzero()[16:, 1]
    inputs["input_ids"][0, first] = 30  # as many placeholders as that wrong layout expects
    with cell.wrapped(), pytest.raises(ValueError, match="The tower returned 64 visual tokens where the layout"):
        cell.logits(inputs)


def test_a_third_party_teaches_its_own_family(monkeypatch):
    cell = cell_of("llava (CLIP)")  # a cell looks its own family up, so before all are forgotten
    monkeypatch.setattr("arr_coc.families._FAMILIES", {})
    with pytest.raises(ValueError, match="unsupported family 'llava'"):
        family_for(cell.model)
    mine = SquareGrid(lambda model: model.config.vision_config.patch_size)
    register_family("llava+clip_vision_model", mine)
    assert family_for(cell.model) is mine and known_families() == ("llava+clip_vision_model",)


def test_an_overlay_shows_every_view_as_it_came():
    cell = cell_of("llava_next")
    inputs = cell.tiny.make([[2, (8, 8), 3]])
    with cell.wrapped() as arr:
        cell.logits(inputs)
        (record,) = arr.last
    pixels = cell.family.pixels(cell.model, inputs, record.patches, (0.5, 0.1))
    sheet, boxes = spread_views(pixels, record.patches)
    for patch, part, (left, top, right, bottom) in zip(record.patches, pixels, boxes, strict=True):
        shown = torch.from_numpy(np.array(sheet))[top:bottom, left:right].permute(2, 0, 1) / 255
        assert (shown - part).abs().max() <= 0.5 / 255 + 1e-6, patch
    page = draw_views(pixels, record, "yes", BUDGETS)
    first = {name: getattr(record, name)[:4] for name in ("patches", "budgets", "realised")}
    single = draw_views(pixels[:4], replace(record, **first), "yes", BUDGETS)
    assert {patch.view for patch in record.patches[:4]} == {0} and page.width == single.width
    assert page.height > page.width * sheet.height / sheet.width and single.height < page.height
    with pytest.raises(ValueError, match="0 pictures for"):
        spread_views([], record.patches)


@pytest.mark.parametrize(("name", "shape", "tokens"), [
    ("llava_onevision", (1, 2, 3, 12, 12), 19), ("perception_lm", (1, 2, 3, 32, 32), 128),
])  # fmt: skip
def test_videos_beside_images_pass_through_untouched(name, shape, tokens):
    cell = cell_of(name)
    inputs = cell.tiny.make([[4, (8, 8), 3]])
    ids = torch.cat([inputs["input_ids"], torch.tensor([[*[tiny.VIDEO] * tokens, 30, 31]])], 1)
    video = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": video}
    before = cell.logits(inputs)
    with cell.wrapped(16):
        assert torch.equal(cell.logits(inputs), before)
    with cell.wrapped() as arr:
        short = cell.logits(inputs)
        assert before.shape[1] - short.shape[1] >= arr.last[0].full_tokens - arr.last[0].tokens
    kept = ids[0, arr.kept[0]]
    assert int((kept == tiny.VIDEO).sum()) == tokens


def test_a_video_alone_may_use_the_image_token():
    cell = cell_of("glm4v")
    ids = torch.tensor([[20, 21, 15, tiny.START, *[tiny.IMAGE] * 16, tiny.END, 16, 30, 31]])
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": 2 * (ids == tiny.IMAGE).int(),
        "pixel_values_videos": torch.randn(64, 96, generator=torch.Generator().manual_seed(0)),
        "video_grid_thw": torch.tensor([[1, 8, 8]]),
    }  # fmt: skip
    before = cell.logits(inputs)
    with cell.wrapped():
        assert torch.equal(cell.logits(inputs), before)
        assert torch.equal(cell.model.generate(**inputs, max_new_tokens=2, do_sample=False)[:, :-2], ids)
