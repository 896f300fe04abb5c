"""Tiny models, shared by the session: a test that wraps one detaches it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import arr_coc
from arr_coc.scene.contract import Plan, Scene
from tests import tiny

BUDGETS = (4, 16, 36, 64)
SIDE = 8
_BUILT: dict[str, tiny.Tiny] = {}


class Pattern:
    """A planner that gives patch i of a question the budget ``pattern[i % len(pattern)]``, and keeps the scenes."""

    def __init__(self, *pattern: int, needs: tuple[str, ...] = ("glance",)) -> None:
        self.pattern, self.needs = pattern, frozenset(needs)
        self.scenes: list[Scene] = []

    def plan(self, scene: Scene) -> Plan:
        self.scenes.append(scene)
        return Plan([self.pattern[i % len(self.pattern)] for i in range(len(scene.patches))])


class Deep:
    """A planner that reads the glance to its end, then gives patch i of question q the budget ``patterns[q][i]``."""

    needs = frozenset({"glance", "answer"})

    def __init__(self, *patterns: tuple[int, ...]) -> None:
        self.patterns, self.scenes = patterns, list[Scene]()

    def plan(self, scene: Scene) -> Plan:
        pattern = self.patterns[len(self.scenes) % len(self.patterns)]
        self.scenes.append(scene)
        scene.glance_answer()
        return Plan([pattern[i % len(pattern)] for i in range(len(scene.patches))])


def built(name: str) -> tiny.Tiny:
    """One shared model per name."""
    if name not in _BUILT:
        _BUILT[name] = tiny.build(name)
    return _BUILT[name]


@pytest.fixture
def wrapped() -> Iterator[Callable[..., Any]]:
    """``wrapped(tiny, *pattern, needs=..., **config)`` wraps a tiny model until the test ends."""
    made = []

    def make(model: tiny.Tiny, *pattern: int, needs: tuple[str, ...] = ("glance",), **config: Any) -> Any:
        for arr in made:
            arr.detach()
        values = {"budgets": BUDGETS, "patch_side": SIDE} | config
        arr = arr_coc.wrap(
            model.model, tiny.tokenizer(), arr_coc.ArrCocConfig(**values), planner=Pattern(*pattern, needs=needs)
        )
        made.append(arr)
        return arr

    yield make
    for arr in made:
        arr.detach()
