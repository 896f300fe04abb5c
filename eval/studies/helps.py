"""Where budgets can help at all: patches, floor and break-even by model and size of picture, from configurations."""

from __future__ import annotations

from arr_coc.asking.estimate import Estimate, estimate

from .shares import MODELS

SIZES = ((224, 224), (640, 427), (1024, 768), (1240, 1754), (1700, 2200))
"""An icon, a small photograph, a large one, and a page at 150 and at 200 dots per inch."""
CHOSEN = ("Qwen2.5-VL-7B", "Qwen3-VL-4B", "InternVL3-8B", "LLaVA-1.5-7B")


def break_even(known: Estimate) -> float:
    """Patches that can be raised to full detail before glance and look cost as much as the untouched model, each
    further one at the mean cost of the first; 0 where nothing is looked at."""
    cost = known.forecast
    if known.way == "direct":
        return 0.0
    return min(cost.patches, (cost.untouched - cost.glance) / (cost.raised - cost.glance))


def rows() -> list[list[str]]:
    """The cells of the table, one row per model and size of picture."""
    table = []
    for name in CHOSEN:
        config, images = MODELS[name]()
        sizes = SIZES if name != "LLaVA-1.5-7B" else SIZES[2:3]  # it sees every picture at one size
        for size in sizes:
            known = estimate(config, size, images)
            cost, direct = known.forecast, known.way == "direct"
            table.append(
                [
                    name, "any" if len(sizes) == 1 else f"{size[0]} x {size[1]}", str(cost.patches),
                    f"{cost.tokens:,}", f"{cost.floor:,}", "–" if direct else f"{known.unchanged:.0%}",
                    "–" if direct else f"{known.raised:.0%}", "–" if direct else f"{break_even(known):.1f}",
                ]
            )  # fmt: skip
    return table
