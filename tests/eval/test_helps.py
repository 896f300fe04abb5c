"""The page "does it help me?": its figures are those of the estimate, today."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import arr_coc
from arr_coc.cli import app
from eval.studies.helps import CHOSEN, break_even, rows
from eval.studies.shares import MODELS
from tests.zoo.pretrained import save_qwen2_5_vl

PAGE = (Path(arr_coc.__file__).parent / "HELPS.md").read_text(encoding="utf-8")


def test_every_row_of_the_page_is_recomputed():
    lines = [line for line in PAGE.splitlines() if line.startswith(tuple(f"| {name} " for name in CHOSEN))]
    assert lines == ["| " + " | ".join(row) + " |" for row in rows()]


def test_one_patch_is_answered_directly_and_breaks_even_at_none():
    from arr_coc.asking.estimate import estimate

    config, images = MODELS["Qwen2.5-VL-7B"]()
    small, large = (estimate(config, size, images) for size in ((224, 224), (1700, 2200)))
    assert small.way == "direct" and break_even(small) == 0
    # What the break-even says: so many patches raised, at the mean price of one, cost what the untouched model does.
    cost = large.forecast
    assert cost.glance + break_even(large) * (cost.raised - cost.glance) == pytest.approx(cost.untouched)


def test_the_command_of_the_page(tmp_path):
    folder = save_qwen2_5_vl(tmp_path / "model")
    shown = CliRunner().invoke(app, ["estimate", str(folder), "--image", "1024x768", "--limit", "0.4"])
    assert shown.exit_code == 0 and "4 patches, 999 visual tokens" in shown.output, shown.output
