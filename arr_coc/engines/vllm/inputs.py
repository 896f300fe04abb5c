"""A rendered input of the engine as a question of ours, and the same input at other budgets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...families import Family
from ...realizing.call import Call, Grid
from ..prompt import kept_rows, kept_tokens
from .names import ENTRIES, GRIDS

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


def reduced(given: Mapping[str, Any], call: Call, grids: Sequence[Grid]) -> dict[str, Any]:
    """A rendered input with every patch at its grid.

    The keys of its images, by which the engine caches features and prefixes, then hold the grids.

    Parameters
    ----------
    given
        The input at full detail.
    call
        Its question.
    grids
        Per patch (rows, columns).

    Returns
    -------
    dict
        A new input; at full detail, a copy of the given one.
    """
    from vllm.multimodal.inputs import (
        MultiModalBatchedField,
        MultiModalFieldElem,
        MultiModalKwargsItem,
        MultiModalKwargsItems,
        PlaceholderRange,
    )

    if all(call.native(index, grid) for index, grid in enumerate(grids)):
        return dict(given)
    keep = kept_rows(call, grids)
    stays = kept_tokens(call, keep)
    before = torch.cat([torch.zeros(1, dtype=torch.long), stays.long().cumsum(0)])  # kept tokens in front of each
    ids = torch.tensor(given["prompt_token_ids"])
    image = call.placeholders[0].cpu()
    places, items, hashes = [], [], []
    for place, item, known in zip(
        given["mm_placeholders"]["image"], given["mm_kwargs"]["image"], given["mm_hashes"]["image"], strict=True
    ):
        first, last = place.offset, place.offset + place.length
        own = [grids[i] for i in patches_between(call, first, last)]
        kept = stays[first:last]
        embedded = image[first:last][kept]
        places.append(
            PlaceholderRange(
                offset=int(before[first]), length=int(kept.sum()), is_embed=None if bool(embedded.all()) else embedded
            )
        )
        field = MultiModalFieldElem(data=torch.tensor(own), field=MultiModalBatchedField(keep_on_cpu=True))
        items.append(MultiModalKwargsItem({**item, GRIDS: field}))
        hashes.append(f"{known}:{hashlib.sha256(repr(own).encode()).hexdigest()[:16]}")
    result = {
        **given,
        "prompt_token_ids": ids[stays].tolist(),
        "mm_kwargs": MultiModalKwargsItems({"image": items}),
        "mm_hashes": {"image": hashes},
        "mm_placeholders": {"image": places},
    }
    result.pop("prompt", None)  # its words would still spell every placeholder
    return result


def patches_between(call: Call, first: int, last: int) -> list[int]:
    """Indices of the patches whose placeholders lie between two places of the prompt."""
    places = call.placeholders[0].cpu().nonzero().squeeze(1)
    return [i for i, patch in enumerate(call.patches) if first <= int(places[call.starts[patch.entry]]) < last]
