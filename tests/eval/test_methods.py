"""Each baseline does what its name says, in a world where every right answer is known."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arr_coc.attending.planners import PolicyPlanner
from arr_coc.knowing import Scorer
from arr_coc.knowing import base as knowing
from arr_coc.learning.rewards import make_reward
from eval.methods import NotApplicable, make_method, method_names
from eval.methods.fixed import Same, tilted
from eval.model.bench import Bench
from tests.eval.fakes import FakeArr, make_samples


def ask(spec, samples, arr=None, **kwargs):
    bench = Bench(arr or FakeArr(), make_reward("vqa_accuracy"), **kwargs)
    method = make_method(spec)
    method.prepare(bench)
    answers = method.answer(bench, samples)
    return answers, [bench.reward(a.text, s) for a, s in zip(answers, samples, strict=True)]


def test_full_is_untouched_and_counts_its_tokens(samples):
    arr = FakeArr()
    answers, scores = ask("full", samples, arr)
    assert scores == [1.0] * len(samples)
    assert {(a.tokens, a.full_tokens) for a in answers} == {(1600, 1600)}
    assert all(not a.budgets and set(a.timings) == {"encode", "prefill", "decode"} for a in answers)
    assert arr.attached and not arr.last


def test_blind_sees_nothing_at_the_floor(samples):
    answers, scores = ask("blind", samples)
    assert scores == [0.0] * len(samples)
    assert {a.tokens for a in answers} == {256}


@pytest.mark.parametrize("budget", [64, 128, 256, 400])
def test_uniform_answers_what_its_budget_suffices_for(samples, budget):
    answers, scores = ask(f"uniform-{budget}", samples)
    assert scores == [float(s["level"] <= budget) for s in samples]
    assert {a.tokens for a in answers} == {4 * budget}
    assert answers[0].boxes == [[0, 0, 500, 500], [500, 0, 1000, 500], [0, 500, 500, 1000], [500, 500, 1000, 1000]]
    assert answers[0].timings["prefill"] == pytest.approx(0.1 / len(samples))
    assert answers[0].timings["glance"] == pytest.approx(0.01)


def test_evidence_and_oracle_are_the_cheapest_sufficient(samples):
    want = [3 * 64 + s["level"] for s in samples]
    for spec in ("evidence", "oracle"):
        answers, scores = ask(spec, samples)
        assert scores == [1.0] * len(samples)
        assert [a.tokens for a in answers] == want
    answers, _ = ask({"method": "evidence", "budget": 400}, samples)
    assert {a.tokens for a in answers} == {592}


def test_oracle_control_can_only_be_lucky(samples):
    answers, scores = ask({"method": "oracle", "where": "elsewhere"}, samples)
    assert scores == [float(s["level"] == 64) for s in samples]
    # Where it fails it keeps the first, cheapest try.
    assert {a.tokens for a in answers} == {256}


def test_oracle_does_not_ask_again_what_is_answered(samples):
    arr = FakeArr()
    ask("oracle", samples, arr)
    tries = {64: 1, 128: 2, 256: 3, 400: 4}
    assert len(arr.answered) == sum(tries[s["level"]] for s in samples)


def test_an_absence_has_all_patches_as_evidence(samples):
    sample = {**samples[0], "evidence": [], "level": 128}
    (answer,), _ = ask("evidence", [sample])
    assert answer.budgets == [128] * 4


def test_oracle_needs_known_evidence(samples):
    sample = {k: v for k, v in samples[0].items() if k != "evidence"}
    with pytest.raises(NotApplicable, match="does not say where the evidence is"):
        ask("oracle", [sample])


def test_random_matches_the_mean_and_ignores_the_batch():
    samples = make_samples(300)
    answers, _ = ask({"method": "random", "share": 0.37}, samples)
    share = sum(a.tokens for a in answers) / sum(a.full_tokens for a in answers)
    assert share == pytest.approx(0.37, abs=0.02)
    alone = [ask({"method": "random", "share": 0.37}, [s])[0][0].budgets for s in samples[:20]]
    assert alone == [a.budgets for a in answers[:20]]
    other, _ = ask({"method": "random", "share": 0.37, "seed": 1}, samples)
    assert [a.budgets for a in other] != [a.budgets for a in answers]
    assert len({tuple(a.budgets) for a in answers}) > 50


def test_random_takes_the_measured_share_of_another(samples):
    answers, _ = ask({"method": "random", "match": "learned"}, samples, shares={"learned": 0.16})
    assert {a.tokens for a in answers} == {256}
    with pytest.raises(ValueError, match="'learned' has not been measured"):
        ask({"method": "random", "match": "learned"}, samples)
    with pytest.raises(ValueError, match="either share= .* or match="):
        ask("random", samples)


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(1, 500), min_size=4, max_size=4), min_size=1, max_size=6), st.floats(0.01, 1.0))
def test_tilted_choice_has_the_wanted_mean_within_reach(costs, share):
    costs = np.sort(np.array(costs), axis=1)
    p = tilted(costs, share)
    assert p.sum(1) == pytest.approx(np.ones(len(p)))
    floor, full = costs[:, 0].sum(), costs[:, -1].sum()
    want = np.clip(share * full, floor, full)
    assert (p * costs).sum() == pytest.approx(want, abs=0.01 * full)


def test_downsample_spends_at_most_the_share(samples):
    answers, scores = ask({"method": "downsample", "share": 0.4}, samples)
    assert {(a.tokens, a.full_tokens) for a in answers} == {(400, 1600)}
    assert scores == [float(s["evidence"] == [0]) for s in samples]  # the one patch left of four
    assert {a.tokens for a in ask({"method": "downsample", "share": 1.0}, samples)[0]} == {1600}


def test_downsample_of_what_cannot_shrink_is_reported_as_spent(samples):
    small = {**samples[0], "image": samples[0]["image"].crop((0, 0, 160, 160))}
    (answer,), _ = ask({"method": "downsample", "share": 0.4}, [small])
    assert answer.tokens == answer.full_tokens == 400


def test_learned_uses_the_planner_of_the_wrapper(samples):
    planner = Same(128)
    arr = FakeArr(planner=planner)
    answers, _ = ask("learned", samples, arr, learned=True)
    assert {a.tokens for a in answers} == {512} and arr.planner is planner
    with pytest.raises(NotApplicable, match="no learned policy"):
        ask("learned", samples, arr)


def test_a_failing_call_puts_the_planner_back(samples):
    arr = FakeArr(planner="its own")
    arr.fail_after = 0
    with pytest.raises(KeyboardInterrupt):
        ask("uniform-64", samples, arr)
    assert arr.planner == "its own"
    with pytest.raises(KeyboardInterrupt):
        ask("full", samples, arr)
    assert arr.attached


def test_names_and_settings_are_checked():
    assert {"full", "blind", "uniform", "random", "oracle", "learned", "downsample"} <= set(method_names())
    assert make_method("uniform-64").label == "uniform-64"
    assert make_method({"method": "random", "match": "learned", "seed": 2}).label == "random-2-at-learned"
    assert make_method({"method": "random", "share": 0.5, "label": "dice"}).label == "dice"
    with pytest.raises(ValueError, match="unknown method 'unifrom-64'. Did you mean 'uniform'"):
        make_method("unifrom-64")
    with pytest.raises(ValueError, match="no setting 'buget'. Did you mean 'budget'"):
        make_method({"method": "uniform", "buget": 64})
    with pytest.raises(TypeError, match="must be a name or a mapping"):
        make_method(64)
    with pytest.raises(ValueError, match="budget 100 must be one of the budgets"):
        ask("uniform-100", [])


class FakeScorer(Scorer):
    """Scores patches by a given list."""

    def __init__(self, name, scores):
        self.name, self.scores, self.reads_question = name, scores, name == "participatory"

    def score(self, scene):
        return torch.tensor(self.scores)


class Mine(FakeScorer):
    def __init__(self, name, scores):
        super().__init__(name, scores)
        self.reads_question = True


def named(spec):
    """The name in a scorer's specification; the reading that a model brings is a mapping."""
    return spec if isinstance(spec, str) else spec["name"]


def test_relevant_salient_fills_from_the_top_within_its_share(samples, monkeypatch):
    scorers = {"participatory": [0.9, 0.5, 0.2, 0.8], "perspectival": [0.1, 0.9, 0.9, 0.9]}
    scorers["propositional"] = [1.0, 0.0, 0.0, 0.0]
    monkeypatch.setattr("eval.model.bench.make_scorer", lambda spec: FakeScorer(named(spec), scorers[named(spec)]))
    answers, _ = ask({"method": "relevant-salient", "share": 0.6}, samples)
    assert {tuple(a.budgets) for a in answers} == {(64, 400, 64, 400)}  # products .09 .45 .18 .72
    answers, _ = ask({"method": "relevant-salient", "share": 0.36}, samples)
    assert {tuple(a.budgets) for a in answers} == {(64, 128, 128, 256)}  # full detail of one would need 37 %


def test_top_patch_spends_on_the_first_rank(samples, monkeypatch):
    monkeypatch.setattr("eval.model.bench.make_scorer", lambda spec: FakeScorer(named(spec), [0.1, 0.2, 0.9, 0.3]))
    answers, scores = ask("top-patch-400", samples)
    assert {tuple(a.budgets) for a in answers} == {(64, 64, 400, 64)}
    assert scores == [float(s["level"] == 64 or s["evidence"] == [2]) for s in samples]


@pytest.mark.parametrize(("sure", "budget"), [(0.99, 64), (0.6, 128), (0.3, 256), (0.1, 400)])
def test_chooser_spends_by_doubt(samples, sure, budget):
    method = make_method("chooser")
    method.prepare(Bench(FakeArr(), make_reward("vqa_accuracy")))
    rest = (1 - sure) / 20
    scene = SimpleNamespace(glance_answer=lambda: torch.tensor([sure] + [rest] * 20).log(), patches=[0, 1])
    assert method.planner(None, None).plan(scene).budgets == [budget] * 2


def test_policies_are_made_from_the_wrappers_configuration():
    def made(spec):
        method = make_method(spec)
        method.prepare(Bench(FakeArr(), make_reward("vqa_accuracy"), shares={"learned": 0.4}))
        return method.planner(None, None)

    free, matched = made({"method": "heuristic", "price": 0.1}), made({"method": "saliency", "match": "learned"})
    assert (free.config.policy, free.price, free.config.limit) == ("heuristic", 0.1, None)
    assert (matched.config.policy, matched.price, matched.config.scorers) == ("heuristic", 0.0, ("perspectival",))
    with pytest.raises(ValueError, match="only policies that look"):
        made({"method": "policy", "policy": "random", "match": "learned"})


def test_a_matched_policy_spends_the_share_or_its_floors(monkeypatch):
    """A small picture whose floors alone cost more than the share must not end the run."""
    method = make_method({"method": "saliency", "match": "learned"})
    method.prepare(Bench(FakeArr(), make_reward("vqa_accuracy"), shares={"learned": 0.3}))
    planner, limits = method.planner(None, None), []
    monkeypatch.setattr(PolicyPlanner, "plan", lambda self, scene: limits.append(self.config.limit))
    for costs in ([[64, 400]] * 4, [[64, 100]] * 2):
        planner.plan(SimpleNamespace(costs=torch.tensor(costs)))
    assert limits == [480, 128]


def test_scorers_of_baselines_have_the_options_of_the_wrapped_model():
    arr = FakeArr()
    spec = {"name": "participatory", "layers": [0.5], "heads": "mean"}
    arr.config = dataclasses.replace(arr.config, scorers=("perspectival", spec))
    bench = Bench(arr, make_reward("vqa_accuracy"))
    assert bench.scorer("participatory").layers == (0.5,) and not bench.scorer("participatory").sharp
    assert [bench.scorer(name).name for name in ("perspectival", "propositional")] == ["perspectival", "propositional"]
    assert bench.relevance().readers[0].layers == (0.5,)


def test_what_is_relevant_is_told_by_the_scorer_that_reads_the_question_whatever_its_name(monkeypatch):
    monkeypatch.setattr(knowing, "_registered", {"mine": lambda: Mine("mine", [0.1, 0.2, 0.9, 0.3])})
    arr = FakeArr()
    arr.config = dataclasses.replace(arr.config, scorers=("perspectival", "mine"))
    assert Bench(arr, None).relevance().name == "mine"
    arr.config = dataclasses.replace(arr.config, scorers=("perspectival",))
    assert Bench(arr, None).relevance().name == "participatory"
