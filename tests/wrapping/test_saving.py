"""save_pretrained, from_pretrained, push_to_hub: only our weights, whole or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import arr_coc
from arr_coc.config import ArrCocConfig
from arr_coc.wrapping import saving
from tests import tiny
from tests.wrapping.conftest import BUDGETS, SIDE, Pattern

CONFIG = ArrCocConfig(budgets=BUDGETS, patch_side=SIDE, scorers=("participatory",), confidence=False, limit=0.5)


@pytest.fixture
def model():
    return tiny.build("reference").model


def taught(model) -> arr_coc.ArrCoc:
    """A wrapper whose policy has learned something and whose price has moved."""
    arr = arr_coc.wrap(model, tiny.tokenizer(), CONFIG)
    policy, generator = arr.planner.policy, np.random.default_rng(0)
    for _ in range(5):
        contexts = generator.random((4, policy.dim))
        decision = policy.select(contexts, generator.random(policy.covariates), costs=np.tile(BUDGETS, (4, 1)))
        policy.update(decision, float(generator.random()))
    arr.planner.price = 0.125
    return arr


def test_a_saved_policy_comes_back_whole(model, tmp_path):
    arr = taught(model)
    folder = arr.save_pretrained(tmp_path / "policy", results={"accuracy": "0.9"})
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "policy.safetensors"]
    card = (folder / "README.md").read_text()
    assert "4, 16, 36, 64" in card and "| accuracy | 0.9 |" in card and "qwen2_vl" in card
    before = arr.planner.policy.state_dict()
    arr.detach()
    again = arr_coc.ArrCoc.from_pretrained(folder, model, tiny.tokenizer())
    assert again.attached and again.config == CONFIG and again.planner.price == 0.125
    after = again.planner.policy.state_dict()
    assert before["rounds"] == after["rounds"] == 5
    assert all(torch.equal(before["tensors"][name], after["tensors"][name]) for name in before["tensors"])
    again.detach()


def test_what_does_not_fit_is_refused_and_nothing_is_half_loaded(model, tmp_path):
    arr = taught(model)
    folder = arr.save_pretrained(tmp_path / "policy")
    arr.detach()
    record = json.loads((folder / "config.json").read_text())

    def refused(kind, match):
        with pytest.raises(kind, match=match):
            arr_coc.ArrCoc.from_pretrained(folder, model, tiny.tokenizer())
        assert "generate" not in vars(model)

    def write(text):
        (folder / "config.json").write_text(text)

    write(json.dumps(record | {"config": record["config"] | {"budgets": [4, 16, 64]}}))
    refused(ValueError, "does not fit the configuration")
    write(json.dumps(record | {"format": 99}))
    refused(ValueError, "is of format 99")
    write(json.dumps({"peft_type": "LORA"}))
    refused(ValueError, "another library's")
    write(json.dumps(record)[:50])
    refused(ValueError, "is damaged")
    (folder / "config.json").unlink()
    refused(ValueError, "holds no config.json")
    write(json.dumps(record))
    blob = (folder / "policy.safetensors").read_bytes()
    (folder / "policy.safetensors").write_bytes(blob[: len(blob) // 2])
    refused(ValueError, "does not fit")
    (folder / "policy.safetensors").unlink()
    refused(FileNotFoundError, "no saved policy")
    folder = tmp_path / "nowhere"
    refused(FileNotFoundError, "there is no saved policy")


def test_newer_keys_warn_and_another_model_warns(model, tmp_path):
    arr = taught(model)
    folder = arr.save_pretrained(tmp_path)
    arr.detach()
    record = json.loads((folder / "config.json").read_text())
    record["config"]["from_the_future"] = 1
    record["model_type"] = "qwen3_vl"
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.warns(UserWarning) as caught:
        arr_coc.ArrCoc.from_pretrained(folder, model, tiny.tokenizer()).detach()
    text = " ".join(str(warning.message) for warning in caught)
    assert "from_the_future" in text and "this model is of type qwen2_vl" in text


def test_a_planner_without_a_policy_has_nothing_to_save(model, tmp_path):
    with (
        arr_coc.wrap(model, None, CONFIG, planner=Pattern(4)) as arr,
        pytest.raises(TypeError, match="Pattern holds no policy"),
    ):
        arr.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_push_to_hub_uploads_the_folder(model, monkeypatch):
    seen = {}

    class Api:
        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            seen["made"] = (repo_id, private, exist_ok)

        def upload_folder(self, repo_id, folder_path, **options):
            seen["files"] = sorted(file.name for file in saving.Path(folder_path).iterdir())
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    with taught(model) as arr:
        assert arr.push_to_hub("me/policy", private=True) == "https://hub/me/policy"
    assert seen == {
        "token": None, "made": ("me/policy", True, True), "files": ["README.md", "config.json", "policy.safetensors"]
    }  # fmt: skip


def test_a_saved_policy_keeps_the_prior_it_was_learned_with(model, tmp_path, monkeypatch):
    """Defaults change between versions; what was learned must stay loadable, and decide as it did."""
    from arr_coc.attending import planners as attending

    arr = taught(model)
    folder = arr.save_pretrained(tmp_path / "policy")
    before = arr.planner.policy
    arr.detach()
    monkeypatch.setattr(attending, "PRIOR_PRECISION", 7.0)
    with arr_coc.ArrCoc.from_pretrained(folder, model, tiny.tokenizer()) as again:
        assert again.planner.policy.config() == before.config()
        assert (again.planner.policy.prior_mean == before.prior_mean).all()
        assert all(torch.equal(again.planner.policy.weights[name], w) for name, w in before.weights.items())
