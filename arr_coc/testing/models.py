"""The contracts of a model family and of a realizer, on a model of it: a tiny random one will do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..config import ArrCocConfig
from ..families import family_for
from ..wrapping.wrapper import wrap
from .base import require


def check_family(model: Any, inputs: Mapping[str, Any], budgets: tuple[int, ...] = (64, 128, 256, 400)) -> None:
    """Hold the family of a model to its contract.

    Parameters
    ----------
    model
        A model of it, on the CPU in float32 and in evaluation mode.
    inputs
        A call with images, left-padded, as its processor makes it.
    budgets
        Budgets, of which the largest leaves the images of the call as they are; its side is the patch's.

    Raises
    ------
    Broken
        If the layout does not fill the call's placeholders; if a view shares or leaves its entry's rows; if the
        feature call gives another number of rows; or as `check_realizer`.
    """
    family, name = family_for(model), model.config.model_type
    entries = family.layout(model, inputs)
    placeholders = int((inputs["input_ids"] == family.image_token(model)).sum())
    told = sum(entry.count for entry in entries)
    require(told == placeholders, f"family {name!r}: layout tells {told} rows for {placeholders} placeholders")
    for number, entry in enumerate(entries):
        rows = [view.rows(0, view.height, 0, view.width).flatten() for view in entry.views]
        inside = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.long)
        fits = len(inside.unique()) == len(inside) and bool(((inside >= 0) & (inside < entry.count)).all())
        require(fits, f"family {name!r}: the views of entry {number} share rows, or leave its {entry.count} rows")
    with torch.no_grad():
        features = family.encode(model, inputs)
    rows_found = {len(stream) for stream in features.streams}
    require(rows_found == {told}, f"family {name!r}: encode gives {sorted(rows_found)} rows, layout tells {told}")
    check_realizer("auto", model, inputs, budgets)


def check_realizer(
    name: str, model: Any, inputs: Mapping[str, Any], budgets: tuple[int, ...] = (64, 128, 256, 400)
) -> None:
    """Hold a realizer to its contract.

    Parameters
    ----------
    name
        Its registered name.
    model, inputs, budgets
        As of `check_family`.

    Raises
    ------
    Broken
        If full detail is not the untouched model to the bit; if the floor spends other tokens than it says, gives
        logits that are not finite, or spends nothing less; or if the model is another one after it was detached.
    """
    side = round(max(budgets) ** 0.5)
    with torch.no_grad():
        before = model(**inputs).logits
        common = {"budgets": budgets, "patch_side": side, "policy": "uniform", "realizer": name}
        with wrap(model, config=ArrCocConfig(budget=max(budgets), **common)) as arr:
            whole, full = model(**inputs).logits, [record.tokens for record in arr.last]
        require(torch.equal(whole, before), f"realizer {name!r}: full detail is not the untouched model to the bit")
        with wrap(model, config=ArrCocConfig(budget=min(budgets), **common)) as arr:
            reduced, records = model(**inputs).logits, arr.last
        for record in records:
            right = record.tokens == sum(record.realised)
            require(right, f"realizer {name!r}: {record.tokens} tokens, but {sum(record.realised)} were realised")
        less = sum(record.tokens for record in records) < sum(full)
        require(less, f"realizer {name!r}: the floor spends as much as full detail; give larger images")
        length = inputs["input_ids"].shape[1]
        require(reduced.shape[1] < length, f"realizer {name!r}: the language model sees as many positions as before")
        require(bool(reduced[:, -1].isfinite().all()), f"realizer {name!r}: logits at the floor are not finite")
        again = torch.equal(model(**inputs).logits, before)
    require(again, f"realizer {name!r}: detached, the model is not what it was")
