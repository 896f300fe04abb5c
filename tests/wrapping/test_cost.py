"""What the second pass costs: glance, then look, in FLOPs and in time, against the untouched model.

One patch in four is looked at in full, the others stay at the floor of a quarter of their tokens. Runs with
``ARR_COC_MATRIX`` in the environment (``make test-full``), which also writes ``COST.md`` beside the matrix.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from arr_coc.scene import Plan, Scene
from tests import tiny, zoo

from .matrix import BUDGETS, Cell

RECORD = os.environ.get("ARR_COC_MATRIX")
PATCHES: list[tiny.Part] = [2, (8, 8), 6]  # four patches where images can be of any size
FLOOR, FULL = BUDGETS[1], BUDGETS[-1]


class Attentive:
    """Reads the attention of the last layer over the glance, then looks at one patch in four."""

    needs = frozenset({"glance"})

    def plan(self, scene: Scene) -> Plan:
        scene.read_attention([-1])
        return Plan([FULL if i % 4 == 3 else FLOOR for i in range(len(scene.patches))])


def flops(cell: Cell, inputs: dict[str, Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        cell.logits(inputs)
    return counter.get_total_flops()


def seconds(cell: Cell, inputs: dict[str, Any]) -> float:
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        cell.logits(inputs)
        best = min(best, time.perf_counter() - began)
    return best


@pytest.mark.skipif(not RECORD, reason="a measurement: make test-full")
def test_glance_then_look():
    lines = [
        "# What glance then look costs",
        "",
        f"Written by `make test-full` with transformers {transformers.__version__}, torch "
        f"{torch.__version__.split('+')[0]}, on tiny random-weight models: four patches of 16 tokens, a glance at 4 "
        "tokens each with the attention of the last layer read, then one patch at 16 and three at 4. Shares of one "
        "forward of the untouched model; times are the best of five side by side on a CPU that may be busy, and at "
        "this size mostly overhead, so trust the FLOPs.",
        "",
        "| family | realizer | look alone, FLOPs | glance and look, FLOPs | glance and look, time |",
        "|---|---|---:|---:|---:|",
    ]
    for name, (_, prompts) in zoo.BUILDERS.items():
        cell = Cell(zoo.build(name))
        inputs = cell.tiny.make([PATCHES]) if prompts is zoo.FREE else cell.make(1)
        full, native = flops(cell, inputs), seconds(cell, inputs)
        for realizer in ["pool", *(["rescale"] if cell.family.can_rescale else [])] + (
            ["rescale-separate"] if cell.family.can_join else []
        ):
            with cell.wrapped(FLOOR, FLOOR, FLOOR, FULL, realizer=realizer, budgets=(FLOOR, FULL)) as arr:
                alone = flops(cell, inputs) / full
                arr.planner = Attentive()
                both, took = flops(cell, inputs) / full, seconds(cell, inputs) / native
            assert alone < both < 2
            lines.append(f"| {name} | {realizer} | {alone:.2f} | {both:.2f} | {took:.2f} |")
    Path(str(RECORD)).with_name("COST.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
