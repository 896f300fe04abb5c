"""What a prompt becomes at given grids is what the wrapper makes of it; no engine is needed for that."""

from __future__ import annotations

import random

import pytest
import torch

from arr_coc.engines.prompt import compact_entries, kept_rows, kept_tokens
from arr_coc.families import family_for
from arr_coc.realizing import Call, make_realizer
from arr_coc.realizing.rescale import Rescale
from arr_coc.realizing.splice import splice
from tests.zoo import BUILDERS, build


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_kept_places_are_those_of_the_wrapper(name: str) -> None:
    """Every family, both ways to realise it: the placeholders, the words between rows, and who closes its gaps."""
    if name in ("fast_vlm", "perception_lm"):
        pytest.importorskip("timm")  # their towers are timm's; the engine's environment has none
    tiny = build(name)
    family, rng = family_for(tiny.model), random.Random(0)
    for prompt in tiny.prompts[:2]:
        call = Call(tiny.model, family, tiny.make([prompt]), max(4, family.cut_multiple(tiny.model)))
        for realizer in {"pool", family.auto_realizer}:
            made = make_realizer(realizer, family)
            for turn in range(3):
                grids = [
                    made.grid(family, patch, 4 if turn == 0 else rng.choice((4, 9, patch.native)))
                    for patch in call.patches
                ]
                with torch.no_grad():
                    realised = made.realize(call, grids)
                keep = kept_rows(call, grids)
                assert torch.equal(keep, realised.keep), (realizer, grids)
                if realised.output is None:
                    assert compact_entries(call, grids, isinstance(made, Rescale)) == realised.compact
                    spliced = splice(call, realised, "auto", for_generate=True)
                    assert torch.equal(kept_tokens(call, keep).nonzero().squeeze(1), spliced.kept[0])
