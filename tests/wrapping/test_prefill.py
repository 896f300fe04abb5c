"""Looking once: what the glance has read is not read again, and nobody can tell from the answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from arr_coc.config import ArrCocConfig
from arr_coc.families.compat import cache_name, output_cache
from arr_coc.wrapping.prefill import Prefill
from arr_coc.wrapping.wrapper import ArrCoc
from tests import tiny, zoo

from .conftest import BUDGETS, Deep, built
from .test_exactness import MIXED, PROMPTS, TOLERANCE, families, generated
from .test_turns import grown

FLOOR = BUDGETS[0]


class Ran:
    """How many tokens the language model read, and in how many passes."""

    def __init__(self, model: Any) -> None:
        self.lengths: list[int] = []
        self.handle = model.get_decoder().layers[0].register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self.lengths += [hidden.shape[1]] * hidden.shape[0]


@pytest.fixture
def seen(monkeypatch):
    """Every prefill of the test."""
    made: list[Prefill] = []
    init = Prefill.__init__

    def note(self: Prefill, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Prefill, "__init__", note)
    return made


def again(model: Any, inputs: Any, monkeypatch: Any, **options: Any) -> Any:
    """The answer where every prompt is read again from its start, by the model's own generate."""
    with monkeypatch.context() as patch:
        patch.setattr(Prefill, "_first", lambda *_: None)
        return generated(model, inputs, **options)


def close(once: Any, twice: Any) -> None:
    assert torch.equal(once.sequences, twice.sequences)
    assert all((a - b).abs().max() < TOLERANCE for a, b in zip(once.logits, twice.logits, strict=True))


@families
@pytest.mark.parametrize(
    ("realizer", "positions"),
    [("rescale", "auto"), ("rescale-separate", "keep"), ("pool", "keep"), ("pool", "compact")],
)
def test_read_once_is_read_twice(name, realizer, positions, wrapped, monkeypatch, seen):
    """Alone and in a batch of unequal prefixes: nothing changed, something changed, no image."""
    model = built(name)
    arr = wrapped(model, FLOOR, realizer=realizer, positions=positions)
    patterns = (FLOOR,), (FLOOR, FLOOR, FLOOR, 64), MIXED
    for inputs, some in ((tiny.one(model.make(PROMPTS), 1), patterns[1:2]), (model.make(PROMPTS), patterns)):
        arr.planner = Deep(*some)
        once = generated(model.model, inputs, steps=3)
        arr.planner = Deep(*some)
        close(once, again(model.model, inputs, monkeypatch, steps=3))
        assert len(seen[-2].shared) == len(once.sequences) and max(seen[-2].shared) > 4 and not any(seen[-1].shared)


@families
def test_an_answer_that_the_glance_has_given_is_not_computed_twice(name, wrapped, monkeypatch, seen):
    model = built(name)
    inputs = tiny.one(model.make(PROMPTS), 1)
    arr = wrapped(model, FLOOR)
    arr.planner = Deep((FLOOR,))
    ran = Ran(model.model)
    try:
        once = generated(model.model, inputs, steps=4)
    finally:
        ran.handle.remove()
    prompt = seen[-1].spliced.inputs["input_ids"].shape[1]
    assert ran.lengths == [prompt, 1, 1, 1] and seen[-1].shared == [prompt]
    assert torch.equal(once.logits[0][0].log_softmax(-1), arr.planner.scenes[0].glance_answer())


def test_what_stands_before_the_first_change_is_not_read_again(wrapped, seen):
    """Three words, four patches of 4 tokens between two marks, four words; the last patch is raised to 36 of 64."""
    model = built("reference")
    inputs = tiny.one(model.make([[3, (16, 16), 4]]), 0)
    arr = wrapped(model, FLOOR, realizer="pool")
    arr.planner = Deep((4, 4, 4, 36))
    ran = Ran(model.model)
    try:
        generated(model.model, inputs, steps=2)
    finally:
        ran.handle.remove()
    # Rows of cells stand in raster order: the upper patches, and where the raised one begins those left of it.
    before = 3 + 1 + 2 * 4
    length = 3 + 1 + 3 * 4 + 36 + 1 + 4
    assert seen[-1].spliced.inputs["input_ids"].shape[1] == length
    assert seen[-1].shared == [before] and ran.lengths == [25, length - before, 1]


PATTERNS = (FLOOR,), (FLOOR, FLOOR, FLOOR, 64), MIXED
KINDS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3},
    "beams returned": {"num_beams": 3, "num_return_sequences": 2},
    "samples": {"do_sample": True, "num_return_sequences": 3},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "no length left": {"max_new_tokens": 1},
    "penalty": {"repetition_penalty": 1.5},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["reference", "qwen3_vl"])
def test_every_way_to_generate(name, kind, wrapped, monkeypatch, seen):
    model = built(name)
    inputs = model.make(PROMPTS)
    arr = wrapped(model, FLOOR)
    options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 3}
    answers = []
    for once in (True, False):
        arr.planner = Deep(*PATTERNS)
        with monkeypatch.context() as patch, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if not once:
                patch.setattr(Prefill, "_first", lambda *_: None)
            answers.append(model.model.generate(**inputs, **(options | KINDS[kind])))
    assert seen[0].shared[0] == seen[0].spliced.inputs["attention_mask"][0].sum() and seen[0].shared[1] > 4
    close(*answers)
    assert [record.shared for record in arr.last] == [0] * 4


@pytest.mark.parametrize(
    "kind",
    [
        {"use_cache": False},
        {"prefill_chunk_size": 16},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"prompt_lookup_num_tokens": 3},
    ],
)
def test_what_is_not_known_to_be_the_same_is_read_by_the_model(kind, wrapped, monkeypatch, seen):
    model = built("reference")
    inputs = tiny.one(model.make(PROMPTS), 1)
    arr = wrapped(model, FLOOR)
    if "output_attentions" in kind:
        model.model.set_attn_implementation("eager")
    try:
        arr.planner = Deep((FLOOR,))
        once = generated(model.model, inputs, **kind)
        assert not any(seen[-1].shared) or "prompt_lookup_num_tokens" in kind
        arr.planner = Deep((FLOOR,))
        close(once, again(model.model, inputs, monkeypatch, **kind))
    finally:
        model.model.set_attn_implementation("sdpa")


@families
def test_a_conversation_goes_on_from_a_cache_that_was_filled_in_part_by_the_glance(name, wrapped, monkeypatch):
    model = built(name)
    inputs = model.make([PROMPTS[1], PROMPTS[3]])
    arr = wrapped(model, FLOOR)
    more = torch.tensor([[40, 41, 42], [43, 44, 45]])
    turns = []
    for once in (True, False):
        arr.planner = Deep((FLOOR, FLOOR, 64), (FLOOR,))
        cache = DynamicCache(config=model.model.config.get_text_config())
        with monkeypatch.context() as patch:
            if not once:
                patch.setattr(Prefill, "_first", lambda *_: None)
            first = generated(model.model, inputs, steps=3, **{cache_name(): cache})
        assert output_cache(first) is cache and cache.get_seq_length() < inputs["input_ids"].shape[1]
        second = grown(inputs, torch.cat([first.sequences, more], 1))
        turns.append(generated(model.model, second, steps=3, **{cache_name(): cache}))
    close(*turns)


def test_a_model_in_training_reads_for_itself(wrapped, seen):
    model = tiny.build("reference")
    inputs = tiny.one(model.make(PROMPTS), 1)
    arr = wrapped(model, FLOOR)
    arr.planner = Deep((FLOOR,))
    model.model.train()
    generated(model.model, inputs, steps=1)
    assert seen[-1].shared == [0]


def test_the_forward_of_a_model_returns(wrapped):
    """Also where generate fails before, in or after its first step, and where someone had set one."""
    model = tiny.build("reference")
    inputs = tiny.one(model.make(PROMPTS), 1)
    arr = wrapped(model, FLOOR)
    own = model.model.forward
    for set_by_hand in (False, True):
        if set_by_hand:
            model.model.forward = own
        for broken in ({"max_new_tokens": -1}, {"stopping_criteria": [lambda *_: 1 / 0]}):
            arr.planner = Deep((FLOOR,))
            with pytest.raises((ValueError, ZeroDivisionError)):
                model.model.generate(**(inputs | broken))
            assert ("forward" in vars(model.model)) is set_by_hand
        assert model.model.forward == own
    del model.model.forward


@pytest.mark.parametrize(("window", "budget", "gone_on"), [(8, FLOOR, True), (8, 36, False), (4096, 36, True)])
def test_a_window_that_has_let_go_of_the_first_tokens_is_not_gone_on_from(window, budget, gone_on, monkeypatch, seen):
    """What a rolled window lacks can't be taken over in part; an unchanged prompt is taken over with its window."""
    model = zoo.build("cohere2_vision")
    model.model.config.get_text_config().sliding_window = window
    for layer in model.model.get_decoder().layers:
        if layer.self_attn.sliding_window is not None:
            layer.self_attn.sliding_window = window
    inputs = model.make([[9, (8, 8), 6]])
    config = ArrCocConfig(budgets=BUDGETS, patch_side=8, realizer="pool", direct=False)
    with ArrCoc(model.model, None, config, Deep((budget,))):
        once = generated(model.model, inputs, steps=3)
        twice = again(model.model, inputs, monkeypatch, steps=3)
    close(once, twice)
    assert (seen[0].shared[0] > 0) is gone_on and seen[1].shared == []


def test_a_cache_that_keeps_something_else_than_keys_and_values_is_left_to_the_model(wrapped, monkeypatch, seen):
    """As quantised ones do; this one keeps them as they are, so that answers can be compared."""

    class Packed(DynamicLayer):
        pass

    model = built("reference")
    inputs = tiny.one(model.make(PROMPTS), 1)
    arr = wrapped(model, FLOOR)
    answers = []
    for once in (True, False):
        arr.planner = Deep((FLOOR,))
        cache = DynamicCache(config=model.model.config.get_text_config())
        cache.layers = [Packed() for _ in cache.layers]
        with monkeypatch.context() as patch:
            if not once:
                patch.setattr(Prefill, "_first", lambda *_: None)
            answers.append(generated(model.model, inputs, steps=3, **{cache_name(): cache}))
    assert seen[0].shared == [0]
    close(*answers)
