"""The method that learns inside a run: real answers of the reference model, private to the run, resumable."""

import json

import pytest

import arr_coc
from arr_coc import ArrCocConfig
from eval.config import EvalConfig, TaskConfig
from eval.run import run


@pytest.fixture(scope="module")
def arr():
    model, processor = arr_coc.reference.load()
    with arr_coc.wrap(model, processor, ArrCocConfig(price=0.2)) as arr:
        yield arr


def test_learners_learn_in_the_run_and_leave_the_wrapper_alone(arr, tmp_path):
    planner = arr.planner
    learner = {"method": "learner", "episodes": 8}
    config = EvalConfig(
        out=str(tmp_path / "run"), task=TaskConfig(limit=4), batch_size=4, max_new_tokens=4, resamples=100, overlays=0,
        baselines=["learned"],
        methods=[
            {**learner, "label": "learned", "prices": [0.0, 3.0]},
            {**learner, "label": "no prior", "prior": False},
            {"method": "learned", "of": "no prior", "label": "no prior again"},
            {**learner, "label": "tense", "tensions": ["price", "coverage"], "scorers": ["participatory:embedding"]},
        ],
    )  # fmt: skip
    metrics = run(config, arr, progress=False)
    assert arr.planner is planner and not planner.explore and planner.policy.rounds == 0
    logs = {label: tmp_path / "run" / "learning" / label for label in ("learned", "no prior", "tense")}
    answered = {label: (folder / "log.jsonl").read_text().splitlines() for label, folder in logs.items()}
    assert {label: len(lines) for label, lines in answered.items()} == dict.fromkeys(logs, 8)
    asked = {label: [json.loads(line)["question"] for line in lines] for label, lines in answered.items()}
    assert asked["learned"] == asked["no prior"] == asked["tense"]
    utility = metrics["utility"]
    for label, found in metrics["methods"].items():
        # The share of a question, not of the run, is what a learner is charged.
        rows = [json.loads(r) for r in (tmp_path / "run" / "questions.jsonl").read_text().splitlines()]
        mine = [r for r in rows if r["method"] == label]
        net = sum(r["score"] - 0.05 * r["tokens"] / r["full_tokens"] for r in mine) / len(mine)
        assert utility["methods"][label][0] == pytest.approx(net)
        assert found["tokens"]["mean"] > 0
    assert set(utility["differences"]["learned"]) == {
        "no prior", "no prior again", "tense", "learned at 0", "learned at 3"
    }  # fmt: skip
    budgets = {label: [r["budgets"] for r in rows if r["method"] == label] for label in metrics["methods"]}
    assert budgets["no prior again"] == budgets["no prior"] != budgets["learned"]
    # What was learned, at other prices: free tokens are spent, dear ones are not.
    spent = {label: found["tokens"]["mean"] for label, found in metrics["methods"].items()}
    assert spent["learned at 3"] < spent["learned"] < spent["learned at 0"]
    assert set(logs) == {path.name for path in (tmp_path / "run" / "learning").iterdir()}
    assert "Score less 0.05 times" in (tmp_path / "run" / "report.md").read_text()


def test_tensions_act_on_the_plan_and_are_logged(arr, monkeypatch):
    from arr_coc.attending.planners import make_planner
    from arr_coc.balancing import Balancer

    seen = []
    monkeypatch.setattr(
        Balancer, "__call__", lambda self, *a, call=Balancer.__call__: seen.append(call(self, *a)) or seen[-1]
    )
    (sample,) = arr_coc.reference.generate(1, seed=3, kinds=["number"], grid=(2, 2))
    inputs = arr.processor(images=sample["image"], text=sample["question"])
    own = arr.planner
    try:
        for tensions in ((), ("price", "coverage")):
            config = ArrCocConfig(price=0.2, tensions=tensions)
            arr.planner = make_planner(config, arr.model, arr.processor)
            arr.model.generate(**inputs, max_new_tokens=1)
            assert arr.last[0].tension["price"] == pytest.approx(seen[-1].price)
            named = {"price": "compress", "temperature": "explore", "coverage": "diversify"}
            assert {name for name, sign in named.items() if sign in arr.last[0].tension} == set(tensions)
    finally:
        arr.planner = own
    off, on = seen
    assert off.price == 0.2 and not off.coverage.any() and off.temperature == 1.0
    assert on.price != 0.2 and on.coverage.any() and on.temperature == 1.0


def test_what_a_learner_learned_is_known_after_it_only(arr, tmp_path):
    config = EvalConfig(
        out=str(tmp_path / "run"), task=TaskConfig(limit=1), overlays=0, baselines=[],
        methods=[{"method": "learned", "of": "later"}, {"method": "learner", "episodes": 1, "label": "later"}],
    )  # fmt: skip
    with pytest.raises(ValueError, match="of='later' must be the label of a learner that run.methods lists before"):
        run(config, arr, progress=False)
