"""Relevance is a role: a scorer of one's own that reads the question steers the budgets as the built-in one does."""

from __future__ import annotations

import pytest
import torch

import arr_coc
from arr_coc import ArrCocConfig
from arr_coc.asking.ask import prepare
from arr_coc.attending.planners import Contexts, PolicyPlanner, build_policy
from arr_coc.balancing import Balancer
from arr_coc.knowing import Scorer, make_scorer, register_scorer
from arr_coc.knowing import base as registry
from arr_coc.knowing.participatory import Participatory
from arr_coc.knowing.relevance import Relevance
from arr_coc.reference import generate
from tests.knowing.planted import blank, scene, text

BUDGETS = (64, 128, 256, 400)
WHERE = {"top left": 0, "top right": 1, "bottom left": 2, "bottom right": 3}


class Pointer(Scorer):
    """Looks at the corner that the question names; knows nothing of `Participatory`, and has no map of its own."""

    name, reads_question = "pointer", True

    def score(self, scene):
        scores = torch.full((len(scene.patches),), 0.001)
        scores[[place for words, place in WHERE.items() if words in scene.question]] = 0.6
        return scores


class BlindPointer(Pointer):
    reads_question = False


class Fixed(Scorer):
    def __init__(self, name, values, reads_question=False):
        self.name, self.values, self.reads_question, self.calls = name, torch.tensor(values), reads_question, 0

    def score(self, scene):
        self.calls += 1
        return self.values


@pytest.fixture
def pointer(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    register_scorer("pointer", Pointer)


@pytest.mark.usefixtures("pointer")
@pytest.mark.parametrize("scorers", [("propositional", "perspectival", "pointer"), ("pointer",)])
def test_a_third_partys_scorer_pays_for_the_patch_that_is_asked_about_and_for_no_other(reference, scorers):
    model, processor = reference
    (sample,) = generate(1, seed=11, grid=(2, 2))
    config = ArrCocConfig(policy="heuristic", scorers=scorers, confidence=False)
    with arr_coc.wrap(model, processor, config) as arr:
        for words, place in WHERE.items():
            question = f"what is on the sign in the {words} ?"
            model.generate(**prepare(processor, [sample["image"]], [question]), max_new_tokens=1)
            budgets = arr.last[0].budgets
            assert budgets[place] > 64, (words, budgets)
            assert [b for i, b in enumerate(budgets) if i != place] == [64, 64, 64], (words, budgets)


def test_without_the_role_it_is_only_averaged(reference):
    """What went wrong before there was a flag; the contract checks of `arr_coc.testing` name it."""
    contexts = Contexts(BUDGETS, [make_scorer("propositional"), BlindPointer()], confidence=False)
    assert contexts.relevance.readers == [] and len(contexts.relevance.blind) == 2


def asked(question="what is in the top right ?"):
    return scene([text(), blank(), text(), text()], question=question, words=torch.eye(3, 4))


def test_the_role_takes_the_one_reader_as_it_is_whatever_its_class_and_name():
    scorers = [Fixed("a", [0.1, 0.9, 0.5, 0.0]), Fixed("b", [0.2, 0.4, 0.0, 0.1], True)]
    one = Contexts(BUDGETS, scorers, False, slots="gated")
    assert one.slots[-1] == "relevance_doubt a" and "relevance_doubt b" not in one.slots
    vectors, _, scores = one(asked())
    assert torch.allclose(vectors[:, 0], torch.tensor([0.5, 1.0, 0.0, 0.25]))
    assert torch.allclose(vectors[:, -1], torch.tensor([0.05, 0.9, 0.0, 0.0]))
    assert set(scores) == {"a", "b"}


def test_several_readers_count_alike_each_by_its_own_best_patch():
    mass, cosine = Fixed("mass", [0.02, 0.01, 0.0, 0.0], True), Fixed("cosine", [0.2, 0.8, 0.4, 0.0], True)
    both = Relevance([mass, Fixed("blind", [1.0, 1.0, 1.0, 1.0]), cosine])
    want = torch.tensor([0.625, 0.75, 0.25, 0.0])
    assert torch.allclose(both(asked()), want)
    assert [r.name for r in both.readers] == ["mass", "cosine"] and both.name == "relevance"
    contexts = Contexts(BUDGETS, [mass, cosine], False, slots="gated")
    vectors = contexts(asked())[0]
    assert torch.allclose(vectors[:, 0], want / 0.75)
    # Each one's own word is a slot, so that a learner can come to trust one of them.
    assert contexts.slots[-2:] == ["relevance_doubt mass", "relevance_doubt cosine"]
    assert torch.allclose(vectors[:, -1], want / 0.75 * torch.tensor([0.25, 1.0, 0.5, 0.0]))
    for patch, cells in zip(want, both.cell_map(asked()), strict=True):
        assert cells.shape == (64,) and torch.allclose(cells.sum(), patch, atol=1e-6)


def test_without_a_reader_the_mean_of_all_stands_in():
    found = Relevance([Fixed("a", [0.0, 0.4, 0.0, 0.2]), Fixed("b", [0.2, 0.0, 0.0, 0.2])])
    assert found.readers == [] and torch.allclose(found(asked()), torch.tensor([0.1, 0.2, 0.0, 0.2]))


def test_the_default_map_spreads_a_score_over_its_patch_and_asks_for_it_once():
    scorer = Fixed("even", [0.2, 0.4, 0.0, 0.1], True)
    cells = scorer.cell_map(asked())
    assert torch.allclose(torch.stack(cells), scorer.values[:, None].expand(4, 64) / 64)
    scorer.calls = 0
    contexts = Contexts(BUDGETS, [scorer], False)
    contexts(asked())
    assert scorer.calls == 1


def test_the_one_readers_map_is_handed_on_unchanged():
    attention = torch.rand(3, 2, 256, generator=torch.Generator().manual_seed(0)) / 256
    seen = scene([blank()] * 4, attention=attention)
    for got, want in zip(Relevance([Participatory()]).cell_map(seen), Participatory().cell_map(seen), strict=True):
        assert torch.equal(got, want)


def test_balancing_reads_the_same_relevance():
    scores = {"a": torch.tensor([1.0, 0.0, 0.0, 0.0]), "b": torch.full((4,), 0.25)}
    flat = Balancer(relevance=Relevance([Fixed("a", [0.0]), Fixed("b", [0.0], True)]).join)(asked(), scores, 0.1)
    peaked = Balancer(relevance=Relevance([Fixed("a", [0.0], True), Fixed("b", [0.0])]).join)(asked(), scores, 0.1)
    assert flat.log["flatness"] == pytest.approx(1) and peaked.log["flatness"] == pytest.approx(0)
    config = ArrCocConfig(
        policy="heuristic", tensions=("coverage",), confidence=False, budgets=(64, 128, 256, 400)
    )  # fmt: skip
    contexts = Contexts(config.budgets, [Fixed("a", [1.0, 0.0, 0.0, 0.0], True), Fixed("b", [0.25] * 4)], False)
    plan = PolicyPlanner(config, contexts, build_policy(config, contexts)).plan(asked())
    assert plan.tension["flatness"] == pytest.approx(0)


def test_two_scorers_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"\['x', 'x'\] have a name twice"):
        Relevance([Fixed("x", [0.0]), Fixed("x", [0.0], True)])
