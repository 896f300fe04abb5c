"""Choices among the tower's tokens: against brute force, definitions and the untouched model with the rest masked."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import arr_coc
from arr_coc.learning.rewards import make_reward
from arr_coc.realizing import Call, splice
from eval.methods import NotApplicable, make_method
from eval.methods.cdpruner import conditioned, likeliest
from eval.methods.divprune import max_min
from eval.methods.pruned import kept
from eval.methods.visionzip import dominant_and_contextual
from eval.model.bench import Bench
from eval.model.question import CachedQuestion, Tokens, reduced
from eval.model.tower import TowerReader
from tests import tiny

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "reference")


def cosine(seed, count, width):
    unit = F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1).double()
    return unit @ unit.T


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 9))
def test_greedy_map_takes_the_largest_determinant_at_every_step(seed, count, wanted):
    wanted = min(wanted, count)
    relevance = torch.rand(count, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    kernel = relevance[:, None] * cosine(seed, count, 12) * relevance
    chosen = likeliest(kernel, wanted).tolist()
    assert len(set(chosen)) == wanted
    for step in range(1, wanted + 1):
        head = chosen[: step - 1]
        options = {
            i: float(torch.linalg.det(kernel[[*head, i]][:, [*head, i]])) for i in range(count) if i not in head
        }
        assert options[chosen[step - 1]] >= max(options.values()) * (1 - 1e-6)


def test_an_exhausted_kernel_starts_anew_and_loses_no_item():
    kernel = cosine(1, 20, 3)  # rank 3
    chosen = likeliest(kernel, 20).tolist()
    assert sorted(chosen) == list(range(20))
    # Each round of three is chosen as if the rounds before were not there.
    left = [i for i in range(20) if i not in chosen[:3]]
    again = likeliest(kernel[left][:, left], 3)
    assert [left[i] for i in again] == chosen[3:6]
    weightless = torch.diag(torch.tensor([0.0, 2.0, 0.0, 1.0]))
    assert likeliest(weightless, 4).tolist() == [1, 3, 0, 2]


def test_relevance_is_brought_to_its_range():
    same = torch.ones(3, 3)
    assert conditioned(same, torch.tensor([2.0, 4.0, 3.0])).diagonal().tolist() == [0.0, 1.0, 0.25]
    assert torch.equal(conditioned(same, torch.full((3,), 0.2)), same)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 9))
def test_max_min_follows_its_definition(seed, count, wanted):
    distance = 1 - cosine(seed, count, 4)
    chosen = max_min(distance, min(wanted, count)).tolist()
    others = [[float(distance[i, j]) for j in range(count) if j != i] for i in range(count)]
    assert chosen[0] == int(np.argmax([min(row) for row in others]))
    for step in range(1, len(chosen)):
        nearest = [min(float(distance[i, j]) for j in chosen[:step]) if i not in chosen[:step] else -1
                   for i in range(count)]  # fmt: skip
        assert chosen[step] == int(np.argmax(nearest))


def test_max_min_is_at_least_half_of_the_best_there_is():
    """The guarantee of the greedy choice, for distances that obey the triangle inequality; against brute force."""
    for seed in range(20):
        points = torch.rand(8, 2, generator=torch.Generator().manual_seed(seed)).double()
        distance = torch.cdist(points, points)

        def smallest(group, distance=distance):
            return min(float(distance[i, j]) for i, j in itertools.combinations(group, 2))

        best = max(smallest(group) for group in itertools.combinations(range(8), 4))
        assert smallest(max_min(distance, 4).tolist()) >= best / 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 30), st.sampled_from([0.0, 10 / 64, 0.5]))
def test_dominant_tokens_stay_and_the_others_go_to_the_most_similar_target(seed, count, wanted, contextual):
    generator, wanted = torch.Generator().manual_seed(seed), min(wanted, count)
    received, keys = torch.rand(count, generator=generator), torch.randn(count, 3, generator=generator)
    owner = dominant_and_contextual(received, keys, wanted, contextual)
    own = [i for i in range(count) if owner[i] == i]
    assert len(own) == wanted
    targets = round(wanted * contextual) if wanted < count else 0
    dominant = received.argsort(descending=True)[: wanted - targets].tolist()
    assert set(dominant) <= set(own)
    if not targets:
        assert set(own) == set(dominant) and all(owner[i] == -1 for i in range(count) if i not in own)
        return
    rest, chosen = [i for i in range(count) if i not in dominant], sorted(set(own) - set(dominant))
    for i in set(rest) - set(chosen):
        near = {t: float(F.cosine_similarity(keys[i], keys[t], dim=0)) for t in chosen}
        assert near[int(owner[i])] == pytest.approx(max(near.values()))


def sight_of(name, prompt, side=8):
    model = tiny.build(name)
    inputs = model.make([prompt])
    config = arr_coc.ArrCocConfig(budgets=(4, 16, 64), patch_side=side, policy="uniform", budget=4)
    return model, inputs, arr_coc.wrap(model.model, tiny.tokenizer(), config)


@pytest.mark.parametrize("name", FAMILIES)
def test_dropped_tokens_are_masked_tokens(name):
    """The untouched full-length model, with the dropped tokens masked, says the same."""
    model, inputs, arr = sight_of(name, [3, (16, 16), 4, (13, 9), 5])
    with arr:
        question = CachedQuestion(arr, inputs, 2)
        tokens, call, rows = question.tokens(np.random.default_rng(0))
        assert tokens.features.shape[0] == 256 + 117 == len(rows)
        assert torch.equal(rows.sort().values, torch.arange(len(rows)))
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[:60]
        realised = reduced(call, rows, kept(chosen, len(rows)))
        assert realised.keep.nonzero().squeeze(1).tolist() == rows[chosen].sort().values.tolist()
        spliced = splice(call, realised, "keep", for_generate=False)
        if spliced.rope_deltas is not None:
            model.model.base_model.rope_deltas = spliced.rope_deltas
        with torch.no_grad():
            short = model.model(**spliced.inputs).logits[0]
    places = spliced.kept[0]
    assert len(places) == inputs["input_ids"].shape[1] - len(rows) + 60
    mask = torch.zeros_like(inputs["attention_mask"])
    mask[0, places] = 1
    rope = {key: inputs[key] for key in ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")}
    positions, _ = model.model.base_model.get_rope_index(**rope)
    with torch.no_grad():
        full = model.model(**inputs | {"attention_mask": mask}, position_ids=positions).logits[0, places]
        unmasked = model.model(**inputs).logits[0, places]
    assert (short - full).abs().max() < 2e-5
    assert (short - unmasked).abs().max() > 0.1


def test_merged_tokens_are_means_and_single_ones_untouched():
    _, inputs, arr = sight_of("qwen3_vl", [3, (8, 8), 4])
    with arr:
        _, call, rows = CachedQuestion(arr, inputs, 2).tokens(np.random.default_rng(0))
    owner = torch.full((64,), -1)
    owner[[5, 9, 11]] = torch.tensor([9, 9, 9])
    owner[40] = 40
    realised = reduced(call, rows, owner)
    assert realised.keep.nonzero().squeeze(1).tolist() == [9, 40]
    assert len(realised.streams) == len(call.full.streams) > 1  # every DeepStack level alike
    for mine, full in zip(realised.streams, call.full.streams, strict=True):
        assert torch.allclose(mine[0], full[[5, 9, 11]].mean(0), atol=1e-6)
        assert torch.equal(mine[1], full[40])
    with pytest.raises(ValueError, match="owner must name kept tokens"):
        reduced(call, rows, owner.where(owner != 9, 7))


@pytest.mark.parametrize("name", ["qwen2_vl", "reference"])
def test_the_towers_attention_is_that_of_its_eager_map(name):
    model, inputs, arr = sight_of(name, [3, (8, 8), 4, (5, 6), 1])
    with arr:
        call = Call(arr.model, arr.family, inputs, 8)
        with TowerReader(arr.model, arr.family) as reader:
            call.full  # noqa: B018 - runs the tower
        view = reader.view(64 + 30)
    visual = model.model.base_model.visual
    block, seen = visual.blocks[-2].attn, {}

    def note(module, args, kwargs):
        seen.update(hidden=args[0] if args else kwargs["hidden_states"], **kwargs)

    handle = block.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        arr.family.encode(model.model, inputs)
    handle.remove()
    from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

    hidden, (cos, sin) = seen["hidden"], seen["position_embeddings"]
    q, k, _ = block.qkv(hidden).reshape(len(hidden), 3, block.num_heads, -1).unbind(1)
    q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
    merge = model.model.config.vision_config.spatial_merge_size**2
    want, start = [], 0
    for size in (64 * merge, 30 * merge):
        part = slice(start, start + size)
        weights = torch.einsum("qhd,khd->hqk", q[part], k[part]).mul(q.shape[-1] ** -0.5).softmax(-1)
        want.append(weights.mean((0, 1)))
        start += size
    received = torch.cat(want).reshape(-1, merge).mean(1)
    assert torch.allclose(view.received, received, atol=1e-6)
    assert torch.allclose(view.keys, k.mean(1).reshape(94, merge, -1).mean(1), atol=1e-5)


def test_a_tower_that_reorders_its_tokens_is_refused():
    _, _, arr = sight_of("qwen2_5_vl", [3, (8, 8), 4])
    with arr, pytest.raises(NotApplicable, match="reorders its tokens"):
        TowerReader(arr.model, arr.family)


@pytest.fixture(scope="module")
def reference():
    model, processor = arr_coc.reference.load()
    with arr_coc.wrap(model, processor, arr_coc.ArrCocConfig()) as arr:
        yield arr, list(arr_coc.reference.generate(2, seed=1, split="learn", grid=(1, 2), kinds=["color"]))


@pytest.mark.parametrize("name", ["random-tokens", "fastv", "visionzip", "divprune", "cdpruner"])
def test_methods_spend_their_share_and_all_of_it_is_the_whole_model(reference, name):
    arr, samples = reference
    bench = Bench(arr, make_reward("vqa_accuracy"), max_new_tokens=3)

    def ask(share):
        method = make_method({"method": name, "share": share})
        method.prepare(bench)
        return method.answer(bench, samples)

    full = bench.untouched(samples)
    whole, some = ask(1.0), ask(0.3)
    assert [a.text for a in whole] == [a.text for a in full]
    assert [(a.tokens, a.full_tokens) for a in whole + some] == [(800, 800)] * 2 + [(240, 800)] * 2
    assert all(sum(a.realised) == a.tokens and a.first > 0 for a in some)
    assert {"encode", "knowing", "splice", "prefill", "decode"} <= some[0].timings.keys()


def test_the_tower_is_read_where_others_have_encoded_the_picture_before(reference):
    arr, (sample, _) = reference
    question, rng = Bench(arr, make_reward("vqa_accuracy"), max_new_tokens=3).cached(sample), np.random.default_rng(0)
    first, seen = question.tokens(rng)[0], question.tokens(rng, tower=True)[0]
    assert first.tower is None and seen.tower is not None
    assert torch.equal(first.features, seen.features) and len(seen.tower.received) == len(seen.features)


def test_fastv_keeps_what_the_last_token_attends_to():
    attention = torch.tensor([[[0.1, 0.5, 0.0, 0.2], [0.3, 0.1, 0.2, 0.0]]])
    asked = []
    scene = SimpleNamespace(read_attention=lambda layers: asked.append(layers) or attention)
    tokens = Tokens(torch.zeros(4, 2), scene, None, np.random.default_rng(0))
    assert make_method({"method": "fastv", "share": 0.5}).choose(tokens, 2).tolist() == [0, 1, -1, -1]
    assert asked == [[1]]  # the second layer


def test_the_router_learns_which_patches_need_detail(reference):
    arr, _ = reference
    bench = Bench(arr, make_reward("vqa_accuracy"), max_new_tokens=3, seed=5)
    method = make_method({"method": "router", "share": 0.4, "question": True, "episodes": 6})
    method.prepare(bench)
    samples = list(arr_coc.reference.generate(4, seed=2, split="learn", grid=(2, 2), kinds=["number"]))
    answers = method.answer(bench, samples)
    assert {budget for a in answers for budget in a.budgets} == {64, 400}
    first = [a.budgets[s["evidence"][0]] for a, s in zip(answers, samples, strict=True)]
    assert np.mean(np.array(first) == 400) > np.mean([b == 400 for a in answers for b in a.budgets])
