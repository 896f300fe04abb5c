"""The wrapped model against the untouched one: what must be equal is equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from arr_coc.families.compat import cache_name, output_cache
from arr_coc.scene.patches import budget_grid
from tests import tiny
from tests.wrapping.conftest import BUDGETS, built

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "reference")
REALIZERS = ("rescale", "rescale-separate", "pool", "select")
# Ragged images, one-patch images, several images per prompt, a sample without one; unequal totals.
PROMPTS: list[list[tiny.Part]] = [
    [3, (16, 16), 4],
    [5, (8, 8), 2, (13, 9), 6],
    [7],
    [2, (5, 20), 3, (8, 8), (7, 3), 2],
]
MIXED = (4, 64, 16, 36, 4)
TOLERANCE = 2e-5

families = pytest.mark.parametrize("name", FAMILIES)
realizers = pytest.mark.parametrize("realizer", REALIZERS)


def logits(model: Any, inputs: dict[str, Any], **extra: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, **extra).logits


def generated(model: Any, inputs: dict[str, Any], steps: int = 5, **extra: Any) -> Any:
    return model.generate(
        **inputs, max_new_tokens=steps, do_sample=False, return_dict_in_generate=True, output_logits=True, **extra
    )


@families
@realizers
@pytest.mark.parametrize("left", [True, False])
def test_full_budget_is_the_untouched_model_to_the_bit(name, realizer, left, wrapped):
    model = built(name)
    inputs = model.make(PROMPTS, left=left)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    before, loss = logits(model.model, inputs), model.model(**inputs, labels=labels).loss
    answer = generated(model.model, inputs)
    arr = wrapped(model, BUDGETS[-1], realizer=realizer)
    assert torch.equal(logits(model.model, inputs), before)
    assert torch.equal(model.model(**inputs, labels=labels).loss, loss)
    again = generated(model.model, inputs)
    assert torch.equal(again.sequences, answer.sequences)
    assert all(torch.equal(a, b) for a, b in zip(again.logits, answer.logits, strict=True))
    assert [record.tokens for record in arr.last] == [256, 181, 0, 185]
    assert all(record.tokens == record.full_tokens for record in arr.last)


@families
def test_dropping_tokens_equals_masking_them(name, wrapped):
    """Select keeps tokens as they are, so the untouched full-length model with the others masked is an oracle."""
    model = built(name)
    inputs = model.make(PROMPTS)
    arr = wrapped(model, *MIXED, realizer="select", positions="keep")
    short = logits(model.model, inputs)
    kept = arr.kept
    arr.detach()
    mask = torch.zeros_like(inputs["attention_mask"])
    for sample, places in enumerate(kept):
        mask[sample, places] = 1
    assert mask.sum() < inputs["attention_mask"].sum() - 300
    rope = {key: inputs[key] for key in ("input_ids", "attention_mask", "mm_token_type_ids", "image_grid_thw")}
    positions, _ = model.model.base_model.get_rope_index(**rope)
    full = logits(model.model, inputs | {"attention_mask": mask}, position_ids=positions)
    unmasked = logits(model.model, inputs)
    for sample, places in enumerate(kept):
        mine = short[sample, -len(places) :]
        assert (mine - full[sample, places]).abs().max() < TOLERANCE
    assert (short[0, -4:] - unmasked[0, -4:]).abs().max() > 0.1


@families
@realizers
@pytest.mark.parametrize("positions", ["auto", "keep", "compact"])
def test_the_model_sees_exactly_what_was_allocated(name, realizer, positions, wrapped, monkeypatch):
    model = built(name)
    inputs = model.make(PROMPTS)
    arr = wrapped(model, *MIXED, realizer=realizer, positions=positions)
    seen = {}

    def spy(module, args, kwargs):
        seen.update(kwargs)

    handle = model.model.base_model.register_forward_pre_hook(spy, with_kwargs=True)
    try:
        logits(model.model, inputs)
    finally:
        handle.remove()
    images = (seen["input_ids"] == tiny.IMAGE).sum(1).tolist()
    assert images == [record.tokens for record in arr.last] == [sum(record.realised) for record in arr.last]
    assert images[2] == 0 and images[0] == 4 + 64 + 16 + 36
    rows = sum(part.shape[0] for part in seen["mm_encoder_outputs"]["image"].pooler_output)
    assert rows == sum(images)
    assert torch.equal(seen["mm_token_type_ids"] == 1, seen["input_ids"] == tiny.IMAGE)
    for record in arr.last:
        assert all(real <= nominal for real, nominal in zip(record.realised, record.budgets, strict=True))


@families
@realizers
def test_batch_equals_single(name, realizer, wrapped):
    model = built(name)
    for left in (True, False):
        inputs = model.make(PROMPTS, left=left)
        arr = wrapped(model, *MIXED, realizer=realizer)
        together, kept = logits(model.model, inputs), arr.kept
        batch = generated(model.model, inputs) if left else None
        for sample in range(len(PROMPTS)):
            alone = logits(model.model, tiny.one(inputs, sample))[0]
            span = slice(-len(kept[sample]), None) if left else slice(0, len(kept[sample]))
            assert (together[sample, span] - alone).abs().max() < TOLERANCE
            if batch is not None:
                answer = generated(model.model, tiny.one(inputs, sample))
                assert torch.equal(batch.sequences[sample, -5:], answer.sequences[0, -5:])
                for a, b in zip(batch.logits, answer.logits, strict=True):
                    assert (a[sample] - b[0]).abs().max() < TOLERANCE


@families
@pytest.mark.parametrize("realizer", ["rescale", "pool"])
@pytest.mark.parametrize("positions", ["auto", "keep", "compact"])
def test_cached_generation_equals_uncached_and_a_loop_without_cache(name, realizer, positions, wrapped):
    model = built(name)
    inputs = model.make(PROMPTS)
    wrapped(model, *MIXED, realizer=realizer, positions=positions)
    cached, uncached = generated(model.model, inputs), generated(model.model, inputs, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(cached.sequences[:, :length], inputs["input_ids"])
    for step in range(5):
        grown = dict(inputs)
        grown["input_ids"] = cached.sequences[:, : length + step]
        grown["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, step), value=1)
        grown["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, step))
        step_logits = logits(model.model, grown)[:, -1]
        assert (step_logits - cached.logits[step]).abs().max() < TOLERANCE
        assert (cached.logits[step] - uncached.logits[step]).abs().max() < TOLERANCE


@families
@pytest.mark.parametrize("positions", ["auto", "keep", "compact"])
def test_a_hand_written_decoding_loop_gets_the_right_positions(name, positions, wrapped):
    """After a wrapped forward, transformers numbers the next tokens by rope_deltas (if no mask is passed)."""
    model = built(name)
    inputs = tiny.one(model.make(PROMPTS), 1)
    wrapped(model, *MIXED, positions=positions)
    want = generated(model.model, inputs)
    with torch.no_grad():
        out = model.model(**inputs, use_cache=True)
        for step in range(1, 5):
            token = want.sequences[:, inputs["input_ids"].shape[1] + step - 1][:, None]
            out = model.model(input_ids=token, **{cache_name(): output_cache(out)}, use_cache=True)
            assert (out.logits[:, -1] - want.logits[step]).abs().max() < TOLERANCE


@families
@pytest.mark.parametrize("kind", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_beams_in_a_batch_equal_beams_alone(name, kind, wrapped):
    model = built(name)
    inputs = model.make(PROMPTS)
    wrapped(model, *MIXED)
    many = kind.get("num_return_sequences", 1)
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_scores": True, **kind}
    batch = model.model.generate(**inputs, **options)
    assert batch.sequences.shape[0] == many * len(PROMPTS)
    for sample in range(len(PROMPTS)):
        rows = slice(many * sample, many * (sample + 1))
        prompt = inputs["input_ids"][sample].expand(many, -1)
        assert torch.equal(batch.sequences[rows, :-4], prompt)
        alone = model.model.generate(**tiny.one(inputs, sample), **options)
        assert torch.equal(batch.sequences[rows, -4:], alone.sequences[:, -4:])
        assert (batch.sequences_scores[rows] - alone.sequences_scores).abs().max() < TOLERANCE


@families
@pytest.mark.parametrize(
    "kind", [{"cache_implementation": "static", "disable_compile": True}, {"prefill_chunk_size": 16}]
)
def test_static_cache_and_chunked_prefill(name, kind, wrapped):
    model = built(name)
    inputs = tiny.one(model.make(PROMPTS), 1)
    wrapped(model, *MIXED)
    if "prefill_chunk_size" in kind and transformers.__version__ < "5.23":
        with pytest.raises(ValueError, match="needs transformers >= 5.23"):
            generated(model.model, inputs, **kind)
        return
    plain, other = generated(model.model, inputs), generated(model.model, inputs, **kind)
    assert torch.equal(plain.sequences, other.sequences)
    assert all((a - b).abs().max() < TOLERANCE for a, b in zip(plain.logits, other.logits, strict=True))


@families
def test_sampled_return_sequences_start_from_their_own_prompt(name, wrapped):
    model = built(name)
    inputs = model.make(PROMPTS)
    wrapped(model, *MIXED)
    want = generated(model.model, inputs, steps=1).logits[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = model.model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=True,
            num_return_sequences=3,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert (out.logits[0] - want.repeat_interleave(3, 0)).abs().max() < TOLERANCE


@families
@pytest.mark.parametrize("realizer", ["rescale", "pool", "select"])
def test_loss_is_that_of_the_tokens_that_stay(name, realizer, wrapped):
    model = built(name)
    inputs = model.make(PROMPTS, left=False)
    ids = inputs["input_ids"]
    labels = ids.masked_fill((inputs["attention_mask"] == 0) | (ids == tiny.IMAGE), -100)
    arr = wrapped(model, *MIXED, realizer=realizer)
    out = model.model(**inputs, labels=labels)
    terms = []
    for sample, places in enumerate(arr.kept):
        row, target = out.logits[sample, : len(places)], labels[sample, places]
        terms.append(torch.nn.functional.cross_entropy(row[:-1], target[1:], ignore_index=-100, reduction="none"))
        assert (target != -100).sum() == (labels[sample] != -100).sum()
    supervised = sum(int((labels[s, k][1:] != -100).sum()) for s, k in enumerate(arr.kept))
    assert abs(float(torch.cat(terms).sum().detach() / supervised) - float(out.loss.detach())) < 1e-5


@families
@pytest.mark.parametrize("realizer", ["rescale", "pool"])
def test_gradients_reach_the_tower(name, realizer, wrapped):
    model = built(name)
    inputs = model.make(PROMPTS[:2], left=False)
    wrapped(model, *MIXED, realizer=realizer)
    model.model.zero_grad()
    out = model.model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100))
    out.loss.backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.model.base_model.visual.parameters()]
    model.model.zero_grad(set_to_none=True)
    assert sum(reached) >= 0.9 * len(reached)


def test_deepstack_levels_are_reduced_with_the_same_rows(wrapped):
    model = built("qwen3_vl")
    inputs = model.make(PROMPTS)
    wrapped(model, *MIXED)
    before = logits(model.model, inputs)
    seen = {}

    def spoil(module, args, kwargs):
        output = kwargs["mm_encoder_outputs"]["image"]
        seen["rows"] = [
            [part.shape[0] for part in level] for level in (output.pooler_output, *output.deepstack_features)
        ]
        output.deepstack_features = [[part.flip(0) for part in level] for level in output.deepstack_features]

    handle = model.model.base_model.register_forward_pre_hook(spoil, with_kwargs=True)
    after = logits(model.model, inputs)
    handle.remove()
    assert len(seen["rows"]) == 3 and seen["rows"][0] == seen["rows"][1] == seen["rows"][2]
    assert (before - after).abs().max() > 0.01


@pytest.mark.parametrize("size", [(16, 16), (13, 9), (5, 20)])
def test_each_cell_takes_over_the_placeholder_at_its_centre(size, wrapped):
    model = built("reference")
    inputs = tiny.one(model.make([[2, size, 3]]), 0)
    arr = wrapped(model, *MIXED, realizer="select")
    logits(model.model, inputs)
    first = int((inputs["input_ids"][0] == tiny.IMAGE).nonzero()[0])
    cells = [
        divmod(int(place) - first, size[1]) for place in arr.kept[0] if inputs["input_ids"][0, place] == tiny.IMAGE
    ]
    want = []
    for patch, budget in zip(arr.last[0].patches, arr.last[0].budgets, strict=True):
        rows, columns = budget_grid(patch.height, patch.width, budget)
        for r in range(rows):
            for c in range(columns):
                y = patch.top + int((r + 0.5) * patch.height / rows)
                x = patch.left + int((c + 0.5) * patch.width / columns)
                want.append((y, x))
    assert cells == sorted(want) and len(set(cells)) == arr.last[0].tokens


@families
def test_prompts_of_one_length_get_unequal_budgets(name, wrapped):
    """Nothing is padded as given; after shortening generation needs its padding on the left."""
    model = built(name)
    inputs = model.make([PROMPTS[0], PROMPTS[0]])
    assert bool(inputs["attention_mask"].all())
    wrapped(model, 4)
    allocation = [[4, 4, 4, 4], [64, 4, 36, 16]]
    batch = generated(model.model, inputs, allocation=allocation)
    for sample in (0, 1):
        alone = generated(model.model, tiny.one(inputs, sample), allocation=[allocation[sample]])
        assert torch.equal(batch.sequences[sample], alone.sequences[0])
        for a, b in zip(batch.logits, alone.logits, strict=True):
            assert (a[sample] - b[0]).abs().max() < TOLERANCE
