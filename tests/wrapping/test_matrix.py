"""Every family against the untouched model of its real class.

An ordinary run checks ``EVERYWHERE`` for all families, everything for those in ``WHOLE``, and ``ALSO``. With
``ARR_COC_MATRIX=FILE`` in the environment (``make test-full``) every cell can run, and the table is written to FILE;
cells that were deselected (``-k``) keep what FILE says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from arr_coc.families import UNSUPPORTED, known_families
from arr_coc.families.compat import installed_transformers
from arr_coc.families.unsupported import CHECKED
from tests import zoo
from tests.wrapping import matrix

RECORD = os.environ.get("ARR_COC_MATRIX")
CELLS = [
    pytest.param(family, name, id=f"{family}-{name}")
    for family in zoo.BUILDERS
    for name in matrix.PROPERTIES
    if RECORD or name in matrix.EVERYWHERE or family in matrix.WHOLE or (family, name) in matrix.ALSO
]
_figures: dict[str, dict[str, str]] = {}
_last: dict[str, matrix.Cell] = {}


@pytest.fixture(scope="module", autouse=True)
def record() -> Iterator[None]:
    yield
    if RECORD:
        path = Path(RECORD)
        known = _read(path.read_text(encoding="utf-8")) if path.exists() else {}
        rows = {family: known.get(family, {}) | _figures.get(family, {}) for family in zoo.EVERY}
        path.write_text(_table(rows), encoding="utf-8")


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
    built = {name.split(" ")[0] for name in zoo.EVERY}
    assert {name.split("+")[0] for name in known_families()} == built


def test_every_model_type_of_transformers_is_carried_or_has_its_reason():
    known = {name.split("+")[0] for name in known_families()}
    assert not known & UNSUPPORTED.keys() and all(UNSUPPORTED.values())
    if installed_transformers() > CHECKED:
        pytest.skip(f"transformers {transformers.__version__} may have types that were not looked at yet")
    missing = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys() - known - UNSUPPORTED.keys()
    assert not missing, f"neither a family nor a reason in arr_coc/families/unsupported.py: {sorted(missing)}"


def test_the_readme_names_every_family():
    text = Path(__file__).parents[2].joinpath("arr_coc", "families", "README.md").read_text(encoding="utf-8")
    table = next(part for part in text.split("\n\n") if part.startswith("| layout |"))
    assert set(re.findall(r"\b[a-z]+\w*\b", table)) >= {name.split("+")[0] for name in known_families()}


def test_the_committed_table_names_what_is_not_carried():
    text = Path(__file__).with_name("MATRIX.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("- ")] == _reasons()


def test_a_table_is_read_as_it_was_written():
    rows = {"a": dict.fromkeys(matrix.PROPERTIES, "0") | {"beams": "n/a: no"}, "b (c)": {"loss": "3e-06"}}
    full = {family: dict.fromkeys(matrix.PROPERTIES, "") | row for family, row in rows.items()}
    assert _read(_table(rows)) == full


def _read(text: str) -> dict[str, dict[str, str]]:
    """The cells of a table that :func:`_table` wrote."""
    lines = text.splitlines()
    tables = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    reasons = dict(line.split(". ", 1) for line in lines if line[:1].isdigit())

    def told(cell: str) -> str:
        return f"n/a: {reasons[cell[5:-1]]}" if cell.startswith("n/a [") else cell

    return {row[0]: dict(zip(tables[0][1:], map(told, row[1:]), strict=True)) for row in tables[1:]}


def _table(rows: dict[str, dict[str, str]]) -> str:
    reasons = sorted({cell for row in rows.values() for cell in row.values() if cell.startswith("n/a")})
    note = {reason: str(i + 1) for i, reason in enumerate(reasons)}
    lines = [
        "# Exactness of every family",
        "",
        f"Written by `make test-full` with transformers {transformers.__version__}, torch "
        f"{torch.__version__.split('+')[0]}, float32, on a CPU: tiny random-weight models of the real classes. What a "
        "column checks is in `matrix.py`. Figures are the largest absolute differences of logits (scores for beams, "
        "relative gradients for checkpointing, attention mass for attention); 0 means to the bit. Default policy: "
        "mean share of full detail spent by thompson at limit 0.6, uniform at the second budget, random under 0.6. "
        "FLOPs: the `auto` realizer at a quarter of the tokens, as shares of the untouched model's (tower, language "
        "model, all). Joined: `own` where a patch is an image of its own to the tower.",
        "",
        "| family | " + " | ".join(matrix.PROPERTIES) + " |",
        "|---|" + "---|" * len(matrix.PROPERTIES),
    ]
    for family, row in rows.items():
        cells = [row.get(name, "") for name in matrix.PROPERTIES]
        shown = [f"n/a [{note[cell]}]" if cell in note else cell for cell in cells]
        lines.append(f"| {family} | " + " | ".join(shown) + " |")
    lines += ["", *(f"{note[reason]}. {reason.removeprefix('n/a: ')}" for reason in reasons), ""]
    version = ".".join(map(str, CHECKED))
    lines += ["## Not supported", "", f"The other types of `AutoModelForImageTextToText` in transformers {version}."]
    return "\n".join([*lines, "", *_reasons()]) + "\n"


def _reasons() -> list[str]:
    return [f"- {name}: {reason}" for name, reason in UNSUPPORTED.items()]
