"""What looking costs: glance, then look, in FLOPs and in time, against the untouched model.

One patch in four is looked at in full, the others stay at the floor. Runs with ``ARR_COC_MATRIX`` in the environment
(``make test-full``), which also writes ``COST.md`` beside the matrix: FLOPs of every family on its tiny model, and
FLOPs and time of four at realistic sequence lengths.
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

from arr_coc.scene.contract import Plan, Scene
from tests import tiny, zoo
from tests.wrapping.conftest import Pattern
from tests.wrapping.matrix import BUDGETS, Cell
from tests.zoo import realistic

RECORD = os.environ.get("ARR_COC_MATRIX")
PATCHES: list[tiny.Part] = [2, (8, 8), 6]  # four patches where images can be of any size
ROUNDS = 2
_lines: list[str] = []


class Attentive:
    """Reads the glance to its end, then looks at one patch in four, or at none."""

    needs = frozenset({"glance", "answer"})

    def __init__(self, floor: int, full: int, which: int | None = 2) -> None:
        self.floor, self.full, self.which = floor, full, which

    def plan(self, scene: Scene) -> Plan:
        scene.read_attention([-1])
        return Plan([self.full if i % 4 == self.which else self.floor for i in range(len(scene.patches))])


def first(cell: Cell, inputs: dict[str, Any]) -> None:
    """Everything up to the first token of an answer."""
    with torch.no_grad():
        cell.model.generate(**inputs, max_new_tokens=1, do_sample=False)


def counted(cell: Cell, inputs: dict[str, Any], run: Any = first) -> int:
    """FLOPs up to the first token: matrix products, and attention on a CPU, which the counter does not know."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attention(query: Any, key: Any, *shapes: Any, **others: Any) -> int:
        batch, heads, length, width = query
        return 4 * batch * heads * length * key[2] * width

    with FlopCounterMode(display=False, custom_mapping={flash: attention}) as counter:
        run(cell, inputs)
    return counter.get_total_flops()


def timed(cell: Cell, inputs: dict[str, Any]) -> float:
    """Processor seconds up to the first token."""
    began = time.process_time()
    first(cell, inputs)
    return time.process_time() - began


def realizers(cell: Cell) -> list[str]:
    rescale = ["rescale"] if cell.family.can_rescale else []
    return ["pool", *rescale, *(["rescale-separate"] if cell.family.can_join else [])]


def write() -> None:
    """After every part, so that what was measured is there even if the rest is interrupted."""
    head = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
    lines = [
        "# What glance then look costs", "",
        f"Written by `make test-full` with {head}, on one thread of a CPU. A glance at the floor of every patch, "
        "read to its end; then every patch left at the floor, or one in four (the third) in full; shares of what the "
        "untouched model takes to its first token. Alone: the second allocation if nobody had to look.", *_lines,
    ]  # fmt: skip
    Path(str(RECORD)).with_name("COST.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.timeout(3600)
@pytest.mark.skipif(not RECORD, reason="a measurement: make test-full")
def test_glance_then_look_at_realistic_lengths():
    _lines.extend([
        "", "## FLOPs and time at realistic lengths", "",
        "Patches of 400 visual tokens (144 for llava, 256 for internvl), a floor of 64; towers of 3 layers and 256 "
        "channels, language models of 4 layers and 512, random weights, float32. Time: best of "
        f"{ROUNDS} rounds in which all calls of a family take turns, so that a busy CPU slows them alike.", "",
        "| family | realizer | visual tokens | alone, FLOPs | time | glance only, FLOPs | time | glance and look, "
        "FLOPs | time |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ])  # fmt: skip
    for name in realistic.BUILDERS:
        model, side = realistic.build(name)
        cell, inputs = Cell(model), model.make()
        full = min(side * side, 400)
        planners = {
            "alone": Pattern(64, 64, full, 64, needs=()),
            "glance": Attentive(64, full, None),
            "both": Attentive(64, full),
        }
        native, second = counted(cell, inputs), float("inf")
        work: dict[tuple[str, str], int] = {}
        took: dict[tuple[str, str], float] = {}
        spent: dict[str, str] = {}
        for turn in range(ROUNDS + 1):  # the first one counts, the others are timed
            second = min(second, timed(cell, inputs)) if turn else second
            for realizer in realizers(cell):
                with cell.wrapped(64, realizer=realizer, budgets=(64, full), patch_side=side) as arr:
                    for kind, planner in planners.items():
                        arr.planner, key = planner, (realizer, kind)
                        if turn == 0:
                            work[key] = counted(cell, inputs)
                        else:
                            took[key] = min(took.get(key, float("inf")), timed(cell, inputs))
                    spent[realizer] = f"{arr.last[0].tokens} of {arr.last[0].full_tokens}"
        for realizer, tokens in spent.items():
            keys = [(realizer, kind) for kind in planners]
            assert work[keys[0]] <= work[keys[2]] and work[keys[1]] <= work[keys[2]]
            shares = [share for key in keys for share in (work[key] / native, took[key] / second)]
            _lines.append(f"| {name} | {realizer} | {tokens} | " + " | ".join(f"{s:.2f}" for s in shares) + " |")
        write()


@pytest.mark.timeout(3600)
@pytest.mark.skipif(not RECORD, reason="a measurement: make test-full")
def test_glance_then_look_in_flops():
    floor, full = BUDGETS[1], BUDGETS[-1]
    _lines.extend([
        "", "## FLOPs of every family", "",
        "Tiny models of the real classes: patches of 16 tokens, a floor of 4.", "",
        "| family | realizer | alone | glance only | glance and look |", "|---|---|---:|---:|---:|",
    ])  # fmt: skip
    for name, (_, prompts) in zoo.BUILDERS.items():
        cell = Cell(zoo.build(name))
        inputs = cell.tiny.make([PATCHES]) if prompts is zoo.FREE else cell.make(1)
        native = counted(cell, inputs)
        for realizer in realizers(cell):
            with cell.wrapped(floor, floor, full, floor, realizer=realizer, budgets=(floor, full)) as arr:
                alone = counted(cell, inputs) / native
                arr.planner = Attentive(floor, full, None)
                glance = counted(cell, inputs) / native
                arr.planner = Attentive(floor, full)
                both = counted(cell, inputs) / native
            assert glance < both < 2 and alone < both
            _lines.append(f"| {name} | {realizer} | {alone:.2f} | {glance:.2f} | {both:.2f} |")
    write()
