"""Streams that change, and policies judged by another's log."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import arr_coc
from arr_coc.learning.rewards import make_reward
from arr_coc.learning.tasks import Task
from eval.config import EvalConfig, TaskConfig, read_config
from eval.methods import make_method, make_methods
from eval.model.bench import Bench
from eval.studies.drift import drift
from eval.studies.offpolicy import _estimates, _play, offpolicy


def log_of(folder, name, rewards):
    file = folder / name / "log.jsonl"
    file.parent.mkdir()
    rows = [{"episode": i, "reward": float(r), "tokens": 100, "full_tokens": 1000} for i, r in enumerate(rewards)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_one_that_forgets_recovers_sooner(tmp_path):
    """Both fall at episode 100; one is back 20 episodes later, the other after 120."""
    quick = np.concatenate([np.ones(100), np.zeros(20), np.ones(180)])
    slow = np.concatenate([np.ones(100), np.zeros(120), np.ones(80)])
    logs = [log_of(tmp_path, "quick", quick), log_of(tmp_path, "slow", slow)]
    table = drift(logs, change=100, window=10, slack=0.001)
    cells = {row.split(" | ")[0].strip("| "): row.strip("| ").split(" | ") for row in table.splitlines()[6:]}
    assert cells["quick"][1:] == ["0.995", "-0.005", "0.995", "30"]  # a whole window of right answers
    assert cells["slow"][1:] == ["0.995", "-0.005", "0.995", "130"]
    never = log_of(tmp_path, "never", np.concatenate([np.ones(100), np.zeros(200)]))
    assert "not in 200" in drift([logs[0], never], change=100, window=10)
    with pytest.raises(ValueError, match="300 episodes; 60 before episode 20"):
        drift(logs, change=20)


def test_a_learners_stream_changes_its_mix():
    method = make_method({"method": "learner", "episodes": 6, "phases": [["color"], ["number"]], "grid": [1, 2]})
    samples = list(method.samples(SimpleNamespace(seed=0)))
    assert [s["kind"] for s in samples] == ["color"] * 3 + ["number"] * 3
    assert {tuple(s["grid"]) for s in samples} == {(1, 2)} and len({s["question_id"] for s in samples}) == 6
    with pytest.raises(ValueError, match="reference world only"):
        make_method({"method": "learner", "task": {"path": "x.jsonl"}, "phases": [["color"]]}).samples(
            SimpleNamespace(seed=0)
        )


@pytest.mark.parametrize("name", ["drift", "generalise-kinds", "generalise-grids", "ablation", "headline", "eval"])
def test_shipped_configurations_are_sound(name):
    config = read_config(f"configs/{name}.yaml")
    assert make_methods(config.methods, config.baselines)


def test_the_log_of_one_policy_judges_another(tmp_path):
    model, processor = arr_coc.reference.load()
    config = EvalConfig(
        out=str(tmp_path / "ope"), max_new_tokens=2, baselines=[], methods=["full"],
        wrap={"policy": "boltzmann", "price": 0.05},
        task=TaskConfig(limit=20, split="learn", grid=[1, 2], kinds=["color", "shape"]),
    )  # fmt: skip
    with arr_coc.wrap(model, processor, arr_coc.ArrCocConfig.from_dict(config.wrap)) as arr:
        found = offpolicy(config, arr, progress=False)
        assert arr.planner.policy.rounds == 0 and not arr.planner.explore  # the old policy stays as it was
        bench = Bench(arr, make_reward("vqa_accuracy"), 2)
        planner = arr.planner
        log, rewards = _play(bench, planner, list(Task(config.task))[:6], "", False)
        rewards = np.linspace(0, 1, 6)
        itself = _estimates(planner.policy, log, rewards)
    assert set(found["estimates"]) == {"dm", "ips", "snips", "dr", "pi", "snpi", "dr_pi"} and found["rounds"] == 10
    for estimate in found["estimates"].values():
        assert estimate["low"] <= estimate["value"] <= estimate["high"] and 0 < estimate["ess"] <= 10 + 1e-9
    # A policy is worth to its own log what it earned: every weight is one.
    for name in ("ips", "snips", "pi", "snpi"):
        assert itself[name]["value"] == pytest.approx(0.5) and itself[name]["ess"] == pytest.approx(6)
    assert "| estimator |" in (tmp_path / "ope" / "offpolicy.md").read_text()
    with pytest.raises(ValueError, match="holds results already"):
        offpolicy(config)
    config.out = str(tmp_path / "other")
    with arr_coc.wrap(model, processor) as arr, pytest.raises(ValueError, match="set wrap.policy=boltzmann"):
        offpolicy(config, arr)
