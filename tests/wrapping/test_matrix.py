"""Every family against the untouched model of its real class.

An ordinary run checks what is in ``EVERYWHERE`` for all families and everything for those in ``WHOLE``. With
``ARR_COC_MATRIX=FILE`` in the environment (``make test-full``) every cell runs, and the table is written to FILE.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from arr_coc.families import known_families
from tests import zoo

from . import matrix

RECORD = os.environ.get("ARR_COC_MATRIX")
CELLS = [
    pytest.param(family, name, id=f"{family}-{name}")
    for family in zoo.BUILDERS
    for name in matrix.PROPERTIES
    if RECORD or name in matrix.EVERYWHERE or family in matrix.WHOLE
]
_figures: dict[str, dict[str, str]] = {}
_last: dict[str, matrix.Cell] = {}


@pytest.fixture(scope="module", autouse=True)
def record() -> Iterator[None]:
    yield
    if RECORD:
        Path(RECORD).write_text(_table(), encoding="utf-8")


@pytest.mark.parametrize(("family", "name"), CELLS)
def test_cell(family, name):
    if family not in _last:
        _last.clear()  # one model at a time
        _last[family] = matrix.Cell(zoo.build(family))
    row = _figures.setdefault(family, {})
    row[name] = "failed"
    try:
        figure = matrix.PROPERTIES[name](_last[family])
    except matrix.Skip as reason:
        row[name] = f"n/a: {reason}"
        pytest.skip(str(reason))
    row[name] = figure if isinstance(figure, str) else "0" if figure == 0 else f"{figure:.0e}"


def test_every_known_family_is_in_the_matrix():
    built = {name.split(" ")[0] for name in zoo.BUILDERS}
    assert {name.split("+")[0] for name in known_families()} == built


def _table() -> str:
    reasons = sorted({cell for row in _figures.values() for cell in row.values() if cell.startswith("n/a")})
    note = {reason: str(i + 1) for i, reason in enumerate(reasons)}
    lines = [
        "# Exactness of every family",
        "",
        f"Written by `make test-full` with transformers {transformers.__version__}, torch "
        f"{torch.__version__.split('+')[0]}, float32, on a CPU: tiny random-weight models of the real classes. What a "
        "column checks is in `matrix.py`. Figures are the largest absolute differences of logits (scores for beams, "
        "relative gradients for checkpointing, attention mass for attention); 0 means to the bit.",
        "",
        "| family | " + " | ".join(matrix.PROPERTIES) + " |",
        "|---|" + "---|" * len(matrix.PROPERTIES),
    ]
    for family, row in _figures.items():
        cells = [row.get(name, "") for name in matrix.PROPERTIES]
        shown = [f"n/a [{note[cell]}]" if cell in note else cell for cell in cells]
        lines.append(f"| {family} | " + " | ".join(shown) + " |")
    lines += ["", *(f"{note[reason]}. {reason.removeprefix('n/a: ')}" for reason in reasons)]
    return "\n".join(lines).rstrip() + "\n"
