"""estimate: what will be spent, from a configuration alone; it is what a call then does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import arr_coc
from arr_coc import reference
from arr_coc.cli import app
from arr_coc.config import ArrCocConfig
from arr_coc.wrapping.cost import Operations
from eval.studies import shares

SIZE = (1700, 2200)


def counted(name: str, size: tuple[int, int], **config: Any) -> Any:
    made, images = shares.MODELS[name]()
    return arr_coc.estimate(made, size, images, ArrCocConfig(**config))


def test_tokens_are_those_of_the_published_models():
    tokens = {(name, size): counted(name, size).forecast.tokens for name, size in shares.ROWS}
    assert list(tokens.values()) == [576, 345, 999, 4819, 768, 3328, 256, 3645]


def test_operations_are_those_of_the_published_shapes():
    """Qwen2.5-VL-7B: 6.53 billion parameters in its layers; two operations each, and attention."""
    made, _ = shares.MODELS["Qwen2.5-VL-7B"]()
    with torch.device("meta"):
        from transformers import AutoModelForImageTextToText

        found = Operations.of(AutoModelForImageTextToText.from_config(made))
    layer = 2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944
    assert found.token == 2 * 28 * layer and found.pair == 4 * 28 * 3584
    block = 4 * 1280 * 1280 + 3 * 1280 * 3420
    assert found.tower == 2 * (32 * block + 2 * 3 * 14 * 14 * 1280) and found.tower_pair == 4 * 4 * 1280
    assert found.tower_local == 4 * 28 * 1280 * 64


def test_no_published_shape_costs_more_than_the_untouched_model():
    for name, size in shares.ROWS:
        found = counted(name, size)
        assert found.floor < 0.18 and found.unchanged <= found.raised <= 1
    gemma = counted("Gemma3-4B", (896, 896))
    assert gemma.way == "direct" and "one patch" in gemma.why
    assert counted("Gemma3-4B", (896, 896), direct=False).raised > 1


def test_limits():
    assert counted("Qwen2.5-VL-7B", SIZE, limit=0.3).limit == int(0.3 * 4819)
    with pytest.warns(UserWarning, match="less than the floors"):
        low = counted("Qwen2.5-VL-7B", SIZE, limit=0.01)
    assert low.limit == low.forecast.floor and "below the floors" in low.why
    with pytest.raises(ValueError, match="16 patches need"):
        counted("Qwen2.5-VL-7B", SIZE, limit=10)
    with pytest.raises(ValueError, match=r"size=\(0, 5\) must be"):
        counted("Qwen2.5-VL-7B", (0, 5))
    with pytest.raises(ValueError, match="Pass processor= too"):
        arr_coc.estimate(shares.MODELS["Gemma3-4B"]()[0], (10, 10))


def test_it_is_what_the_call_does():
    model, processor = reference.load()
    (sample,) = reference.generate(1, split="eval")
    found = arr_coc.estimate(model, sample["image"].size, processor)
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="heuristic")) as arr:
        from arr_coc.asking.ask import prepare

        model.generate(**prepare(processor, [sample["image"]], [sample["question"]]), max_new_tokens=1)
        (record,) = arr.last
    assert found.forecast.tokens == record.full_tokens and found.forecast.patches == len(record.patches)
    assert found.way == "glance" and found.budgets == (64, 128, 256, 400) == arr.config.budgets


def test_the_command():
    result = CliRunner().invoke(app, ["estimate", "reference", "--image", "800x600", "--limit", ".3", "--json"])
    assert result.exit_code == 0, result.output
    known = json.loads(result.stdout[result.stdout.index("{") :])
    assert known["tokens"] == 2400 and known["limit"] == 720
    assert 0 < known["nothing_raised"] < known["one_patch_raised"] < 1
    told = CliRunner().invoke(app, ["estimate", "reference", "--image", "800x600", "--set", "wrap.direct=false"])
    assert "6 patches, 2,400 visual tokens; every patch at its floor: 384 (16%)" in told.stdout
    wrong = CliRunner().invoke(app, ["estimate", "reference", "--image", "800"])
    assert wrong.exit_code != 0 and "WIDTHxHEIGHT" in wrong.output


def test_the_committed_table_is_the_one_that_is_counted():
    record = Path(shares.__file__).parents[1] / "records" / "looking" / "shares.json"
    known = json.loads(record.read_text(encoding="utf-8"))
    now = counted("Qwen2.5-VL-7B", SIZE).to_dict()
    kept = next(row for row in known if row["size"] == list(SIZE))["default"]
    assert kept.keys() == now.keys()
    for name, value in now.items():
        assert kept[name] == (pytest.approx(value) if isinstance(value, float) else value)
