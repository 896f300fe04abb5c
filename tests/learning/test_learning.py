"""The loop learns from generated answers, logs every decision, resumes to the bit, refuses what would poison it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import arr_coc
from arr_coc import ArrCocConfig
from arr_coc.asking.ask import answers, prepare
from arr_coc.learning.rewards import make_reward
from arr_coc.reference import generate


def questions(n: int = 12):
    return list(generate(n, seed=4, split="learn", grid=(2, 2)))


@pytest.fixture
def wrapped(reference):
    model, processor = reference
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="thompson", seed=3)) as arr:
        yield arr


def state(arr):
    saved = arr.planner.policy.state_dict()
    return {k: v.tolist() for k, v in saved.pop("tensors").items()}, saved


def test_rewards_come_from_generated_answers(wrapped, tmp_path):
    data = questions()
    log = arr_coc.learn(wrapped, data, episodes=12, batch_size=5, out=tmp_path, progress=False)
    assert [r["episode"] for r in log] == list(range(12)) and wrapped.planner.policy.rounds == 12
    score = make_reward("vqa_accuracy")
    assert [r["reward"] for r in log] == [score(r["prediction"], s) for r, s in zip(log, data, strict=True)]
    assert all(r["tokens"] <= r["full_tokens"] == 1600 and set(r["budgets"]) <= {64, 128, 256, 400} for r in log)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(len(line["decision"]["contexts"]) == 4 and line["decision"]["log_propensity"] is None for line in lines)
    assert not wrapped.planner.explore


def test_propensities_are_logged_where_they_exist(reference, tmp_path):
    model, processor = reference
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="boltzmann")) as arr:
        arr_coc.learn(arr, questions(4), episodes=4, out=tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(line["decision"]["log_propensity"] < 0 for line in lines)


def test_a_broken_run_resumes_to_the_same_policy_and_log(reference, tmp_path):
    model, processor = reference
    data, score, calls = questions(), make_reward("vqa_accuracy"), 0

    def dies(prediction, sample):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return score(prediction, sample)

    options = dict(episodes=12, batch_size=2, checkpoint_every=1, target=0.4, progress=False)
    config = ArrCocConfig(seed=5)
    with arr_coc.wrap(model, processor, config) as arr:
        arr_coc.learn(arr, data, out=tmp_path / "whole", **options)
        whole, price = state(arr), arr.planner.price
    with arr_coc.wrap(model, processor, config) as arr, pytest.raises(KeyboardInterrupt):
        arr_coc.learn(arr, data, dies, out=tmp_path / "broken", **options)
    with arr_coc.wrap(model, processor, config) as arr:
        with pytest.raises(ValueError, match="holds a run already; resume it"):
            arr_coc.learn(arr, data, out=tmp_path / "broken", **options)
        arr_coc.learn(arr, data, out=tmp_path / "broken", resume=True, **options)
        assert state(arr) == whole and arr.planner.price == price
    assert (tmp_path / "whole/log.jsonl").read_text() == (tmp_path / "broken/log.jsonl").read_text()


KILLED = """
import sys, arr_coc
from arr_coc.reference import generate
model, processor = arr_coc.reference.load()
arr = arr_coc.wrap(model, processor, arr_coc.ArrCocConfig(seed=5))
data = list(generate(12, seed=4, split="learn", grid=(2, 2)))
arr_coc.learn(arr, data, episodes=12, batch_size=2, checkpoint_every=2, out=sys.argv[1], resume=True, progress=False)
arr.planner.policy.save(sys.argv[1] + "/final.safetensors")
"""


def test_kill_minus_nine_loses_nothing(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}

    def start(folder):
        return subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], env=env)

    victim = start(tmp_path / "killed")
    log = tmp_path / "killed/log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= 6) and time.monotonic() < deadline:
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert start(tmp_path / "killed").wait(240) == 0
    assert start(tmp_path / "whole").wait(240) == 0
    for name in ("log.jsonl", "final.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_reward_that_is_no_number_never_reaches_the_posterior(wrapped):
    before, planner = state(wrapped), wrapped.planner
    with pytest.raises(ValueError, match="the reward of episode 0 .* is nan"):
        arr_coc.learn(wrapped, questions(2), lambda prediction, sample: float("nan"), episodes=2, progress=False)
    after = state(wrapped)
    assert before[0] == after[0] and wrapped.planner is planner and not planner.explore


def test_the_target_moves_the_price(reference):
    model, processor = reference
    prices = []
    for target in (0.17, 1.0):
        with arr_coc.wrap(model, processor, ArrCocConfig(price=0.1)) as arr:
            arr_coc.learn(arr, questions(8), episodes=8, batch_size=2, target=target, progress=False)
            prices.append(arr.planner.price)
    assert prices[0] > 0.1 > prices[1]


def test_bad_input_is_named(wrapped, reference, tmp_path):
    data = questions(2)
    with pytest.raises(ValueError, match="ended after 2 of 3 episodes"):
        arr_coc.learn(wrapped, iter(data), episodes=3, progress=False)
    with pytest.raises(ValueError, match="sample 0 has no 'question'"):
        arr_coc.learn(wrapped, [{"image": data[0]["image"]}], episodes=1, progress=False)
    with pytest.raises(ValueError, match="the dataset is empty"):
        arr_coc.learn(wrapped, [], episodes=1, progress=False)
    with pytest.raises(ValueError, match="episodes=0"):
        arr_coc.learn(wrapped, data, episodes=0)
    with pytest.raises(ValueError, match="target=1.5"):
        arr_coc.learn(wrapped, data, target=1.5)
    model, processor = reference
    wrapped.detach()
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="uniform", budget=64)) as arr:
        with pytest.raises(ValueError, match="learns nothing from rewards"):
            arr_coc.learn(arr, data)
    (tmp_path / "state.json").write_text("{}")
    with arr_coc.wrap(model, processor) as arr, pytest.raises(ValueError, match="no readable checkpoint"):
        arr_coc.learn(arr, data, episodes=2, out=tmp_path, resume=True, progress=False)


def test_learning_moves_budgets_to_where_reward_needs_them(reference):
    """A made-up reward that pays for 400 tokens on the first patch alone is learned within a few hundred rewards."""
    model, processor = reference
    # Without doubt: what the glance is sure of, this reward pays for all the same.
    with arr_coc.wrap(model, processor, ArrCocConfig(price=0.2, seed=1, confidence=False)) as arr:
        planner, data = arr.planner, questions(6)
        plans = []

        class Keep:
            needs = planner.needs

            def plan(self, scene):
                plans.append(scene)
                return planner.plan(scene)

        arr.planner = Keep()
        with torch.no_grad():
            for sample in data:
                model.generate(**processor(images=sample["image"], text=sample["question"]))
        planner.explore = True
        for i in range(300):
            decision = planner.plan(plans[i % 6]).decision
            best = int(decision.contexts[:, planner.contexts.slots.index("relevance_doubt")].argmax())
            planner.policy.update(decision, float(decision.index[best] == 3))
        planner.explore = False
        learned = [planner.plan(scene) for scene in plans]
        assert all(plan.budgets[int(plan.scores["participatory"].argmax())] == 400 for plan in learned)
        # A comparison looks at two patches alike, so its second one may be raised too; the others stay low.
        assert sum(sum(plan.budgets) for plan in learned) < 0.5 * 1600 * len(plans)


READINGS = ("propositional", "perspectival", "participatory")


def test_a_share_of_the_questions_is_also_answered_otherwise(wrapped, reference, tmp_path):
    data = questions(8)
    log = arr_coc.learn(wrapped, data, episodes=8, batch_size=4, counterfactuals=0.5, out=tmp_path, progress=False)
    told = [record for record in log if "counterfactuals" in record]
    assert 0 < len(told) < 8
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line.get("counterfactuals") for line in lines] == [record.get("counterfactuals") for record in log]
    model, processor = reference
    score = make_reward("vqa_accuracy")
    for record in told:
        sets, sample = record["counterfactuals"], data[record["episode"]]
        assert set(sets) == {"floor", "full", "random", *(f"first by {name}" for name in READINGS)}
        assert sets["full"]["tokens"] == record["full_tokens"] > sets["random"]["tokens"] > sets["floor"]["tokens"]
        for name, budgets in (("floor", [64] * 4), ("full", [400] * 4)):
            inputs = prepare(processor, [sample["image"]], [sample["question"]])
            sequences = model.generate(**inputs, do_sample=False, allocation=[budgets])
            (text,) = answers(processor, inputs["input_ids"], sequences)
            assert sets[name]["reward"] == score(text, sample)
        assert all(one["gain"] == one["reward"] - record["reward"] for one in sets.values())
    # What is learned and asked is as without them.
    wrapped.detach()
    with arr_coc.wrap(*reference, ArrCocConfig(policy="thompson", seed=3)) as arr:
        plain = arr_coc.learn(arr, data, episodes=8, batch_size=4, progress=False)
    assert plain == [{k: v for k, v in record.items() if k != "counterfactuals"} for record in log]


@pytest.mark.parametrize("share", [-0.1, 1.5, "all"])
def test_a_share_of_counterfactuals_is_a_share(share, wrapped):
    with pytest.raises(ValueError, match="must be a share of the questions"):
        arr_coc.learn(wrapped, questions(1), episodes=1, counterfactuals=share, progress=False)
