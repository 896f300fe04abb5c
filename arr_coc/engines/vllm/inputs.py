"""A rendered input of the engine as a question of ours, and the same input at other budgets."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch

from ...families import Family
from ...realizing.call import Call, Grid
from ..prompt import kept_rows, kept_tokens
from .names import ENTRIES, GRIDS, NAMED

_NOT_INPUTS = ("num_image_patches", ENTRIES)


def question_of(given: Mapping[str, Any], model: Any, family: Family, side: int) -> Call | None:
    """The call that a rendered input stands for; None if it holds no image, or videos, audio or features beside them.

    Parameters
    ----------
    given
        What the engine's renderer returned, at full detail.
    model
        A model of the same configuration; its weights are not looked at.
    family, side
        Its family and the side of a patch.
    """
    items = given["mm_kwargs"].get("image") if given.get("type") == "multimodal" else None
    if not items or set(given["mm_kwargs"]) != {"image"} or any("pixel_values" not in (item or ()) for item in items):
        return None
    data = {name: value for name, value in given["mm_kwargs"].get_data().items() if name not in _NOT_INPUTS}
    ids = torch.tensor(given["prompt_token_ids"])[None]
    inputs = {**data, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["mm_token_type_ids"] = (ids == family.image_token(model)).int()
    return Call(model, family, inputs, side)


def reduced(given: Mapping[str, Any], call: Call, grids: Sequence[Grid], glance: bool = False) -> dict[str, Any]:
    """A rendered input with every patch at its grid.

    The keys of its images, by which the engine caches features and prefixes, then hold the grids. A picture of several
    entries becomes one item of the engine for each, so that an entry that stays as it was at the glance is found in
    these caches whatever happens to the others.

    Parameters
    ----------
    given
        The input at full detail.
    call
        Its question.
    grids
        Per patch (rows, columns).
    glance
        Whether the features are worth keeping for an answer to come.

    Returns
    -------
    dict
        A new input; at full detail, a copy of the given one.
    """
    from vllm.multimodal.inputs import MultiModalKwargsItem, MultiModalKwargsItems, PlaceholderRange

    if all(call.native(index, grid) for index, grid in enumerate(grids)):
        return dict(given)
    keep = kept_rows(call, grids)
    stays = kept_tokens(call, keep)
    before = torch.cat([torch.zeros(1, dtype=torch.long), stays.long().cumsum(0)])  # kept tokens in front of each
    ids = torch.tensor(given["prompt_token_ids"])
    image = call.placeholders[0].cpu()
    places, items, hashes = [], [], []
    for first, last, own, item, known in _parts(given, call):
        chosen = [grids[i] for i in own]
        kept = stays[first:last]
        embedded = image[first:last][kept]
        places.append(
            PlaceholderRange(
                offset=int(before[first]), length=int(kept.sum()), is_embed=None if bool(embedded.all()) else embedded
            )
        )
        digest = hashlib.sha256(f"{known} {chosen}".encode()).digest()
        name = [int.from_bytes(digest[start : start + 8], signed=True) for start in (0, 8)]
        more = {GRIDS: _batched(torch.tensor(chosen)), NAMED: _batched(torch.tensor([*name, int(glance)]))}
        items.append(MultiModalKwargsItem({**item, **more}))
        hashes.append(f"{known}:{digest.hex()[:32]}")
    result = {
        **given,
        "prompt_token_ids": ids[stays].tolist(),
        "mm_kwargs": MultiModalKwargsItems({"image": items}),
        "mm_hashes": {"image": hashes},
        "mm_placeholders": {"image": places},
    }
    result.pop("prompt", None)  # its words would still spell every placeholder
    return result


def _parts(given: Mapping[str, Any], call: Call) -> Iterator[tuple[int, int, list[int], dict[str, Any], str]]:
    """The pieces of a rendered input that are items of their own at other grids.

    Of each: the places ``first:last`` in the prompt, the indices of its patches, its fields, and its key at full
    detail.
    """
    tokens = call.placeholders[0].cpu().nonzero().squeeze(1).tolist()
    members = {entry: list(own) for entry, own in groupby(range(len(call.patches)), lambda i: call.patches[i].entry)}
    entry = 0
    for place, item, known in zip(
        given["mm_placeholders"]["image"], given["mm_kwargs"]["image"], given["mm_hashes"]["image"], strict=True
    ):
        begin, last = entry, place.offset + place.length
        while entry < len(call.entries) and tokens[call.starts[entry]] < last:
            entry += 1
        if entry == begin + 1:
            yield place.offset, last, members[begin], dict(item), known
            continue
        data = {name: field.data for name, field in item.items() if name not in _NOT_INPUTS}
        for number in range(entry - begin):
            taken = call.family.take(call.model, data, [number])
            fields = {name: dataclasses.replace(item[name], data=value) for name, value in taken.items()}
            if ENTRIES in item:
                fields[ENTRIES] = dataclasses.replace(item[ENTRIES], data=torch.tensor(1))
            start, end = call.starts[begin + number], call.starts[begin + number + 1]
            yield tokens[start], tokens[end - 1] + 1, members[begin + number], fields, f"{known}/{number}"


def _batched(data: torch.Tensor) -> Any:
    """A field of which every item has one."""
    from vllm.multimodal.inputs import MultiModalBatchedField, MultiModalFieldElem

    return MultiModalFieldElem(data=data, field=MultiModalBatchedField(keep_on_cpu=True))


def patches_between(call: Call, first: int, last: int) -> list[int]:
    """Indices of the patches whose placeholders lie between two places of the prompt."""
    places = call.placeholders[0].cpu().nonzero().squeeze(1)
    return [i for i, patch in enumerate(call.patches) if first <= int(places[call.starts[patch.entry]]) < last]
