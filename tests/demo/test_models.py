"""Models to choose from: loaded when they are asked for, found on the disk, never fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from demo.models import KEPT, Models, on_disk, shipped


def test_a_model_is_loaded_once_and_when_it_is_asked_for() -> None:
    made: list[str] = []

    def maker(name: str) -> Any:
        return lambda: made.append(name) or f"host of {name}"

    models: Any = Models({name: maker(name) for name in "abc"})
    assert not made and models.names == ["a", "b", "c"] and len(models) == 3
    assert models.first == models["a"] == "host of a" and made == ["a"]
    models["b"], models["a"], models["c"]  # noqa: B018  b was asked longest ago: it makes room
    assert KEPT == 2 and made == ["a", "b", "c"]
    models["a"], models["b"]  # noqa: B018
    assert made == ["a", "b", "c", "b"]
    with pytest.raises(ValueError, match="'d' is not offered here"):
        models["d"]
    with pytest.raises(ValueError, match="no model"):
        Models({})


def test_a_policy_is_the_first_models() -> None:
    made = Models.named(["one", "two", "one"], policy="mine", device="cpu")._makers
    given = [maker.args[:3] for maker in made.values()]  # type: ignore[attr-defined]
    assert given == [("one", "mine", "cpu"), ("two", None, "cpu")]


def test_models_of_the_cache_are_found(tmp_path: Path) -> None:
    def cached(name: str, config: str, weights: bool = True) -> None:
        folder = tmp_path / f"models--{name.replace('/', '--')}"
        snapshot = folder / "snapshots" / "0123456789abcdef"
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0123456789abcdef")
        (snapshot / "config.json").write_text(config)
        if weights:
            (snapshot / "model.safetensors").write_bytes(b"0")

    cached("org/seeing", json.dumps({"model_type": "qwen2_5_vl"}))
    cached("org/begun", json.dumps({"model_type": "qwen2_5_vl"}), weights=False)
    cached("org/blind", json.dumps({"model_type": "bert"}))
    cached("org/torn", "{")
    assert on_disk(tmp_path) == [*shipped(), "org/seeing"]
    assert on_disk(tmp_path / "nowhere") == shipped()
