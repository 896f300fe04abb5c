"""Looking once: what the glance has read is not read again, and nobody can tell from the answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from arr_coc.families.compat import cache_name, output_cache
from arr_coc.wrapping.prefill import Prefill
from tests import tiny

from .conftest import BUDGETS, built
from .test_exactness import MIXED, PROMPTS, TOLERANCE, families, generated, logits
from .test_turns import grown

DEEP = ("glance", "answer")
FLOOR = BUDGETS[0]


class Reader:
    """A planner that reads the glance to its end, then gives patch i of question q the budget ``patterns[q][i]``."""

    needs = frozenset(DEEP)

    def __init__(self, *patterns: tuple[int, ...]) -> None:
        self.patterns, self.asked, self.scenes = patterns, 0, []

    def plan(self, scene: Any) -> Any:
        from arr_coc.scene import Plan

        pattern = self.patterns[self.asked % len(self.patterns)]
        self.asked += 1
        self.scenes.append(scene)
        scene.glance_answer()
        return Plan([pattern[i % len(pattern)] for i in range(len(scene.patches))])


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
@pytest.mark.parametrize(("realizer", "positions"), [("rescale", "auto"), ("pool", "keep")])
def test_read_once_is_read_twice(name, realizer, positions, wrapped, monkeypatch, seen):
    """Alone and in a batch of unequal prefixes: nothing changed, something changed, no image."""
    model = built(name)
    arr = wrapped(model, FLOOR, realizer=realizer, positions=positions)
    patterns = (FLOOR,), (FLOOR, FLOOR, FLOOR, 64), MIXED
    for inputs, some in ((tiny.one(model.make(PROMPTS), 1), patterns[1:2]), (model.make(PROMPTS), patterns)):
        arr.planner = Reader(*some)
        once = generated(model.model, inputs, steps=3)
        arr.planner = Reader(*some)
        close(once, again(model.model, inputs, monkeypatch, steps=3))
        assert len(seen[-2].shared) == len(once.sequences) and max(seen[-2].shared) > 4 and not any(seen[-1].shared)


@families
def test_an_answer_that_the_glance_has_given_is_not_computed_twice(name, wrapped, monkeypatch, seen):
    model = built(name)
    inputs = tiny.one(model.make(PROMPTS), 1)
    arr = wrapped(model, FLOOR)
    arr.planner = Reader((FLOOR,))
    ran = Ran(model.model)
    try:
        once = generated(model.model, inputs, steps=4)
    finally:
        ran.handle.remove()
    prompt = seen[-1].spliced.inputs["input_ids"].shape[1]
    assert ran.lengths == [prompt, 1, 1, 1] and seen[-1].shared == [prompt]
    assert torch.equal(once.logits[0][0].log_softmax(-1), arr.planner.scenes[0].glance_answer())
