"""The contract tests that others import: our own parts pass them, and every rule can fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allocator import make_policy
from arr_coc.families import family_for
from arr_coc.knowing import Scorer, make_scorer
from arr_coc.learning.rewards import make_reward, reward_names
from arr_coc.testing import Broken, check_family, check_policy, check_realizer, check_reward, check_scorer, make_scene
from tests import tiny

BUDGETS = (4, 16, 36, 64)
RNG = np.random.default_rng(0)
OURS = ("propositional", "perspectival", "perspectival:glance", "participatory", "participatory:embedding")


@pytest.mark.parametrize("name", OURS)
def test_our_scorers_keep_the_contract(name):
    check_scorer(name)
    assert make_scorer(name).reads_question is name.startswith("participatory")


class Even(Scorer):
    name = "even"

    def score(self, scene):
        return torch.full((len(scene.patches),), 0.5)


class Reader(Even):
    name, reads_question = "reader", True

    def score(self, scene):
        return torch.full((len(scene.patches),), len(scene.question) / 100)


def broken(base=Even, **changes):
    return type("Broken", (base,), changes)()


class Remembers(Even):
    def score(self, scene):
        self.calls = getattr(self, "calls", 0) + 1
        return torch.full((len(scene.patches),), 1 / self.calls)


class Paints(Even):
    def score(self, scene):
        for pixels in scene.pixels:
            pixels.zero_()
        return super().score(scene)


@pytest.mark.parametrize(
    ("scorer", "rule"),
    [
        (broken(name="scorer"), "needs a `name`"),
        (broken(needs=frozenset({"sound"})), "needs="),
        (broken(reads_question=1), "reads_question must be"),
        (broken(reads_question=True), "says it reads the question"),
        (broken(Reader, reads_question=False), "set reads_question = True"),
        (Remembers(), "scored otherwise"),
        (Paints(), "changes the scene"),
        (broken(cell_map=lambda self, scene: [torch.ones(3)] * len(scene.patches)), "one number per glance cell"),
        (broken(cell_map=lambda self, scene: [-torch.ones(64)] * len(scene.patches)), "finite numbers >= 0"),
        ("not a scorer", "Unknown scorer"),
    ],
)
def test_a_scorer_that_breaks_a_rule_is_told_which(scorer, rule):
    check_scorer(Even())
    check_scorer(Reader())
    with pytest.raises((Broken, ValueError), match=rule):
        check_scorer(scorer)


def test_scenes_differ_by_question_and_not_otherwise():
    one, same, other = make_scene("who ?"), make_scene("who ?"), make_scene("where to ?")
    assert torch.equal(one.read_attention([-1]), same.read_attention([-1]))
    assert not torch.equal(one.read_attention([-1]), other.read_attention([-1]))
    assert all(torch.equal(a, b) for a, b in zip(one.pixels, other.pixels, strict=True))


SAMPLES = {"pope_accuracy": {"question": "is it ?", "answers": ["yes"], "answer": "yes"}}


@pytest.mark.parametrize("name", [n for n in reward_names()])
def test_our_rewards_keep_the_contract(name):
    check_reward(name, SAMPLES.get(name))


@pytest.mark.parametrize(
    ("reward", "rule"),
    [
        (lambda answer, sample: 2.0, "no number in"),
        (lambda answer, sample: float("nan"), "no number in"),
        (lambda answer, sample: 0.0, "is worth nothing"),
        (lambda answer, sample: min(1.0, len(answer) / 100), "worth less than"),
        (lambda answer, sample: float(RNG.random()), "something else each time"),
        (lambda answer, sample: sample.update(seen=True) or 1.0, "changes the sample"),
    ],
)
def test_a_reward_that_breaks_a_rule_is_told_which(reward, rule):
    with pytest.raises(Broken, match=rule):
        check_reward(reward)
    check_reward(make_reward("anls"))


def shifted(name, **changes):
    policy = make_policy(name, dim=6, arms=4, covariates=2, seed=3)
    kind = type("Broken", (type(policy),), changes)
    policy.__class__ = kind
    return policy


def test_a_policy_that_breaks_a_rule_is_told_which():
    base = type(make_policy("thompson", dim=6, arms=4, covariates=2))

    def unseeded(self, *args, **kwargs):
        self.generator = np.random.default_rng()
        return base.select(self, *args, **kwargs)

    def learns_nothing_of_it(self, path):
        fresh = make_policy("thompson", dim=6, arms=4, covariates=2, seed=3)
        fresh.save(path)

    check_policy("thompson")
    with pytest.raises(Broken, match="two of one seed"):
        check_policy(lambda: shifted("thompson", select=unseeded))
    with pytest.raises(Broken, match="goes on otherwise|is loaded as"):
        check_policy(lambda: shifted("thompson", save=learns_nothing_of_it))
    with pytest.raises(Broken, match="rounds|rewards"):
        check_policy(lambda: shifted("thompson", update=lambda self, decision, reward: None))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "reference"])
def test_our_families_and_realizers_keep_the_contract(name):
    model = tiny.build(name)
    inputs = model.make([[3, (16, 16), 4], [5, (8, 16), 2]], left=True)
    check_family(model.model, inputs, BUDGETS)
    for realizer in ("rescale", "pool", "select"):
        check_realizer(realizer, model.model, inputs, BUDGETS)


def test_a_family_that_breaks_a_rule_is_told_which(monkeypatch):
    model = tiny.build("reference")
    inputs = model.make([[3, (16, 16), 4]], left=True)
    family = family_for(model.model)
    kind, real = type(family), type(family).layout
    monkeypatch.setattr(kind, "layout", lambda self, m, i: real(self, m, i) * 2)
    with pytest.raises(Broken, match="layout tells 512 rows for 256"):
        check_family(model.model, inputs, BUDGETS)
    monkeypatch.setattr(kind, "layout", real)
    encode = kind.encode

    def short(self, m, i, **extra):
        found = encode(self, m, i, **extra)
        found.streams = tuple(stream[1:] for stream in found.streams)
        return found

    monkeypatch.setattr(kind, "encode", short)
    with pytest.raises(Broken, match="encode gives"):
        check_family(model.model, inputs, BUDGETS)
