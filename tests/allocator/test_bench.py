"""The benchmark runs end to end and never overwrites a record."""

import json

import pytest

from allocator import policy_class, policy_names
from eval.bandits import modifiers
from eval.bandits.__main__ import main
from eval.bandits.extras import optional
from eval.bandits.off_policy import ours
from eval.bandits.peers import PEERS
from eval.bandits.report import GROUPS, contest, interval, markdown, overview
from eval.bandits.split import SplitReward
from eval.bandits.tasks import SLOW, TASKS, noise_floor


def test_a_small_run_writes_record_table_and_picture(tmp_path):
    tasks = ["--tasks", "wine", "cn-h1", "modifiers"]
    out = main(["--out", str(tmp_path / "run"), *tasks, "--seeds", "2", "--rounds", "12", "--no-speed"])
    record = json.loads((out / "results.json").read_text())
    assert set(record["tasks"]) == {"wine", "cn-h1"}
    found = record["tasks"]["wine"]["linucb alpha .25"]
    assert len(found["regret"]) == 2 and found["regret"][0] + found["reward"][0] == pytest.approx(12)
    assert found["curves"][1][-1] == pytest.approx(found["regret"][1])
    assert "linucb alpha .25" in (out / "results.md").read_text()
    for group in ("classification", "combinatorial"):
        assert (out / f"regret-{group}.png").stat().st_size > 5000
    assert not (out / "regret-full-bandit.png").exists()
    text = (out / "results.md").read_text()
    assert markdown(record) == text
    assert "![cumulative regret](regret-combinatorial.png)" in text and "full-bandit" not in text
    assert all(len(row[kind]) == 2 for row in record["modifiers"] for kind in ("without", "with it"))
    assert "| price tracker, 900 tokens | thompson | tokens per decision |" in text
    with pytest.raises(SystemExit):
        main(["--out", str(out), "--tasks", "wine"])
    main(
        ["--out", str(out), "--tasks", "wine", "iris", "--methods", "random", "--seeds", "1", "--rounds", "12"]
        + ["--no-speed", "--resume"]
    )
    resumed = json.loads((out / "results.json").read_text())
    assert resumed["tasks"]["wine"] == record["tasks"]["wine"] and list(resumed["tasks"]["iris"]) == ["random"]
    assert len(resumed["commands"]) == 2
    more = ["--out", str(out), "--tasks", "wine", "cn-h2", "--methods", "linucb alpha .25", "--no-speed", "--resume"]
    main([*more, "--seeds", "3", "--rounds", "12"])
    grown = json.loads((out / "results.json").read_text())["tasks"]["wine"]["linucb alpha .25"]
    assert len(grown["regret"]) == 3 and grown["regret"][:2] == found["regret"]
    with pytest.raises(ValueError, match="holds 12 rounds of 'linucb alpha .25' on wine, not 13"):
        main([*more, "--seeds", "4", "--rounds", "13"])


def test_every_task_is_drawn_and_every_exception_to_the_seeds_exists():
    drawn = [name for names in GROUPS.values() for name in names]
    assert sorted(drawn) == sorted(TASKS)
    for name, label in SLOW:  # a method that was renamed would silently play all seeds
        assert label in PEERS or label in [method[0] for method in TASKS[name].methods]


def test_every_learner_plays_somewhere():
    """The baselines that do not learn are "random" here; "conservative" is judged with the modifiers."""
    played = {method for task in TASKS.values() for _, method, _ in task.methods} | {"conservative"}
    learners = {name for name in policy_names() if policy_class(name).feedback != "none"}
    assert learners | {"random", "windowed", SplitReward} <= played


def test_the_overview_has_a_row_per_method_and_says_where_seeds_are_fewer():
    tasks = {
        "iris": {"a": {"regret": [1.0, 3.0]}, "b": {"regret": [4.0]}},
        "wine": {"b": {"regret": [0.5, 0.5]}, "c": {"regret": [7.0, 7.0]}},
    }
    assert overview(tasks) == [
        {"method": "a", "iris": "2.0 ± 12.7"},
        {"method": "b", "iris": "4.0 ± 0.0 (1 seed)", "wine": "0.5 ± 0.0"},
        {"method": "c", "wine": "7.0 ± 0.0"},
    ]


def test_modifiers_do_what_they_are_for():
    for play, measure in ((modifiers.shares, "share"), (modifiers.conservative, "worst"), (modifiers.price, "tokens")):
        off, on = ({k.split()[0]: v for k, v in play(0, 120, modified).items()}[measure] for modified in (False, True))
        if measure == "tokens":
            assert abs(on - modifiers.TARGET) < 0.2 * abs(off - modifiers.TARGET)
        else:
            assert on > off


def test_the_contest_pairs_the_best_of_each_side_by_seed():
    def found(rewards):
        return {"reward": rewards}

    methods = {
        "a": found([1.0, 2.0, 3.0]),
        "b": found([2.0, 3.0, 4.0]),
        "peer: c": found([2.0, 2.0, 4.0]),
        "peer: d": found([0.0, 0.0, 0.0]),
        "peer: e": found([9.0]),  # played too few seeds
    }
    row = contest("task", methods)
    assert (row["our best"], row["best peer"]) == ("b", "c")
    mean, half = interval([0.0, 1.0, 0.0])
    assert row["ours - peer"] == f"{mean:+.1f} ± {half:.1f}" and half == pytest.approx(
        4.3027 * 3**-0.5 / 3**0.5, rel=1e-4
    )
    assert contest("task", {"a": found([1.0])}) is None


def test_published_regret_counts_the_noise_of_the_best():
    """Hwang et al. count against the best noisy rewards: 4.7 on h1 in 2,000 rounds for the oracle itself."""
    assert noise_floor("cn-h1", seed=0, rounds=200) == pytest.approx(0.48, rel=0.25)


def test_off_policy_values_equal_those_of_obp():
    """Golden values by obp 0.4.1: `eval.bandits.off_policy.theirs()` in an environment that has it."""
    golden = {
        "ips": 0.9006308888603634,
        "snips": 0.9075473528595481,
        "dm": 0.31104164833365516,
        "dr": 0.8944649091833341,
        "sndr": 0.8989453528699367,
        "switch_dr": 0.8371657011296912,
        "ips of a slate": 1.291211949239444,
    }
    assert ours() == pytest.approx(golden, rel=1e-9)


def test_missing_extras_say_what_to_install():
    with pytest.raises(ImportError, match="pip install no-such-library"):
        optional("no_such_library", "no-such-library")
