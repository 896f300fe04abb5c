"""Broken knowing: a filter changes what it says and nothing else, and every policy is told the same."""

import copy
import dataclasses
import shutil

import pytest
import torch

import arr_coc
from allocator import Policy
from arr_coc import ArrCocConfig
from arr_coc.attending.planners import make_planner
from arr_coc.reference import generate
from eval.config import EvalConfig, TaskConfig
from eval.corruptions import Corrupted, corruption_names, make_corruption, register_corruption
from eval.model.bench import Bench
from eval.run import run


class Spy:
    needs = frozenset({"pixels", "glance", "answer"})

    def __init__(self):
        self.scenes = []

    def plan(self, scene):
        self.scenes.append(scene)
        return arr_coc.scene.contract.Plan([64] * len(scene.patches))


@pytest.fixture(scope="module")
def arr():
    model, processor = arr_coc.reference.load()
    with arr_coc.wrap(model, processor, ArrCocConfig(policy="heuristic")) as arr:
        yield arr


@pytest.fixture(scope="module")
def scenes(arr):
    bench, spy = Bench(arr, lambda text, sample: 0.0, shared=True), Spy()
    for sample in generate(3, seed=5, grid=(2, 2), kinds=["number", "word"]):
        bench.cached(sample).plan(spy)
    return spy.scenes


def shares(scene):
    attention = scene.read_attention([-2, -1]).mean((0, 1))
    masses = torch.stack([part.sum() for part in attention.split([r * c for r, c in scene.glance_grids])])
    return masses / masses.sum()


def margin(scene):
    first, second = scene.glance_answer().double().exp().topk(2).values.tolist()
    return 1 - (first - second)


@pytest.mark.parametrize("name", corruption_names())
def test_a_corruption_is_told_alike_and_leaves_the_scene_alone(scenes, name):
    for scene in scenes:
        before = (
            scene.read_attention([-2, -1]).clone(),
            scene.glance_answer().clone(),
            [p.clone() for p in scene.pixels],
        )
        a, b = make_corruption(name)(scene), make_corruption(name)(scene)
        for layers in ([-2, -1], [0, 1]):
            told = a.read_attention(layers)
            assert torch.equal(told, b.read_attention(layers)) and told.isfinite().all() and (told >= 0).all()
            assert len(told) == len(layers)
        assert torch.equal(a.glance_answer(), b.glance_answer())
        assert all(torch.equal(x, y) for x, y in zip(a.pixels, b.pixels, strict=True))
        assert torch.equal(scene.read_attention([-2, -1]), before[0])
        assert torch.equal(scene.glance_answer(), before[1])
        assert all(torch.equal(x, y) for x, y in zip(scene.pixels, before[2], strict=True))


def test_corruptions_do_what_they_say(scenes):
    for scene in scenes:
        clean = shares(scene)
        sink = shares(make_corruption({"name": "sink", "share": 0.9})(scene))
        assert sink[0] >= 0.9 and torch.allclose(sink[1:], 0.1 * clean[1:], atol=1e-5)
        assert torch.equal(shares(make_corruption({"name": "random-relevance", "share": 0.0})(scene)), clean)
        moved = shares(make_corruption({"name": "random-relevance", "share": 1.0})(scene))
        assert torch.allclose(moved.sort().values, clean.sort().values, atol=1e-6)
        turned = shares(make_corruption({"name": "inverted-relevance", "words": ["number", "word"]})(scene))
        assert int(turned.argmin()) == int(clean.argmax())
        assert torch.equal(shares(make_corruption({"name": "inverted-relevance", "words": "zebra"})(scene)), clean)
        column = shares(make_corruption({"name": "last-column", "times": 4.0})(scene))
        assert column[[1, 3]].sum() > clean[[1, 3]].sum()
        deep = make_corruption({"name": "deep-stack", "depth": 20, "at": 0.6})(scene)
        assert torch.equal(deep.read_attention([0.6, 12]), scene.read_attention([-1, -1]))
        assert torch.equal(deep.read_attention([-1, 0.1]), scene.read_attention([0, 0]))
        u = margin(scene)
        doubts = {kind: margin(make_corruption({"name": "doubt", "kind": kind})(scene)) for kind in
                  ("overconfident", "tiny", "inverted")}  # fmt: skip
        assert doubts == pytest.approx({"overconfident": u**4, "tiny": 0.02, "inverted": 1 - u}, abs=1e-5)
        assert int(make_corruption("doubt")(scene).glance_answer().argmax()) == int(scene.glance_answer().argmax())
    assert any(
        not torch.equal(x, y)
        for scene in scenes
        for x, y in zip(make_corruption("shuffled-detail")(scene).pixels, scene.pixels, strict=True)
    )


def test_anyone_can_write_one(scenes):
    @register_corruption("my-own")
    @dataclasses.dataclass(frozen=True)
    class Mine:
        scale: float = 1.0

        def __call__(self, scene):
            return dataclasses.replace(scene, question=scene.question.upper())

    assert make_corruption({"name": "my-own", "scale": 2.0})(scenes[0]).question.isupper()
    planner = make_planner(ArrCocConfig(policy="heuristic"))
    broken = Corrupted(planner.contexts, make_corruption("sink"))
    assert broken.slots == planner.contexts.slots and copy.deepcopy(broken).slots == broken.slots
    assert not torch.allclose(broken(scenes[0])[0], planner.contexts(scenes[0])[0], atol=1e-3)
    for spec, error in (
        ("snik", "Did you mean 'sink'"), ({"name": "sink", "shares": 1}, "Did you mean 'share'"),
        ({"share": 1}, "must be a name or a mapping"), ({"name": "doubt", "kind": "tinny"}, "Did you mean 'tiny'"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=error):
            make_corruption(spec)


def test_learners_of_a_shared_run_learn_side_by_side_what_they_would_alone(arr, tmp_path):
    def config(out, shared):
        learner = {"method": "learner", "episodes": 16, "grid": [2, 2], "corruption": {"name": "sink", "share": 0.97}}
        return EvalConfig(
            out=str(tmp_path / out), task=TaskConfig(limit=2, grid=[2, 2]), batch_size=1, max_new_tokens=4,
            resamples=100, overlays=0, baselines=["uniform-64"], shared=shared,
            methods=[
                "uniform-64",
                {"method": "heuristic", "label": "broken", "corruption": {"name": "sink", "share": 0.97}},
                {**learner, "label": "linear", "policy": "thompson", "caution": 0.0},
                {**learner, "label": "gated", "policy": "thompson", "slots": "gated"},
            ],
        )  # fmt: skip

    run(config("together", True), arr, progress=False)
    run(config("apart", False), arr, progress=False)
    folder = tmp_path / "together" / "learning"
    for label in ("linear", "gated"):
        mine = Policy.load(folder / f"{label}.safetensors")
        (alone,) = (tmp_path / "apart" / "learning" / label).glob("policy-*.safetensors")
        theirs = Policy.load(alone)
        assert mine.rounds == theirs.rounds == 16
        torch.testing.assert_close(mine.posterior.gram, theirs.posterior.gram, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.posterior.moment, theirs.posterior.moment, rtol=1e-4, atol=1e-5)
    assert {f.name for f in folder.iterdir()} == {"linear.safetensors", "gated.safetensors"}
    assert arr.config.policy == "heuristic" and not hasattr(arr.planner.contexts, "corruption")


def test_what_grounds_can_be_found_where_it_stands_unless_nothing_does(scenes):
    scene = scenes[0]
    told = make_corruption("wrong-layer")(scene).read_attention([-2, -1, 0, 0.0, 0.99])
    first, last = scene.read_attention([0, -1])
    for layer, stands in zip(told, (first, first, last, last, first), strict=True):
        assert torch.equal(layer, stands)
    nowhere = make_corruption({"name": "wrong-layer", "elsewhere": False})(scene).read_attention([-2, -1, 0])
    assert all(torch.equal(layer, first) for layer in nowhere)


def test_a_broken_stream_goes_on_from_its_checkpoint_and_what_was_learned_by_then_is_judged(arr, tmp_path):
    learner = {"method": "learner", "episodes": 16, "grid": [2, 2], "corruption": "wrong-layer"}

    def config(out):
        return EvalConfig(
            out=str(tmp_path / out), task=TaskConfig(limit=1, grid=[2, 2]), batch_size=1, max_new_tokens=4,
            resamples=100, overlays=0, baselines=["heuristic"], shared=True,
            methods=[
                "heuristic",
                {**learner, "label": "mixture", "policy": "neural_mixture", "checkpoints": [8]},
                {**learner, "label": "linear", "policy": "thompson", "calibrated": 20},
                {"method": "learned", "of": "mixture", "after": 8, "label": "mixture after 8"},
                {"method": "heuristic", "label": "calibrated", "calibrated": 20, "corruption": "wrong-layer"},
            ],
        )  # fmt: skip

    metrics = run(config("whole"), arr, progress=False)
    assert set(metrics["methods"]) >= {"mixture after 8", "calibrated"}
    whole, again = (tmp_path / out / "learning" for out in ("whole", "again"))
    again.mkdir(parents=True)
    shutil.copytree(tmp_path / "whole" / "calibration", tmp_path / "again" / "calibration")
    for label in ("mixture", "linear"):
        shutil.copy(whole / f"{label} after 8.safetensors", again)
    run(config("again"), arr, progress=False)
    for label in ("mixture", "linear"):
        mine, theirs = (Policy.load(folder / f"{label}.safetensors").state_dict() for folder in (whole, again))
        assert mine["rounds"] == theirs["rounds"] == 16 and mine["generator"] == theirs["generator"]
        assert all(torch.equal(mine["tensors"][name], theirs["tensors"][name]) for name in mine["tensors"])
    with pytest.raises(ValueError, match="which has 12 among its checkpoints"):
        missing = {"method": "learned", "of": "mixture", "after": 12, "label": "none"}
        asked = dataclasses.replace(config("none"), methods=["heuristic", missing])
        run(asked, arr, progress=False)
