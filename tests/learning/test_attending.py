"""From a question to budgets: contexts say what they claim, planners obey limit and price, names are checked."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

import arr_coc
from arr_coc import ArrCocConfig
from arr_coc.asking.ask import prepare
from arr_coc.attending.planners import PolicyPlanner, make_planner
from arr_coc.knowing import make_scorer
from arr_coc.knowing.detail import scene_detail_loss
from arr_coc.reference import generate


class Spy:
    """Keeps the scenes that a planner was shown."""

    def __init__(self, planner):
        self.planner, self.needs, self.scenes = planner, planner.needs, []

    def plan(self, scene):
        self.scenes.append(scene)
        return self.planner.plan(scene)


@pytest.fixture(scope="module")
def samples():
    return list(generate(3, seed=11, grid=(2, 2), kinds=["number", "color"]))


@pytest.fixture(scope="module")
def scenes(reference, samples):
    model, processor = reference
    spy = Spy(make_planner(ArrCocConfig()))
    with arr_coc.wrap(model, processor, planner=spy), torch.no_grad():
        for sample in samples:
            model.generate(**prepare(processor, [sample["image"]], [sample["question"]]))
    return spy.scenes


def test_context_slots_are_named_bounded_and_finite(scenes):
    planner = make_planner(ArrCocConfig())
    for scene in scenes:
        contexts, covariates, scores = planner.contexts(scene)
        assert contexts.shape == (4, len(planner.contexts.slots))
        assert covariates.shape == (len(planner.contexts.covariates),)
        assert contexts.isfinite().all() and contexts.abs().max() < 8
        assert set(scores) == set(ArrCocConfig().scorers)
        at = planner.contexts.slots.index
        relevance = scores["participatory"] / scores["participatory"].max()
        top = scene.glance_answer().exp().sort(descending=True).values
        u = 1 - top[0] + top[1]
        assert covariates[:2].tolist() == pytest.approx([float(u), 1 - float(top[0])], abs=1e-6)
        assert torch.allclose(contexts[:, at("relevance_doubt")], relevance * u)
        assert torch.allclose(contexts[:, at("relevance_doubt doubt")], relevance * u**2)
        propositional = contexts[:, at("relevance_doubt propositional")]
        assert torch.allclose(propositional, relevance * u * scores["propositional"])
        measured = relevance * u >= 0.01
        for b, loss in zip((64, 128, 256), planner.contexts.detail(scene).T, strict=True):
            found = contexts[measured, at(f"relevance_doubt loss_{b}")]
            assert torch.allclose(found, (relevance * u * loss)[measured])
        assert measured.any()


def test_prior_mean_is_relevance_times_doubt_times_restored_detail(scenes):
    planner = make_planner(ArrCocConfig())
    contexts, _, scores = planner.contexts(scenes[0])
    worth = contexts.numpy() @ planner.contexts.prior_mean().T  # [N, K-1]
    at = planner.contexts.slots.index
    lost = [contexts[:, at(f"relevance_doubt loss_{b}")].numpy() for b in (64, 128, 256)] + [np.zeros(4)]
    for k in range(3):
        assert np.allclose(worth[:, k], lost[0] - lost[k + 1], atol=1e-6)
    assert (np.diff(worth, axis=1) > -0.05).all()  # more tokens restore more


def test_typical_detail_is_charged_where_none_is_measured(scenes):
    planner = make_planner(ArrCocConfig(detail=False))
    contexts = planner.contexts(scenes[0])[0]
    at = [planner.contexts.slots.index(f"relevance_doubt loss_{b}") for b in (64, 128, 256)]
    shares = contexts[:, at] / contexts[:, :1]
    assert torch.allclose(shares, torch.tensor([0.24, 0.4 * (1 - 0.32**0.5), 0.08]).expand(4, 3), atol=1e-6)
    measured = make_planner(ArrCocConfig()).contexts
    blind = dataclasses.replace(scenes[0], pixels=None)
    assert torch.equal(measured.detail(blind), planner.contexts.detail(scenes[0]))
    assert not torch.allclose(measured.detail(scenes[0]), measured.detail(blind), atol=0.01)


def test_detail_is_measured_only_where_it_could_be_worth_something(scenes):
    contexts = make_planner(ArrCocConfig()).contexts
    everywhere, worth = contexts.detail(scenes[0]), torch.tensor([0.5, 0.0, 0.0099, 0.01])
    found = contexts.detail(scenes[0], worth)
    assert torch.allclose(found[[0, 3]], everywhere[[0, 3]])
    assert torch.equal(found[1:3], contexts.typical.expand(2, 3))
    assert not torch.allclose(found[1:3], everywhere[1:3], atol=0.01)
    assert torch.equal(contexts.detail(scenes[0], torch.zeros(4)), contexts.typical.expand(4, 3))
    # Each patch by its own cells and its own costs, whatever is left out before it.
    costs = scenes[0].costs.clone()
    costs[3] = torch.tensor([64, 64, 256, 400])
    ragged = dataclasses.replace(scenes[0], costs=costs)
    looks = make_scorer("participatory").cell_map(ragged)
    want = scene_detail_loss(ragged).attended([look / look.sum() for look in looks])[:, :-1]
    assert want[3, 0] == want[3, 1] and want[2, 0] != want[2, 1]
    assert torch.allclose(contexts.detail(ragged), want)
    assert torch.allclose(contexts.detail(ragged, torch.tensor([0.0, 0.0, 0.0, 1.0]))[3], want[3])
    # What a sure glance leaves in doubt is worth little anywhere.
    contexts.doubt = lambda scene: (0.009, 0.009)
    vectors = contexts(scenes[0])[0]
    at = [contexts.slots.index(f"relevance_doubt loss_{b}") for b in (64, 128, 256)]
    assert torch.allclose(vectors[:, at], vectors[:, :1] * contexts.typical)


def test_a_policy_that_goes_by_relevance_alone_has_nothing_else_worked_out(scenes):
    planner = make_planner(ArrCocConfig(policy="heuristic"))
    blind = [scorer for scorer in planner.contexts.scorers if not scorer.reads_question]
    assert len(blind) == 2
    called: list[str] = []
    for scorer in blind:
        score = scorer.score
        scorer.score = lambda scene, score=score, name=scorer.name: called.append(name) or score(scene)
    for scene in scenes:
        lean = planner.plan(scene)
        assert not called and set(lean.scores) == {"participatory"}
        planner.thorough = True
        thorough = planner.plan(scene)
        planner.thorough = False
        assert called == ["propositional", "perspectival"] and set(thorough.scores) == set(ArrCocConfig().scorers)
        called.clear()
        assert lean.budgets == thorough.budgets
        assert torch.equal(lean.scores["participatory"], thorough.scores["participatory"])
        reads = planner.policy.reads
        worth = thorough.decision.contexts[:, 0] >= 0.001
        assert 0 < reads.sum() < len(reads) and worth.any()
        assert np.array_equal(lean.decision.contexts[worth][:, reads], thorough.decision.contexts[worth][:, reads])
        assert np.allclose(lean.decision.values, thorough.decision.values, atol=0.001)
    # Whoever explores, lets tensions act or learns sees all.
    for change in ({"explore": True}, {"config": ArrCocConfig(policy="heuristic", tensions=("temperature",))}):
        changed = copy.copy(planner)
        vars(changed).update(change)
        changed.config = changed.config.resolved()
        assert set(changed.plan(scenes[0]).scores) == set(ArrCocConfig().scorers)
    assert make_planner(ArrCocConfig()).policy.reads is None
    assert set(make_planner(ArrCocConfig()).plan(scenes[0]).scores) == set(ArrCocConfig().scorers)


def test_what_is_kept_of_a_picture_changes_no_plan(scenes):
    """Detail that is kept is that of all patches, used only where there is something to gain."""
    planner = make_planner(ArrCocConfig(policy="heuristic"))
    for scene in scenes:
        fresh = planner.plan(scene)
        kept: dict = {}
        for _ in range(2):
            again = planner.plan(dataclasses.replace(scene, kept=kept))
            assert np.allclose(again.decision.contexts, fresh.decision.contexts, atol=1e-6)
        assert len(kept["detail"][0]) == len(scene.patches)


def test_scorers_can_be_named_with_options(scenes):
    spec = {"name": "participatory", "layers": [-1], "heads": "mean"}
    planner = make_planner(ArrCocConfig(scorers=["propositional", spec]))
    scores = planner.contexts(scenes[0])[2]
    assert torch.equal(
        scores["participatory"], make_scorer("participatory", layers=[-1], heads="mean")(scenes[0]).cpu()
    )
    assert not torch.allclose(scores["participatory"], make_scorer("participatory")(scenes[0]).cpu(), atol=1e-3)
    config = ArrCocConfig(scorers=["propositional", spec])
    assert ArrCocConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="needs its name among them"):
        ArrCocConfig(scorers=[{"layers": [-1]}])
    with pytest.raises(ValueError, match="names one twice"):
        ArrCocConfig(scorers=["participatory", spec])
    with pytest.raises(TypeError, match="sequence of names or mappings"):
        ArrCocConfig(scorers=spec)
    with pytest.raises(ValueError, match="has no option 'layer'.*'layers'"):
        make_planner(ArrCocConfig(scorers=[{"name": "participatory", "layer": [-1]}]))


def test_another_question_in_the_batch_changes_no_bit(reference, samples):
    model, processor = reference
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="heuristic")) as arr:
        model.generate(**prepare(processor, [samples[0]["image"]], [samples[0]["question"]]))
        alone = arr.last[0]
        model.generate(**prepare(processor, [s["image"] for s in samples], [s["question"] for s in samples]))
        together = arr.last[0]
    assert alone.scores == together.scores and alone.budgets == together.budgets


def test_the_question_moves_the_context(reference, samples):
    model, processor = reference
    planner = make_planner(ArrCocConfig())
    spy = Spy(planner)
    with arr_coc.wrap(model, processor, planner=spy):
        for place in ("top left", "bottom right"):
            question = f"what number is on the sign in the {place} ?"
            model.generate(**prepare(processor, [samples[0]["image"]], [question]))
    first, second = (planner.contexts(scene)[2]["participatory"] for scene in spy.scenes)
    assert not torch.allclose(first, second, atol=1e-3)


def test_questions_share_tokens_only_where_they_ask_for_the_same(reference):
    """On one picture: print is paid for where it is asked for, and what a glance answers is paid for nowhere."""
    model, processor = reference
    (sample,) = generate(1, seed=11, grid=(2, 2))  # KEY on a blue circle, PEN on a red triangle, 75 on a pink square
    key, again, pen, number, red, blue = (
        "what word is on the blue circle ?", "what word is on the sign in the top left ?",
        "what word is on the red triangle ?", "what number is on the pink square ?",
        "is there a red sign ?", "is there a blue sign ?",
    )  # fmt: skip
    budgets = {}
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="heuristic")) as arr:
        for question in (key, again, pen, number, red, blue):
            model.generate(**prepare(processor, [sample["image"]], [question]), max_new_tokens=1)
            budgets[question] = arr.last[0].budgets
    assert budgets[key] == budgets[again] == [400, 64, 64, 64]
    assert budgets[pen][2] > 64 and budgets[pen][:2] == [64, 64]
    assert budgets[number][3] > 64 and budgets[number][:3] == [64] * 3
    assert budgets[red] == budgets[blue] == [64] * 4


def test_limit_holds_and_price_saves(reference, samples):
    model, processor = reference
    inputs = prepare(processor, [s["image"] for s in samples], [s["question"] for s in samples])
    spent = []
    for price in (0.0, 0.3, 50.0):
        with arr_coc.wrap(model, processor, ArrCocConfig(policy="heuristic", price=price)) as arr:
            model.generate(**inputs)
            spent.append(sum(a.tokens for a in arr.last))
    assert spent[0] >= spent[1] >= spent[2] == 3 * 256
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="heuristic", price=0.0, limit=0.3)) as arr:
        model.generate(**inputs)
        assert all(a.tokens <= 0.3 * a.full_tokens for a in arr.last)


@pytest.mark.parametrize("policy", ["neural_mixture", "thompson", "ucb", "boltzmann", "epsilon_greedy", "heuristic"])
def test_every_policy_that_looks_can_be_wrapped(reference, samples, policy):
    model, processor = reference
    with arr_coc.wrap(model, processor, ArrCocConfig(policy=policy)) as arr:
        model.generate(**prepare(processor, [samples[0]["image"]], [samples[0]["question"]]))
        assert isinstance(arr.planner, PolicyPlanner)
        assert arr.last[0].decision["policy"] == policy


def test_planners_that_look_at_nothing(reference, samples):
    model, processor = reference
    inputs = prepare(processor, [samples[0]["image"]], [samples[0]["question"]])
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="uniform", budget=128)) as arr:
        model.generate(**inputs)
        assert arr.last[0].budgets == [128] * 4 and "glance" not in arr.last[0].timings
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="random", seed=1, limit=600)) as arr:
        model.generate(**inputs)
        assert arr.last[0].tokens <= 600 and arr.last[0].decision["propensity"] is not None


def test_bad_names_are_answered_with_the_near_match():
    with pytest.raises(ValueError, match="'thomson'.*Did you mean 'thompson'"):
        make_planner(ArrCocConfig(policy="thomson"))
    with pytest.raises(ValueError, match="needs budget="):
        make_planner(ArrCocConfig(policy="uniform"))
    with pytest.raises(ValueError, match=r"generate\(allocation=...\)"):
        make_planner(ArrCocConfig(policy="fixed"))
    with pytest.raises(ValueError, match="Did you mean 'participatory'"):
        make_planner(ArrCocConfig(scorers=("participatry",)))
    with pytest.raises(ValueError, match="at least one scorer"):
        make_planner(ArrCocConfig(scorers=()))
