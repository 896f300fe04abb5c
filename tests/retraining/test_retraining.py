"""The nightly loop against a simulator whose truth is known."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from allocator import Policy
from allocator.logged.judge import judge
from allocator.logged.log import Conflict, DecisionLog
from allocator.logged.rounds import read_rounds
from allocator.storage import replace_file
from arr_coc.cli import app
from arr_coc.serving import nightly as module
from arr_coc.serving import store as versions
from arr_coc.serving.nightly import RetrainConfig, retrain
from arr_coc.serving.store import Store, resolve
from tests.retraining.world import (
    GOOD,
    POOR,
    WEAK,
    believing,
    found,
    make_store,
    mean,
    mixing,
    one_patch,
    question,
    reports,
    serve,
    truth,
)  # fmt: skip


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any, list[Any]]:
    """A weak incumbent, a better policy, a reward model, and 1,500 rounds that the incumbent served."""
    folder = tmp_path_factory.mktemp("pool")
    incumbent, new = believing(*WEAK), believing(*GOOD)
    serve(folder, incumbent, 1700, "0001", seed=5)
    rounds = read_rounds(folder).rounds
    model = believing()
    model.update_many([r.decision for r in rounds[:200]], [r.reward for r in rounds[:200]])
    return incumbent, new, model, rounds[200:]


def test_the_estimate_is_unbiased_and_its_interval_covers_the_truth(pool: Any) -> None:
    """Six disjoint logs of 250 rounds; the reward is not additive, so that the model is misspecified."""
    incumbent, new, model, rounds = pool
    true = truth(new) - truth(incumbent)
    parts = [judge(rounds[k : k + 250], incumbent, new, model, seed=k) for k in range(0, 1500, 250)]
    covered = [j.difference.low <= true <= j.difference.high for j in parts]
    assert sum(covered) >= 5, (true, [(j.difference.low, j.difference.high) for j in parts])
    whole = judge(rounds, incumbent, new, model)
    deviation = (whole.difference.high - whole.difference.low) / 4
    assert abs(whole.difference.value - true) < 3 * deviation
    assert whole.changed > 0.2 and whole.supported > 0.8 and whole.tries > 30
    for side, policy in ((whole.incumbent, incumbent), (whole.new, new)):
        spent = np.mean([_cost(policy, r) for r in rounds[:300]])
        deviation = (side["dr"].high - side["dr"].low) / 4
        assert abs(side["dr"].value - spent - truth(policy)) < 4 * deviation < 0.3
    # A wrong reward model makes it wider, not wrong.
    wrong = believing()
    wrong.update_many([r.decision for r in rounds[:50]], [0.0] * 50)
    other = judge(rounds, incumbent, new, wrong)
    assert abs(other.difference.value - true) < (other.difference.high - other.difference.low)
    assert abs(other.new["dm"].value - whole.new["dr"].value) > 0.1


def _cost(policy: Policy, r: Any) -> float:
    return (
        r.decision.price
        * policy.select(
            r.decision.contexts, r.decision.covariates, r.costs, r.limit, r.decision.price, explore=False
        ).cost
    )


def test_a_policy_equals_itself_exactly(pool: Any) -> None:
    incumbent, _, model, rounds = pool
    same = judge(rounds[:300], incumbent, incumbent, model)
    assert (same.difference.value, same.difference.low, same.difference.high) == (0.0, 0.0, 0.0)
    assert same.changed == 0.0 and same.tokens[0] == same.tokens[1]


def test_what_was_never_tried_counts_as_lost(pool: Any, tmp_path: Path) -> None:
    """Without exploration the log knows nothing of other allocations: no guess may promote them."""
    incumbent, new, model, _ = pool
    serve(tmp_path, incumbent, 400, "0001", share=0.0)
    rounds = read_rounds(tmp_path).rounds
    j = judge(rounds, incumbent, new, model)
    assert j.supported == 0.0 and j.difference.low < -0.5 * j.changed * 0.3 < 0 < j.difference.high
    assert j.slate is None


def test_weights_are_those_of_the_logged_law(pool: Any) -> None:
    """1 / mu averaged over the log is 1 for every allocation that could have been drawn."""
    _, _, _, rounds = pool
    for r in rounds[:200]:
        if r.law is not None:
            assert r.law.log_probability(r.decision.values, r.costs, r.decision.index) == r.decision.log_propensity
            total = sum(
                math.exp(r.law.log_probability(r.decision.values, r.costs, np.array(index)))
                for index in np.ndindex(4, 4, 4)
            )
            assert total == pytest.approx(1.0)


def test_a_better_policy_is_promoted_and_can_be_rolled_back(tmp_path: Path) -> None:
    incumbent = believing(*POOR)
    store = make_store(tmp_path, incumbent)
    serve(tmp_path / "log", incumbent, 1600, "0001")
    assert retrain(tmp_path / "log", store, RetrainConfig(), tmp_path / "strict")["promoted"] is None
    report = retrain(tmp_path / "log", store, RetrainConfig(margin=0.05, reference_margin=0.1, additive=True))
    assert report["promoted"] == "0002" == store.current, report["reason"]
    new = Policy.load(store.folder("0002") / "policy.safetensors")
    assert truth(new) > truth(incumbent)
    log = report["log"]
    assert log["learned from"] + log["judged on"] == log["rounds"] == 1600 and 700 < log["judged on"] < 900
    assert new.posterior.rounds == incumbent.posterior.rounds + log["learned from"]
    facts = store.facts("0002")
    assert facts["before"] == "0001" and len(facts["contexts"]["edges"]) == 3
    (markdown,) = (store.path / "reports").glob("*.md")
    assert "promoted to version 0002" in markdown.read_text()
    assert reports(store) == [json.loads(json.dumps(report))]
    assert resolve(store.path).version == "0002"
    result = CliRunner().invoke(app, ["rollback", str(store.path)])
    assert result.exit_code == 0 and "0002 -> 0001" in result.stdout and store.current == "0001"
    result = CliRunner().invoke(app, ["rollback", str(store.path)])
    assert result.exit_code == 2 and "nothing to go back to" in result.stderr
    assert CliRunner().invoke(app, ["rollback", str(store.path), "--to", "0002"]).exit_code == 0


def test_a_network_is_retrained_judged_and_promoted_like_a_linear_model(tmp_path: Path) -> None:
    incumbent, world = mixing(), {"ask": one_patch, "mean": found}
    store = make_store(tmp_path, incumbent)
    serve(tmp_path / "log", incumbent, 1200, "0001", tau=0.3, ask=one_patch, reward=found)
    report = retrain(tmp_path / "log", store, RetrainConfig(additive=True))
    assert report["promoted"] == "0002" == store.current, report["reason"]
    new: Any = Policy.load(store.folder("0002") / "policy.safetensors")
    assert new.name == "neural_mixture" and new.rounds == report["log"]["learned from"]
    gain = truth(new, 300, **world) - truth(incumbent, 300, **world)
    slate = report["judgement"]["slate"]
    assert gain > 0.15 and slate["low"] < gain < slate["high"]
    # What teaches lies, what judges does not.
    serve(tmp_path / "log", new, 1500, "0000", seed=1, tau=0.3, ask=one_patch, reward=lambda x, i: 1.5 - found(x, i))
    serve(tmp_path / "log", new, 600, "0002", seed=2, tau=0.3, ask=one_patch, reward=found)
    report = retrain(tmp_path / "log", store, RetrainConfig(additive=True))
    assert report["promoted"] is None and store.current == "0002", report["reason"]


def test_a_store_survives_a_kill_between_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first version and the pointer, and between the pointer and its history."""

    class Killed(BaseException):
        pass

    def killed_at(name: str) -> None:
        def replace(path: Path, content: str) -> None:
            if path.name == name:
                raise Killed
            replace_file(path, content)

        monkeypatch.setattr(versions, "replace_file", replace)

    killed_at("current")
    with pytest.raises(Killed):
        make_store(tmp_path, believing(*WEAK))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds versions already"):  # not what it was begun with
        make_store(tmp_path, believing(*GOOD))
    store = make_store(tmp_path, believing(*WEAK))
    assert store.versions == ["0001"] and store.current == "0001"
    store.add(lambda new: shutil.copytree(store.folder("0001"), new, dirs_exist_ok=True), {})
    killed_at("history.jsonl")
    with pytest.raises(Killed):
        store.point_to("0002")
    monkeypatch.undo()
    assert store.current == "0002"
    assert store.roll_back() == "0001" == store.current
    changes = [json.loads(line) for line in (store.path / "history.jsonl").read_text().splitlines()]
    assert [(c["from"], c["to"]) for c in changes] == [(None, "0001"), ("0001", "0002"), ("0002", "0001")]


def test_rolling_back_again_goes_further_back(tmp_path: Path) -> None:
    store = make_store(tmp_path, believing(*WEAK))
    for name in ("0002", "0003", "0004"):
        store.add(lambda new: shutil.copytree(store.folder("0001"), new, dirs_exist_ok=True), {})
        store.point_to(name)
    assert [store.roll_back() for _ in range(2)] == ["0003", "0002"]
    assert store.roll_back("0004") == "0004" and store.roll_back() == "0002"  # where one was before, not the number
    assert store.roll_back() == "0001"
    with pytest.raises(ValueError, match="nothing to go back to"):
        store.roll_back()


def test_a_worse_policy_is_kept_back_and_a_report_written(tmp_path: Path) -> None:
    """Feedback that lies in what teaches: rounds of another version say that detail harms."""
    incumbent = believing(*GOOD, precision=50.0)
    store = make_store(tmp_path, incumbent)
    serve(tmp_path / "log", incumbent, 800, "0000", seed=1, reward=lambda x, index: 1 - mean(x, index))
    serve(tmp_path / "log", incumbent, 600, "0001", seed=2)
    report = retrain(tmp_path / "log", store, RetrainConfig(margin=0.01))
    assert report["promoted"] is None and store.current == "0001" and store.versions == ["0001"]
    assert "below -0.0100" in report["reason"]
    (markdown,) = (store.path / "reports").glob("*.md")
    assert "the incumbent stays" in markdown.read_text()


def test_too_few_rounds_promote_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path, believing(*WEAK))
    serve(tmp_path / "log", believing(*WEAK), 100, "0001", rewarded=0.7)
    report = retrain(tmp_path / "log", store, RetrainConfig())
    assert report["promoted"] is None and "fewer than 200" in report["reason"] and report["judgement"] is None
    assert report["log"]["decisions"] == 100 and 50 < report["log"]["rounds"] < 90


def test_rounds_that_taught_never_judge_and_none_counts_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    incumbent = believing(*WEAK)
    store = make_store(tmp_path, incumbent)
    serve(tmp_path / "log", incumbent, 300, resolve(tmp_path / "policy").version, seed=1)  # before it had a number
    serve(tmp_path / "log", incumbent, 300, "0001", seed=2)
    serve(tmp_path / "log", incumbent, 50, "0000", seed=3)
    judged: list[Any] = []
    monkeypatch.setattr(module, "judge", lambda rounds, *a, **k: judged.append((rounds, a)) or judge(rounds, *a, **k))
    first = retrain(tmp_path / "log", store, RetrainConfig(margin=1.0, reference_margin=1.0, fewest=100))
    (rounds, (_, _, new)) = judged[0]
    everything = read_rounds(tmp_path / "log").rounds
    names = {r.id for r in rounds}
    teaching = [r for r in everything if r.id not in names]
    again = believing(*WEAK)
    again.update_many([r.decision for r in teaching], [r.reward for r in teaching])
    np.testing.assert_allclose(new.posterior.gram, again.posterior.gram, rtol=1e-12)
    np.testing.assert_allclose(new.posterior.mean, again.posterior.mean, rtol=1e-9)
    assert {r.version for r in rounds} == {"0001", resolve(tmp_path / "policy").version}
    assert first["promoted"] == "0002"
    second = retrain(tmp_path / "log", store, RetrainConfig(fewest=100))
    assert second["log"]["judged on"] == 0  # no round was served by 0002 yet: nothing to judge it by
    assert second["log"]["learned from"] == 650


def test_late_repeated_and_orphaned_rewards(tmp_path: Path) -> None:
    serve(tmp_path, believing(*WEAK), 20, "0001")
    before = read_rounds(tmp_path)
    writer = DecisionLog(tmp_path)
    known = before.rounds[0]
    with pytest.raises(Conflict):
        writer.reward(known.id, 1.0 - known.reward).result()
    assert writer.reward(known.id, known.reward).result().repeated
    writer.reward(known.id[:-4] + "0000", 1.0).result()  # nobody has given such an id
    writer.close()
    after = read_rounds(tmp_path)
    assert [(r.id, r.reward) for r in after.rounds] == [(r.id, r.reward) for r in before.rounds]
    assert (after.decisions, after.orphans, after.damage.lines) == (20, 1, 0)
    assert [r.id for r in read_rounds(tmp_path, last=5).rounds] == [r.id for r in before.rounds[-5:]]
    with pytest.raises(ValueError, match="holds no decision"):
        read_rounds(tmp_path / "none")


def test_a_fallen_reward_makes_it_learn_from_what_came_after(tmp_path: Path) -> None:
    incumbent = believing(*WEAK)
    serve(tmp_path / "before", incumbent, 30, "0000", seed=3)
    known = read_rounds(tmp_path / "before").rounds
    incumbent.update_many([r.decision for r in known], [r.reward for r in known])
    store = make_store(tmp_path, incumbent)
    serve(tmp_path / "log", incumbent, 400, "0001", seed=1, reward=lambda x, index: 0.95)
    serve(tmp_path / "log", incumbent, 400, "0001", seed=2, reward=lambda x, index: 0.3)
    report = retrain(tmp_path / "log", store, RetrainConfig(fewest=50, margin=1.0, reference_margin=1.0))
    (alarm,) = report["drift"]["alarms"]
    assert 400 < alarm["round"] < 500 and report["drift"]["first round"] == alarm["round"] + 1
    assert report["log"]["learned from"] + report["log"]["judged on"] == 799 - alarm["round"]
    new = Policy.load(store.folder(report["promoted"]) / "policy.safetensors")
    first = Policy.load(store.folder("0001") / "policy.safetensors").posterior
    assert new.posterior.rounds == first.rounds + report["log"]["learned from"]  # the prior is kept
    (markdown,) = (store.path / "reports").glob("*.md")
    assert "reward has fallen" in markdown.read_text()


def test_damaged_and_missing_input_is_one_clear_error(tmp_path: Path) -> None:
    def error(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["retrain", *map(str, arguments)])
        assert result.exit_code == 2 and "Traceback" not in result.output, result.output
        return " ".join(result.stderr.split())

    log = tmp_path / "log"
    assert "--incumbent" in error("--log", log, "--out", tmp_path / "s")
    assert "no policy.safetensors" in error("--log", log, "--out", tmp_path / "s", "--incumbent", tmp_path)
    store = make_store(tmp_path, believing(*WEAK))
    assert "holds no decision" in error("--log", log, "--out", store.path)
    assert "margin" in error("--log", log, "--out", store.path, "--margin", "-1")
    assert "holds versions already" in error("--log", log, "--out", store.path, "--incumbent", tmp_path / "policy")
    serve(log, believing(*WEAK), 5, "0001")
    (segment,) = log.glob("*.jsonl")
    record = json.loads(segment.read_text().splitlines()[0])
    record["costs"] = [[64]]
    segment.write_text(json.dumps(record) + "\n" + segment.read_text() + "no record\n")
    joined = read_rounds(log)  # one line must not stop everything
    assert len(joined.rounds) == 5 and joined.damage.lines == 2 and "costs of shape" in joined.damage.places[0]
    (store.path / "current").write_text("0009")
    assert "none of the versions" in error("--log", log, "--out", store.path)


def test_command_line_from_a_saved_policy_to_a_report(tmp_path: Path) -> None:
    incumbent = believing(*WEAK)
    make_store(tmp_path / "made", incumbent)
    serve(tmp_path / "log", incumbent, 60, resolve(tmp_path / "made" / "policy").version)
    arguments = ["retrain", "--log", tmp_path / "log", "--out", tmp_path / "store", "--fewest", 10]
    arguments += ["--incumbent", tmp_path / "made" / "policy"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert "Off-policy" in result.stdout and Store(tmp_path / "store").versions[0] == "0001"


def test_context_shift_is_seen_and_a_stable_stream_is_not() -> None:
    from allocator.logged.shift import PSI_ALARM, ContextReference, Watch, reward_test

    rng = np.random.default_rng(0)
    rows = np.stack([question(rng).mean(axis=0) for _ in range(3000)])
    reference = ContextReference.of(rows[:1000])
    assert reference.psi(rows[1000:1500]).max() < PSI_ALARM < reference.psi(rows[:500] + 0.1).max()
    again = ContextReference.from_dict(json.loads(json.dumps(reference.to_dict())))
    assert (again.psi(rows[1000:1500]) == reference.psi(rows[1000:1500])).all()

    class Shown:
        covariates = np.zeros(0)

        def __init__(self, x: np.ndarray) -> None:
            self.contexts = x

    watch = Watch(reference)
    assert not any(watch.question(Shown(question(rng))) for _ in range(1500))  # type: ignore[arg-type]
    assert sum(watch.question(Shown(question(rng) + 0.1)) for _ in range(1000)) == 1  # type: ignore[arg-type]
    steady, falls = reward_test(), reward_test()
    assert not any(steady.update(float(v)) for v in rng.random(20_000) < 0.6)
    assert not any(falls.update(float(v)) for v in rng.random(500) < 0.9)
    assert any(falls.update(float(v)) for v in rng.random(300) < 0.6)
    assert not any(reward_test().update(float(v)) for v in np.linspace(0, 1, 500))  # learning is no drift
