"""Scaled shapes: what is counted is what runs, and the most that is held at once is what a call holds."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import arr_coc
from arr_coc.asking.estimate import made_up
from arr_coc.config import ArrCocConfig
from arr_coc.wrapping.cost import Operations, forecast
from eval.studies import scaled, shares

WITHOUT_PAIRS = ("pair", "sliding", "tower_pair", "tower_local", "last_pair", "last_sliding")


@pytest.mark.parametrize(("name", "size"), [("LLaVA-1.5-7B", (336, 336)), ("Qwen3-VL-4B", (1024, 640))])
def test_matrix_products_are_counted_as_they_run(name, size):
    """Without attention, of which kernels may work out both halves; the output's embedding is not counted."""
    model, images = scaled.built(name, 8)
    budgets = arr_coc.estimate(model, size, images).budgets
    with arr_coc.wrap(model, None, ArrCocConfig(), scaled.Raising(budgets)) as arr:
        call = made_up(arr, images, size, scaled.WORDS)
        inputs = dict(call.inputs) | {"mm_token_type_ids": (call.inputs["input_ids"] == 990).long()}
        inputs = inputs if name.startswith("Qwen") else dict(call.inputs)
        operations = dataclasses.replace(Operations.of(model), **dict.fromkeys(WITHOUT_PAIRS, 0.0))
        floors = [arr.realizer.grid(arr.family, patch, budgets[0]) for patch in call.patches]
        known = forecast(call, arr.realizer, floors, operations)

        def ran(*raised: int) -> int:
            arr.planner.raised = raised
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model.generate(**inputs, max_new_tokens=1, do_sample=False)
            return counter.get_total_flops()

        assert ran() == pytest.approx(known.glance, rel=0.01)
        for patch in (0, len(floors) - 1):
            assert ran(patch) == pytest.approx(known.looks[patch], rel=0.01)
        arr.detach()
        assert ran() == pytest.approx(known.untouched, rel=0.01)


def test_scaled_shapes_keep_tokens_and_patches():
    for name, size in shares.ROWS:
        (config, images), (made, same) = shares.MODELS[name](), scaled.scaled(name, scaled.NARROW)
        published, small = (arr_coc.estimate(*each).forecast for each in ((config, size, images), (made, size, same)))
        assert (published.tokens, published.patches, published.floor) == (small.tokens, small.patches, small.floor)


def test_peak_counts_what_is_held_at_once():
    def several() -> None:
        for _ in range(3):
            torch.ones(1000, 1000).sum()
        held = [torch.ones(500, 1000) for _ in range(3)]
        del held

    assert scaled.peak(several) == pytest.approx(6_000_000, abs=1000)


def test_what_a_glance_held_is_let_go_of():
    """Whatever is raised, hardly more is held at once than by the untouched model, and less where little is."""
    model, images = scaled.built("Qwen3-VL-4B", 8)
    budgets = arr_coc.estimate(model, (1024, 640), images).budgets
    with arr_coc.wrap(model, None, ArrCocConfig(), scaled.Raising(budgets)) as arr:
        call = made_up(arr, images, (1024, 640), scaled.WORDS)
        inputs = dict(call.inputs) | {"mm_token_type_ids": (call.inputs["input_ids"] == 990).long()}

        def held(*raised: int) -> int:
            arr.planner.raised = raised
            return scaled.peak(lambda: model.generate(**inputs, max_new_tokens=1, do_sample=False))

        held()
        nothing, everything = held(), held(*range(len(call.patches)))
        arr.detach()
        untouched = held()
    assert nothing < 0.6 * untouched and everything < 1.05 * untouched


def test_a_record_is_a_page():
    kind = {"counted": 0.2, "measured": 0.21}
    row = {
        "model": "M", "size": [3, 4], "way": "glance", "tokens": 1000, "patches": 2, "widths divided by": 4,
        "tower": {"published": 0.3, "scaled": 0.4}, "seconds": 2.0, "untouched megabytes": 5.0,
        "nothing raised": kind, "one patch raised": kind,
        "memory": {"nothing raised": 0.2, "patch 1 raised": 0.5, "everything raised": 0.99},
    }  # fmt: skip
    assert "| M, 3 x 4 | 1,000 | 30% / 40% | 2.00 s | 20% | 21% | +5% | 20% | 21% | +5% | 0.20 / 0.50 / 0.99 |" in (
        scaled.markdown([row])
    )
