"""What the second pass costs: glance, then look, in FLOPs and in time, against the untouched model.

One patch in four is looked at in full, the others stay at the floor. Runs with ``ARR_COC_MATRIX`` in the environment
(``make test-full``), which also writes ``COST.md`` beside the matrix: FLOPs of every family on its tiny model, and
FLOPs and time of five at realistic sequence lengths.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from arr_coc.scene import Plan, Scene
from tests import tiny, zoo
from tests.zoo import realistic

from .matrix import BUDGETS, Cell

RECORD = os.environ.get("ARR_COC_MATRIX")
PATCHES: list[tiny.Part] = [2, (8, 8), 6]  # four patches where images can be of any size
ROUNDS = 2
_lines: list[str] = []


class Attentive:
    """Reads the attention of the last layer over the glance, then looks at one patch in four."""

    needs = frozenset({"glance"})

    def __init__(self, floor: int, full: int) -> None:
        self.floor, self.full = floor, full

    def plan(self, scene: Scene) -> Plan:
        scene.read_attention([-1])
        return Plan([self.full if i % 4 == 3 else self.floor for i in range(len(scene.patches))])


def flops(call: Callable[[], Any]) -> int:
    """Products of matrices, attention on the CPU included, which the counter does not know by itself."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention(query: Any, key: Any, *shapes: Any, **others: Any) -> int:
        batch, heads, length, width = query
        return 4 * batch * heads * length * key[2] * width

    with FlopCounterMode(display=False, custom_mapping={flash: attention}) as counter:
        call()
    return counter.get_total_flops()


def realizers(cell: Cell) -> list[str]:
    rescale = ["rescale"] if cell.family.can_rescale else []
    return ["pool", *rescale, *(["rescale-separate"] if cell.family.can_join else [])]


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@pytest.fixture(scope="module", autouse=True)
def record():
    yield
    if RECORD and _lines:
        head = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
        lines = [
            "# What glance then look costs", "",
            f"Written by `make test-full` with {head}, on one thread of a CPU. A glance at the floor of every patch, "
            "the attention of the last layer read, then one patch in four in full and three at the floor; shares of "
            "one forward of the untouched model.", *_lines,
        ]  # fmt: skip
        Path(RECORD).with_name("COST.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.skipif(not RECORD, reason="a measurement: make test-full")
def test_glance_then_look_in_flops():
    floor, full = BUDGETS[1], BUDGETS[-1]
    _lines.extend([
        "", "## FLOPs of every family", "",
        "Tiny models of the real classes: patches of 16 tokens, a floor of 4.", "",
        "| family | realizer | look alone | glance and look |", "|---|---|---:|---:|",
    ])  # fmt: skip
    for name, (_, prompts) in zoo.BUILDERS.items():
        cell = Cell(zoo.build(name))
        inputs = cell.tiny.make([PATCHES]) if prompts is zoo.FREE else cell.make(1)
        native = flops(lambda: cell.logits(inputs))  # noqa: B023 - called at once
        for realizer in realizers(cell):
            with cell.wrapped(floor, floor, floor, full, realizer=realizer, budgets=(floor, full)) as arr:
                alone = flops(lambda: cell.logits(inputs)) / native  # noqa: B023
                arr.planner = Attentive(floor, full)
                both = flops(lambda: cell.logits(inputs)) / native  # noqa: B023
            assert alone < both < 2
            _lines.append(f"| {name} | {realizer} | {alone:.2f} | {both:.2f} |")


@pytest.mark.skipif(not RECORD, reason="a measurement: make test-full")
def test_glance_then_look_at_realistic_lengths():
    _lines.extend([
        "", "## FLOPs and time at realistic lengths", "",
        "Patches of 400 visual tokens (144 for llava, 256 for internvl), a floor of 64; towers of 3 layers and 256 "
        "channels, language models of 4 layers and 512, random weights, float32. Time: best of "
        f"{ROUNDS} rounds in which the three calls take turns, so that a busy CPU slows them alike.", "",
        "| family | realizer | visual tokens | look alone, FLOPs | time | glance and look, FLOPs | time |",
        "|---|---|---:|---:|---:|---:|---:|",
    ])  # fmt: skip
    for name in realistic.BUILDERS:
        model, side = realistic.build(name)
        cell, inputs = Cell(model), model.make()
        full = min(side * side, 400)
        native_flops = flops(lambda: cell.logits(inputs))  # noqa: B023
        for realizer in realizers(cell):
            best = dict.fromkeys(("native", "alone", "both"), float("inf"))
            counted: dict[str, float] = {}
            for _ in range(ROUNDS):
                best["native"] = min(best["native"], seconds(lambda: cell.logits(inputs)))  # noqa: B023
                config: dict[str, Any] = {"realizer": realizer, "budgets": (64, full), "patch_side": side}
                with cell.wrapped(64, 64, 64, full, **config) as arr:
                    best["alone"] = min(best["alone"], seconds(lambda: cell.logits(inputs)))  # noqa: B023
                    if "alone" not in counted:
                        counted["alone"] = flops(lambda: cell.logits(inputs)) / native_flops  # noqa: B023
                    arr.planner = Attentive(64, full)
                    best["both"] = min(best["both"], seconds(lambda: cell.logits(inputs)))  # noqa: B023
                    if "both" not in counted:
                        counted["both"] = flops(lambda: cell.logits(inputs)) / native_flops  # noqa: B023
                    spent = arr.last[0]
            _lines.append(
                f"| {name} | {realizer} | {spent.tokens} of {spent.full_tokens} | {counted['alone']:.2f} | "
                f"{best['alone'] / best['native']:.2f} | {counted['both']:.2f} | {best['both'] / best['native']:.2f} |"
            )
            assert counted["alone"] <= counted["both"]
