"""Models and policies that name something: nobody's code runs, nothing loads that wasn't allowed, nobody is asked."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import arr_coc
from arr_coc import reference
from arr_coc.asking import models
from arr_coc.asking.models import ModelError, load_vlm, model_identity, wrap_with
from arr_coc.knowing.paired import Paired
from arr_coc.wrapping.saving import load_planner

EVIL = "open(__file__ + '.ran', 'w').close()\nclass Evil: pass\n"


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder that brings code along; whoever asks on the terminal fails the test."""
    folder = tmp_path / "model"
    folder.mkdir()
    parts = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoModelForImageTextToText", "AutoImageProcessor")
    names = {part: "evil.Evil" for part in parts}
    for file in ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        (folder / file).write_text(json.dumps({"model_type": "evil", "auto_map": names, "processor_class": "Evil"}))
    (folder / "evil.py").write_text(EVIL)

    def asked(*prompt: object) -> str:
        pytest.fail(f"somebody was asked: {prompt}")

    monkeypatch.setattr("builtins.input", asked)
    return folder


def test_a_model_folders_code_never_runs_and_nobody_is_asked(foreign: Path) -> None:
    with pytest.raises(ModelError):
        load_vlm(str(foreign))
    with pytest.raises(RuntimeError, match="could not be loaded"):
        Paired(str(foreign))
    for file in foreign.glob("*config.json"):  # of a family that is known, and code beside it
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "model_type": "qwen2_vl"}))
        with pytest.raises(ModelError):
            load_vlm(str(foreign))
    assert not list(foreign.glob("*.ran"))


def test_everything_that_loads_by_name_says_so() -> None:
    """transformers asks on the terminal unless it is told; so every call that takes a stranger's name tells it."""
    root = Path(arr_coc.__file__).parents[1]
    for file in [*root.glob("arr_coc/**/*.py"), *root.glob("eval/**/*.py"), *root.glob("demo/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
                call = ast.unparse(node)
                if "Auto" in call and "local_files_only=True" not in call:  # that is the model that ships
                    assert "trust_remote_code=False" in call or "**here" in call, (file, node.lineno)


def naming(folder: Path, scorers: list[Any]) -> Path:
    """The shipped policy, whose configuration names other scorers."""
    shutil.copytree(reference.policy_path(), folder)
    file = folder / "config.json"
    record = json.loads(file.read_text())
    record["config"]["scorers"] = scorers
    file.write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    "scorer",
    [
        {"name": "participatory", "variant": "siglip", "model": "stranger/siglip"},
        {"name": "participatory", "variant": "clip", "model": "/srv/secret"},
        {"name": "perspectival", "backbone": "hf_hub:stranger/model"},
        {"name": "perspectival", "backbone": ["stranger/model"]},
        {"name": "perspectival", "backbone": {"stranger/model": 1}},
    ],
)
def test_a_policy_names_no_model_without_a_yes_in_code(
    scorer: dict[str, Any], tmp_path: Path, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from arr_coc.knowing import backbone, paired

    loaded: list[Any] = []

    def load(name: Any) -> Any:
        loaded.append(name)
        raise RuntimeError("as far as it may go")

    monkeypatch.setattr(paired, "_load", load)
    monkeypatch.setattr(backbone, "_load", load)
    folder = naming(tmp_path / "policy", ["propositional", scorer])
    model, processor = reference
    for use in (
        lambda: arr_coc.ArrCoc.from_pretrained(folder, model, processor),
        lambda: wrap_with(model, processor, {"policy": str(folder)}),
        lambda: load_planner(folder, model, processor, allow=["another/model"]),
    ):
        with pytest.raises(ValueError, match="only data; if you trust it"):
            use()
    assert not loaded and "generate" not in vars(model)
    name = scorer.get("model", scorer.get("backbone"))
    if isinstance(name, str):
        with pytest.raises((RuntimeError, ValueError)):
            load_planner(folder, model, processor, allow=[name])
        assert loaded == [name]  # allowed, it goes on


def test_a_model_is_known_by_its_weights(reference: Any) -> None:
    import copy

    import torch

    model = reference[0]
    name = model_identity(model)
    assert name == model_identity(copy.deepcopy(model)) and "/" not in name
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    assert model_identity(other) != name
    assert models.model_identity(copy.deepcopy(model).to(torch.bfloat16)) == name
