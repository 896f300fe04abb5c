"""What the processors of the families would return, one function per layout; and the prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from tests.tiny import END, IMAGE, PAD, START, WORDS, Part

BREAK = 14
SIDE = 8  # visual tokens along the side of a fixed picture: four patches of 4 x 4
FIXED: list[list[Part]] = [[3, (SIDE, SIDE), 4], [5, (SIDE, SIDE), 2, (SIDE, SIDE), 6], [7], [2, (SIDE, SIDE), 3]]
CROPS: list[list[Part]] = [[3, (4, 4), 4], [5, (4, 4), 2, (4, 4), 1, (4, 4), 6], [7], [2, (4, 4), 3]]
FREE: list[list[Part]] = [[3, (8, 8), 4], [5, (4, 4), 2, (7, 5), 6], [7], [2, (3, 10), 3, (4, 4), (4, 2), 2]]

Images = list[tuple[int, int, torch.Generator]]


def _parts(prompts: Sequence[Sequence[Part]], seed: int, numbers: Sequence[int]) -> Iterator[tuple[int, int, Any]]:
    """(sample, place, image size or None) with what a generator needs."""
    for sample, prompt in enumerate(prompts):
        for place, part in enumerate(prompt):
            yield sample, 1000 * seed + 100 * numbers[sample] + place, part


def images(prompts: Sequence[Sequence[Part]], seed: int, numbers: Sequence[int]) -> list[Images]:
    """Per sample (height, width, generator) of its images."""
    found: list[Images] = [[] for _ in prompts]
    for sample, key, part in _parts(prompts, seed, numbers):
        if isinstance(part, tuple):
            found[sample].append((*part, torch.Generator().manual_seed(key)))
    return found


def sequences(
    prompts: Sequence[Sequence[Part]],
    left: bool,
    seed: int,
    numbers: Sequence[int],
    expand: Callable[[int, int], list[int]] = lambda h, w: [START, *[IMAGE] * (h * w), END],
) -> dict[str, torch.Tensor]:
    rows: list[list[int]] = [[] for _ in prompts]
    for sample, key, part in _parts(prompts, seed, numbers):
        if isinstance(part, tuple):
            rows[sample] += expand(*part)
        else:
            words = torch.randint(WORDS.start, WORDS.stop, (part,), generator=torch.Generator().manual_seed(key))
            rows[sample] += words.tolist()
    length = max(map(len, rows))
    ids, mask = torch.full((len(rows), length), PAD), torch.zeros(len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        span = slice(length - len(row), length) if left else slice(0, len(row))
        ids[number, span], mask[number, span] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def noise(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


# ---------------------------------------------------------------- inputs, one function per layout


def square(
    prompts: Any,
    left: bool,
    seed: int,
    numbers: Any,
    *,
    pixels: int,
    ndim: int = 4,
    types: str = "",
    second: int = 0,
) -> Any:
    """Pictures of one size. ``types``: "image" marks images in token_type_ids, "prefix" sets zeros.

    ``second`` is the size of the same pictures for a second tower.
    """
    inputs = sequences(prompts, left, seed, numbers)
    shown = [noise(g, 3, pixels, pixels) for sample in images(prompts, seed, numbers) for _, _, g in sample]
    if shown:
        stacked = torch.stack(shown)
        inputs["pixel_values"] = stacked if ndim == 4 else stacked[None]
        if second:
            inputs["high_res_pixel_values"] = F.interpolate(stacked, (second, second))
    if types:
        ids = inputs["input_ids"]
        inputs["token_type_ids"] = (ids == IMAGE).long() if types == "image" else torch.zeros_like(ids)
    return inputs


def crops(prompts: Any, left: bool, seed: int, numbers: Any, *, pixels: int, whole: bool = False) -> Any:
    """Crops padded with zeros to the same number per sample; the mask is per pixel, or per ``whole`` crop."""
    inputs = sequences(prompts, left, seed, numbers)
    found = images(prompts, seed, numbers)
    most = max(map(len, found))
    if most:
        inputs["pixel_values"] = torch.zeros(len(found), most, 3, pixels, pixels)
        inputs["pixel_attention_mask"] = torch.ones(len(found), most, pixels, pixels, dtype=torch.long)
        for sample, shown in enumerate(found):
            for place, (_, _, g) in enumerate(shown):
                inputs["pixel_values"][sample, place] = noise(g, 3, pixels, pixels)
            inputs["pixel_attention_mask"][sample, len(shown) :] = 0
        if whole:
            mask = inputs["pixel_attention_mask"] = inputs["pixel_attention_mask"][..., 0, 0].bool()
            inputs["pixel_values"][~mask] = 1  # padding may be of any colour
    return inputs


def image_sizes(prompts: Any, left: bool, seed: int, numbers: Any, *, cell: int, breaks: bool = True) -> Any:
    """Pictures of any size, padded; a break between two rows of placeholders."""

    def expand(h: int, w: int) -> list[int]:
        rows = [[IMAGE] * w + ([BREAK] if breaks and row < h - 1 else []) for row in range(h)]
        return [START, *(token for row in rows for token in row), END]

    inputs = sequences(prompts, left, seed, numbers, expand)
    shown = [image for sample in images(prompts, seed, numbers) for image in sample]
    if shown:
        sizes = torch.tensor([[h * cell, w * cell] for h, w, _ in shown])
        inputs["pixel_values"] = torch.zeros(len(shown), 3, *sizes.amax(0).tolist())
        for place, (h, w, g) in enumerate(shown):
            inputs["pixel_values"][place, :, : h * cell, : w * cell] = noise(g, 3, h * cell, w * cell)
        inputs["image_sizes"] = sizes
    return inputs


def any_resolution(
    prompts: Any, left: bool, seed: int, numbers: Any, *, model: Any, pixels: int, cell: int, several: bool = False
) -> Any:
    """Five tiles per image; a part is the size of the original image in cells. Counts come from the model's packer."""
    found = images(prompts, seed, numbers)
    flat = [image for sample in found for image in sample]
    inputs: dict[str, torch.Tensor] = {}
    if flat:
        inputs["pixel_values"] = torch.stack([noise(g, 5, 3, pixels, pixels) for _, _, g in flat])
        inputs["image_sizes"] = torch.tensor([[h * cell, w * cell] for h, w, _ in flat])
        if several:
            inputs["batch_num_images"] = torch.tensor([len(sample) for sample in found])
        with torch.no_grad():
            features = model.base_model.get_image_features(**inputs, return_dict=True).pooler_output
        counts = iter([len(part) for part in features])
    return sequences(prompts, left, seed, numbers, lambda h, w: [START, *[IMAGE] * next(counts), END]) | inputs


def grid_thw(
    prompts: Any,
    left: bool,
    seed: int,
    numbers: Any,
    *,
    shape: tuple[int, ...],
    merge: int,
    types: bool = True,
    merges: bool = False,
) -> Any:
    """ViT patches of the given shape; ``types`` marks images for M-RoPE, ``merges`` states the merge per image."""
    inputs = sequences(prompts, left, seed, numbers)
    if types:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    rows, grid = [], []
    for h, w, g in (image for sample in images(prompts, seed, numbers) for image in sample):
        rows.append(noise(g, h * w * merge**2, *shape))
        grid.append([1, h * merge, w * merge])
    if rows:
        inputs |= {"pixel_values": torch.cat(rows), "image_grid_thw": torch.tensor(grid)}
        if merges:
            inputs["image_merge_sizes"] = torch.full((len(rows),), merge)
    return inputs


def patch_rows(
    prompts: Any,
    left: bool,
    seed: int,
    numbers: Any,
    *,
    patch: int,
    merge: int,
    positions: bool,
    types: bool = False,
) -> Any:
    """Rows of ViT patches, padded to the longest; sizes by position ids, or by shapes and a mask."""
    inputs = sequences(prompts, left, seed, numbers)
    if types:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    shown = [image for sample in images(prompts, seed, numbers) for image in sample]
    if not shown:
        return inputs
    longest = max(h * w for h, w, _ in shown) * merge**2
    inputs["pixel_values"] = torch.zeros(len(shown), longest, 3 * patch**2)
    places = torch.full((len(shown), longest, 2), -1)
    for place, (h, w, g) in enumerate(shown):
        height, width = h * merge, w * merge
        inputs["pixel_values"][place, : height * width] = noise(g, height * width, 3 * patch**2)
        places[place, : height * width, 0] = torch.arange(width).repeat(height)
        places[place, : height * width, 1] = torch.arange(height).repeat_interleave(width)
    if positions:
        return inputs | {"image_position_ids": places}
    return inputs | {
        "spatial_shapes": torch.tensor([[h * merge, w * merge] for h, w, _ in shown]),
        "pixel_attention_mask": (places[..., 0] >= 0).long(),
    }
