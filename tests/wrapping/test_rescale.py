"""rescale before the tower: what the tower is given, and where it thinks it stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import Qwen2VLImageProcessor

from arr_coc.families import Segment, family_for
from arr_coc.realizing import Call, make_realizer
from arr_coc.scene.contract import Plan, Scene
from arr_coc.scene.patches import budget_grid
from tests import tiny, zoo
from tests.wrapping.conftest import SIDE, built
from tests.wrapping.test_exactness import MIXED, PROMPTS, TOLERANCE, families, generated, logits

ONE_PATCH: list[list[tiny.Part]] = [
    [3, (8, 8), 2, (7, 5), 4],
    [2, (8, 8), 1, (8, 8), 1, (4, 8), 6],
    [7],
    [3, (8, 8), 2],
]


def shrunk(model: tiny.Tiny, inputs: dict, budgets: list[int]) -> dict:
    """The same prompt with smaller images, as a processor would have made it; images are put together cell by cell."""
    vision = model.model.config.vision_config
    m, p, t = vision.spatial_merge_size, vision.patch_size, vision.temporal_patch_size
    rows, grid, offset = [], [], 0
    for (_, h, w), budget in zip(inputs["image_grid_thw"].tolist(), budgets, strict=True):
        image = torch.zeros(3, t, h * p, w * p)
        for index in range(h * w):
            block, inner = divmod(index, m * m)
            y = (block // (w // m)) * m + inner // m
            x = (block % (w // m)) * m + inner % m
            cell = inputs["pixel_values"][offset + index].reshape(3, t, p, p)
            image[:, :, y * p : y * p + p, x * p : x * p + p] = cell
        offset += h * w
        height, width = (side * m for side in budget_grid(h // m, w // m, budget))
        if (height, width) != (h, w):
            flat = image.reshape(1, 3 * t, h * p, w * p)
            flat = F.interpolate(flat, (height * p, width * p), mode="bicubic", antialias=True, align_corners=False)
            image = flat.reshape(3, t, height * p, width * p)
        for index in range(height * width):
            block, inner = divmod(index, m * m)
            y = (block // (width // m)) * m + inner // m
            x = (block % (width // m)) * m + inner % m
            rows.append(image[:, :, y * p : y * p + p, x * p : x * p + p].reshape(-1))
        grid.append([1, height, width])
    ids, mask, counts = [], [], iter([h * w // m**2 for _, h, w in grid])
    for row, valid in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        new: list[int] = []
        for token in row[valid.bool()].tolist():
            if token != tiny.IMAGE:
                new.append(token)
            elif new[-1] != tiny.IMAGE:
                new += [tiny.IMAGE] * next(counts)
        ids.append(new)
    length = max(map(len, ids))
    mask = torch.tensor([[0] * (length - len(new)) + [1] * len(new) for new in ids])
    tokens = torch.tensor([[tiny.PAD] * (length - len(new)) + new for new in ids])
    return {
        "input_ids": tokens, "attention_mask": mask, "mm_token_type_ids": (tokens == tiny.IMAGE).int(),
        "pixel_values": torch.stack(rows), "image_grid_thw": torch.tensor(grid),
    }  # fmt: skip


class Script:
    """A planner that reads its plans from a list, one per question."""

    def __init__(self, plans: list[list[int]], needs: frozenset[str]) -> None:
        self.plans, self.needs = iter(plans), needs

    def plan(self, scene: Scene) -> Plan:
        return Plan(next(self.plans))


@families
@pytest.mark.parametrize("reuse", [True, False])
def test_a_one_patch_image_is_simply_a_smaller_image(name, reuse, wrapped):
    """Tower, positions and placeholders are those of the untouched model on the resized images."""
    model = built(name)
    inputs = model.make(ONE_PATCH)
    small = shrunk(model, inputs, [4, 64, 4, 16, 36, 36])
    want, answer = logits(model.model, small), generated(model.model, small)
    arr = wrapped(model, realizer="rescale", needs=("glance",) if reuse else ())
    arr.planner = Script([[4, 64], [4, 16, 36], [36]] * 2, arr.planner.needs)
    got = logits(model.model, inputs)
    assert got.shape == want.shape
    for sample in range(len(ONE_PATCH)):
        valid = small["attention_mask"][sample].bool()
        assert (got[sample, valid] - want[sample, valid]).abs().max() < TOLERANCE
    again = generated(model.model, inputs)
    assert torch.equal(again.sequences[:, -5:], answer.sequences[:, -5:])


@families
def test_untouched_patches_reuse_the_glance_and_only_the_others_are_encoded(name, wrapped):
    model = built(name)
    inputs = model.make(ONE_PATCH)
    sizes = []

    def spy(module, args, kwargs):
        sizes.append(
            kwargs["grid_thw"].prod(-1).sum().item() // model.model.config.vision_config.spatial_merge_size**2
        )

    wrapped(model, 4, 36)
    handle = model.model.base_model.visual.register_forward_pre_hook(spy, with_kwargs=True)
    try:
        logits(model.model, inputs)
        glances, look = sizes[:-1], sizes[-1]
        assert len(glances) == 3 and sum(glances) == 6 * 4 and look == 35 + 36
        sizes.clear()
        wrapped(model, 4)
        logits(model.model, inputs)
        assert sum(sizes) == 6 * 4
        sizes.clear()
        model.model(**inputs)  # with gradients a glance can't be reused: it carries none
        assert sizes[-1] == 6 * 4 and len(sizes) == 4
    finally:
        handle.remove()


@families
def test_patches_of_one_image_share_a_segment_and_stand_where_they_stood(name):
    """All patches at full detail, sent as separate rows of one segment, give the native features."""
    model = built(name)
    inputs = model.make([[1, (16, 13), 1, (9, 20)]])
    family = family_for(model.model)
    call = Call(model.model, family, inputs, SIDE)
    patches = [[p for p in call.patches if p.entry == entry] for entry in (0, 1)]
    segments = [Segment(tuple(g), tuple((p.height, p.width) for p in g), False, e) for e, g in enumerate(patches)]
    with torch.no_grad():
        native = call.full
        joint = family.encode_resized(model.model, inputs, segments)
    order = torch.cat([call.rows(p).reshape(-1) for p in call.patches]).argsort()
    assert len(native.streams) == len(joint.streams) == (3 if name == "qwen3_vl" else 1)
    for a, b in zip(native.streams, joint.streams, strict=True):
        assert (a - b[order]).abs().max() < TOLERANCE
    apart = [Segment((p,), ((p.height, p.width),), True, p.entry) for p in call.patches]
    with torch.no_grad():
        separate = family.encode_resized(model.model, inputs, apart)
    assert (native.streams[0] - separate.streams[0][order]).abs().max() > 0.05


@families
def test_a_resized_patch_covers_its_own_area(name, monkeypatch):
    """The mean coordinate of a patch's cells is its centre at every budget, in ViT patches of the whole image."""
    model = built(name)
    inputs = model.make([[1, (16, 16), 1]])
    family = family_for(model.model)
    call = Call(model.model, family, inputs, SIDE)
    merge = model.model.config.vision_config.spatial_merge_size
    seen = {}
    monkeypatch.setattr(family, "encode", lambda model, inputs, **extra: seen.update(extra))
    grids = [budget_grid(8, 8, b) for b in (4, 16, 36, 64)]
    family.encode_resized(model.model, inputs, [Segment(tuple(call.patches), tuple(grids), False, 0)])
    places = seen["image_position_ids"].split([r * c * merge**2 for r, c in grids])
    for patch, at in zip(call.patches, places, strict=True):
        centre = torch.tensor([(patch.top + patch.bottom) / 2 * merge, (patch.left + patch.right) / 2 * merge]) - 0.5
        assert torch.allclose(at.mean(0), centre, atol=1e-4)
        assert at[:, 0].min() >= patch.top * merge and at[:, 0].max() <= patch.bottom * merge - 1
    assert seen["image_cu_seqlens"].tolist() == [0, sum(r * c for r, c in grids) * merge**2]


@pytest.mark.parametrize("frames", [1, 2])
def test_pixels_are_those_of_the_photograph(frames, wrapped):
    """Against the real image processor: what the scorers see is the image, patch by patch, in [0, 1]."""
    photo = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessor(do_resize=False, patch_size=4, merge_size=2, temporal_patch_size=frames)
    made = processor(images=[Image.fromarray(photo)], return_tensors="pt")
    model = built("qwen2_vl")
    vision = model.model.config.vision_config
    family, before = family_for(model.model), vision.temporal_patch_size
    ids = torch.tensor([[tiny.START, *[tiny.IMAGE] * 240, tiny.END, 30]])
    vision.temporal_patch_size = frames
    try:
        call = Call(model.model, family, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **made}, SIDE)
        pixels = family.pixels(model.model, call.inputs, call.patches, (processor.image_mean, processor.image_std))
    finally:
        vision.temporal_patch_size = before
    whole = torch.from_numpy(photo).permute(2, 0, 1) / 255
    assert len(call.patches) == 6
    for patch, crop in zip(call.patches, pixels, strict=True):
        want = whole[:, patch.top * 8 : patch.bottom * 8, patch.left * 8 : patch.right * 8]
        assert crop.dtype == torch.float32 and (crop - want).abs().max() < 1e-5


def test_pixels_whose_frames_come_before_their_channels():
    muse = pytest.importorskip("transformers.models.muse_glimmer.image_processing_muse_glimmer")
    photo = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    processor = muse.MuseGlimmerImageProcessor(do_resize=False, patch_size=4, merge_size=2)
    made = processor(images=[Image.fromarray(photo)], return_tensors="pt")
    model = zoo.build("muse_glimmer").model
    ids = torch.tensor([[tiny.START, *[tiny.IMAGE] * 96, tiny.END, 30]])
    family = family_for(model)
    call = Call(model, family, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **made}, SIDE)
    pixels = family.pixels(model, call.inputs, call.patches, (processor.image_mean, processor.image_std))
    whole = torch.from_numpy(photo).permute(2, 0, 1) / 255
    for patch, crop in zip(call.patches, pixels, strict=True):
        want = whole[:, patch.top * 8 : patch.bottom * 8, patch.left * 8 : patch.right * 8]
        assert (crop - want).abs().max() < 1e-5


def test_rescaling_is_not_pooling(wrapped):
    model = built("reference")
    inputs = model.make(PROMPTS)
    results = []
    for realizer in ("rescale", "rescale-separate", "pool", "select"):
        wrapped(model, *MIXED, realizer=realizer)
        results.append(logits(model.model, inputs)[0, -1])
    for i, first in enumerate(results):
        for second in results[i + 1 :]:
            assert (first - second).abs().max() > 1e-3


def test_unknown_realizer_names_the_near_match():
    with pytest.raises(ValueError, match=r"realizer='rescal' is unknown\. Did you mean 'rescale'\?"):
        make_realizer("rescal")
