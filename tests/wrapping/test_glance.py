"""The scene: what a planner sees of one question, and what it costs to look."""

from __future__ import annotations

import pytest
import torch

from arr_coc.scene.contract import Plan
from arr_coc.wrapping.planning import _end_of
from tests import tiny
from tests.wrapping.conftest import BUDGETS, built
from tests.wrapping.test_exactness import MIXED, PROMPTS, TOLERANCE, families, logits


@families
@pytest.mark.parametrize("realizer", ["rescale", "pool"])
def test_attention_is_that_of_the_eager_model(name, realizer, wrapped):
    """Read from q and k under SDPA; the oracle is the untouched eager model's own attention map of the same prompt."""
    model = built(name)
    inputs = model.make(PROMPTS[1:2])
    arr = wrapped(model, *MIXED, realizer=realizer)
    logits(model.model, inputs)
    (scene,) = arr.planner.scenes
    read, answer = scene.read_attention([0, 2]), scene.glance_answer()
    # The glance prompt is the call with every patch at its floor.
    caught = {}

    def catch(module, args, kwargs):
        caught.update(kwargs)

    arr.planner.pattern = (BUDGETS[0],)
    handle = model.model.base_model.register_forward_pre_hook(catch, with_kwargs=True)
    logits(model.model, inputs)
    handle.remove()
    arr.detach()
    eager = tiny.build(name)
    eager.model.set_attn_implementation("eager")
    caught.pop("use_cache", None)
    with torch.no_grad():
        out = eager.model(**caught, output_attentions=True, use_cache=False)
    images = (caught["input_ids"][0] == tiny.IMAGE).nonzero().squeeze(1)
    assert read.shape == (2, 4, len(images)) and read.dtype == torch.float32
    assert sum(map(len, scene.glance)) == len(images)
    # Tokens stand in raster order of their image; patches come one after another.
    order = _raster_to_patches(scene)
    for row, layer in enumerate((0, 2)):
        assert (read[row] - out.attentions[layer][0, :, -1, images[order]]).abs().max() < TOLERANCE
    assert (answer - out.logits[0, -1].log_softmax(-1)).abs().max() < TOLERANCE
    assert read.sum(-1).max() < 1


def _raster_to_patches(scene) -> torch.Tensor:
    """Index of each glance token, patch after patch, among those in prompt order: by sorting cells."""
    keys = []
    for patch, (rows, columns) in zip(scene.patches, scene.glance_grids, strict=True):
        for r in range(rows):
            for c in range(columns):
                y = patch.top + (2 * r + 1) * patch.height // (2 * rows)
                x = patch.left + (2 * c + 1) * patch.width // (2 * columns)
                keys.append((patch.entry, y, x))
    ranks = {key: place for place, key in enumerate(sorted(keys))}
    return torch.tensor([ranks[key] for key in keys])


@families
def test_one_pass_stops_after_the_last_layer_read(name, wrapped):
    model = built(name)
    layers = model.model.base_model.language_model.layers
    ran = []
    handles = [layer.mlp.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(layers)]
    try:
        arr = wrapped(model, 4)
        logits(model.model, model.make(PROMPTS[:1]))
        (scene,) = arr.planner.scenes
        ran.clear()
        first = scene.read_attention([1])
        assert ran == [0]
        assert torch.equal(scene.read_attention([1]), first) and torch.equal(scene.read_attention([0, 1])[1], first[0])
        assert ran == [0]
        scene.glance_answer()
        assert ran == [0, 0, 1, 2]
        scene.read_attention([2])
        scene.glance_answer()
        assert ran == [0, 0, 1, 2]
        arr.planner = type(arr.planner)(4, needs=("glance", "answer"))
        logits(model.model, model.make(PROMPTS[:1]))
        ran.clear()
        arr.planner.scenes[0].read_attention([0])
        arr.planner.scenes[0].glance_answer()
        assert ran == [0, 1, 2]
        three = arr.planner.scenes[0].read_attention([0, 1, 2])
        assert torch.equal(arr.planner.scenes[0].read_attention([0.0, 0.34, 0.99, -1]), three[[0, 1, 2, 2]])
        for layer in (3, -4, 1.0, -0.5, "middle"):
            with pytest.raises(ValueError, match=f"layer {layer!r}: this language model has 3 layers"):
                arr.planner.scenes[0].read_attention([layer])
    finally:
        for handle in handles:
            handle.remove()


@families
@pytest.mark.parametrize("realizer", ["rescale", "pool"])
def test_another_image_in_the_batch_changes_no_bit_of_a_scene(name, realizer, wrapped):
    model = built(name)
    inputs = model.make(PROMPTS)
    arr = wrapped(model, *MIXED, realizer=realizer)
    logits(model.model, inputs)
    together = arr.planner.scenes
    assert len(together) == 3
    for sample, scene in zip((0, 1, 3), together, strict=True):
        arr.planner = type(arr.planner)(*MIXED)
        logits(model.model, tiny.one(inputs, sample))
        (alone,) = arr.planner.scenes
        assert all(torch.equal(a, b) for a, b in zip(scene.glance, alone.glance, strict=True))
        assert torch.equal(scene.read_attention([0, 1, 2]), alone.read_attention([0, 1, 2]))
        assert torch.equal(scene.glance_answer(), alone.glance_answer())
        assert torch.equal(scene.question_embeddings, alone.question_embeddings)
        assert scene.question == alone.question and torch.equal(scene.costs, alone.costs)


def test_a_scene_holds_what_was_asked_for(wrapped):
    model = built("reference")
    inputs = model.make(PROMPTS[1:2])
    arr = wrapped(model, 4, needs=())
    logits(model.model, inputs)
    (scene,) = arr.planner.scenes
    assert scene.glance == [] and scene.pixels is None
    with pytest.raises(RuntimeError, match="put 'glance' into its needs"):
        scene.read_attention([0])
    arr = wrapped(model, 4, needs=("pixels", "glance"))
    arr.builder.scale = (0.5, 0.25)
    logits(model.model, inputs)
    (scene,) = arr.planner.scenes
    assert [tuple(p.shape) for p in scene.pixels] == [(3, p.height * 8, p.width * 8) for p in scene.patches]
    assert all(0 <= float(p.min()) and float(p.max()) <= 1 for p in scene.pixels)
    assert [len(g) for g in scene.glance] == [r * c for r, c in scene.glance_grids] == scene.costs[:, 0].tolist()
    assert scene.question.split() == [f"w{i}" for i in scene.question_ids.tolist()]
    assert len(scene.question_ids) == 6
    embed = model.model.get_input_embeddings()
    assert torch.equal(scene.question_embeddings, embed(scene.question_ids).detach())
    arr.planner = type(arr.planner)(4, needs=("glimpse",))
    with pytest.raises(ValueError, match=r"needs=\['glimpse'\] must be a subset"):
        logits(model.model, inputs)


def test_the_answer_in_labels_does_not_leak_into_the_scene(wrapped):
    model = built("reference")
    inputs = model.make([[3, (8, 8), 9]])
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -4:] = inputs["input_ids"][:, -4:]
    arr = wrapped(model, 4)
    model.model(**inputs, labels=labels)
    prompt = {key: value[:, :-4] if value.shape == labels.shape else value for key, value in inputs.items()}
    arr.planner.scenes[0].read_attention([0])
    model.model(**prompt)
    with_answer, without = arr.planner.scenes
    assert with_answer.question == without.question and len(without.question_ids) == 5
    assert torch.equal(with_answer.read_attention([2]), without.read_attention([2]))
    model.model(
        **inputs, labels=inputs["input_ids"]
    )  # everything is supervised: prompt and answer can't be told apart
    assert len(arr.planner.scenes[-1].question_ids) == 9


def test_looking_neither_trains_nor_draws_random_numbers(wrapped):
    """A model in training mode with dropout: the glance is that of evaluation mode and leaves the generator alone."""
    model = tiny.build("reference")
    inputs = model.make(PROMPTS[1:2])
    arr = wrapped(model, 4)
    logits(model.model, inputs)
    calm = arr.planner.scenes[0].read_attention([2])
    for layer in model.model.base_model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.model.train()
    frozen = model.model.base_model.visual.eval()
    state = torch.random.get_rng_state()
    try:
        logits(model.model, inputs)
        after = torch.random.get_rng_state()
        drawn = arr.planner.scenes[1].read_attention([2])
        assert torch.equal(torch.random.get_rng_state(), after)
    finally:
        torch.random.set_rng_state(state)
    assert torch.equal(drawn, calm)
    assert model.model.training and not frozen.training and model.model.base_model.language_model.layers[0].training


def test_the_record_of_a_call(wrapped):
    import json

    model = built("reference")
    inputs = model.make(PROMPTS)
    arr = wrapped(model, *MIXED)
    scored = Plan(
        [], scores={"x": torch.tensor([0.5, float("nan")])}, tension={"price": 0.1}, timings={"knowing": 0.2}
    )
    plan = arr.planner.plan
    arr.planner.plan = lambda scene: Plan(plan(scene).budgets, None, scored.scores, scored.tension, scored.timings)
    model.model.generate(**inputs, max_new_tokens=2)
    record = arr.last[1]
    assert record.question == arr.planner.scenes[1].question
    assert record.budgets == [4, 64, 16, 36, 4] and record.tokens == sum(record.realised) < record.full_tokens == 181
    assert set(record.timings) == {"glance", "knowing", "encode", "splice", "generate", "total"}
    assert all(seconds >= 0 for seconds in record.timings.values())
    data = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    assert data["scores"] == {"x": [0.5, None]} and data["patches"][0] == {
        "entry": 1, "view": 0, "top": 0, "bottom": 8, "left": 0, "right": 8
    }  # fmt: skip
    assert arr.last[2].patches == [] and arr.last[2].tokens == 0


LINE = "w30 w31 w32"


@families
def test_an_answer_line_is_read_by_the_glance_alone(name, wrapped):
    """The oracle is the same model, asked with the line in its prompt; what is generated never sees it."""
    model = built(name)
    inputs = model.make(PROMPTS[1:2])
    arr = wrapped(model, *MIXED, needs=("glance", "answer"))
    plain = logits(model.model, inputs)
    (bare,) = arr.planner.scenes
    arr = wrapped(model, *MIXED, needs=("glance", "answer"), answer_line=LINE)
    assert torch.equal(logits(model.model, inputs), plain)
    (scene,) = arr.planner.scenes
    words = torch.tensor([tiny.tokenizer()(f" {LINE}", add_special_tokens=False)["input_ids"]])
    longer = dict(inputs)
    for key in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids"):
        if key in inputs:
            added = words if key == "input_ids" else inputs[key][:, -1:].expand(-1, words.shape[1])
            longer[key] = torch.cat([inputs[key], added], 1)
    arr = wrapped(model, *MIXED, needs=("glance", "answer"))
    logits(model.model, longer)
    (asked,) = arr.planner.scenes
    assert (scene.glance_answer() - asked.glance_answer()).abs().max() < TOLERANCE
    assert (scene.read_attention([0, 2]) - asked.read_attention([0, 2])).abs().max() < TOLERANCE
    assert (scene.glance_answer() - bare.glance_answer()).abs().max() > 1e-3
    assert scene.question == bare.question


@pytest.mark.parametrize(
    ("prompt", "words", "end"),
    [
        ([9, 1, 2, 3, 8, 7], [1, 2, 3], 4),  # in front of what the template adds
        ([9, 1, 2, 3, 8, 3], [1, 2, 3], 4),  # which may hold a word of it
        ([1, 2, 9, 1, 2, 8], [1, 2], 5),  # the last time it is asked
        ([9, 4, 2, 8], [1, 2], 3),  # words on both sides of something else
        ([9, 8], [5], 2),
    ],
)
def test_the_line_stands_behind_the_question(prompt, words, end):
    assert _end_of(prompt, words) == end


def test_a_line_that_cannot_be_read_is_refused(wrapped):
    with pytest.raises(TypeError, match="answer_line=3 must be text"):
        wrapped(built("reference"), *MIXED, answer_line=3)
