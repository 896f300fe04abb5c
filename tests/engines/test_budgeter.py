"""A glance that leaves nothing is no reason to refuse: full detail is given, and it is said. No engine is needed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace as Some
from typing import Any

import pytest
import torch
from safetensors.torch import save

from allocator.logged.explore import Exploration
from allocator.logged.rounds import read_rounds
from arr_coc import ArrCocConfig, reference
from arr_coc.engines.vllm import engine as module
from arr_coc.engines.vllm.engine import Budgeter, check_planner, watched_layers
from arr_coc.engines.vllm.glance import Describer
from arr_coc.knowing import make_scorer
from arr_coc.realizing import Call
from arr_coc.serving.config import ServeConfig
from arr_coc.serving.engine import Answered
from arr_coc.serving.policy import Policies
from arr_coc.serving.service import Service
from arr_coc.wrapping.inputs import with_mask


class Client:
    """An engine that says nothing of what it saw."""

    def __init__(self, attention: bool) -> None:
        self.attention, self.asked = attention, []

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        self.asked.append(method)
        if method == "arr_coc_watch":
            return [[layer % 3 for layer in args[0]]]
        found = {"embeddings": torch.ones(len(args[1]), 128)}
        if self.attention:
            found |= {str(layer): torch.full((4, 2000), 5e-4) for layer in (1, 2)}
        return [save(found)]

    async def generate(self, given: Any, params: Any, name: str) -> Any:
        yield Some(outputs=[Some(logprobs=[{5: Some(logprob=-0.1), 6: Some(logprob=-2.5)}])])


def budgeter(client: Client, monkeypatch: pytest.MonkeyPatch, words: bool = True) -> Budgeter:
    model, processor = reference.load()
    describer = Describer(model.config, processor)
    policies = Policies(reference.policy_path(), Exploration(share=0.3), describer.model, processor)
    describer.serve(policies.config)
    (sample,) = reference.generate(1, seed=3, grid=(2, 2))
    inputs = processor(images=sample["image"], text=sample["question"])
    call = Call(model, describer.family, with_mask(model, dict(inputs), True), 20)
    monkeypatch.setattr(describer, "question", lambda given: call)
    if not words:
        monkeypatch.setattr(describer, "special", set(range(len(processor.tokenizer))))
    monkeypatch.setattr(
        module, "reduced", lambda given, call, grids, glance=False: {"grids": list(grids), "glance": glance}
    )
    monkeypatch.setattr(module, "glance_params", lambda name: None)
    return Budgeter(client, policies, describer)


def plan(made: Budgeter, **options: Any) -> Any:
    async def play() -> Any:
        await made.start()
        return await made.plan({"full": True}, **options)

    return asyncio.run(play())


def test_a_glance_that_was_read_is_planned_by(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(budgeter(Client(attention=True), monkeypatch))
    assert planned.fallback == "" and planned.once.taken is not None
    assert planned.tokens == sum(rows * columns for rows, columns in planned.given["grids"]) <= planned.full_tokens
    assert {"prepare", "glance", "attending"} <= set(planned.timings)


@pytest.mark.parametrize(("attention", "words", "why"), [(False, True, "attention"), (True, False, "no words")])
def test_without_a_glance_or_words_full_detail_is_given_and_the_log_says_so(
    attention: bool, words: bool, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = budgeter(Client(attention), monkeypatch, words)
    planned = plan(made)
    assert planned.given == {"full": True} and planned.tokens == planned.full_tokens == 1600
    assert why in planned.fallback and planned.budgets == [400] * 4
    answered = planned.answered("red", made.policies)
    assert isinstance(answered, Answered) and answered.taken is None

    async def note() -> None:
        service = Service(Some(policies=made.policies, identity="m", stop=nothing), ServeConfig(), tmp_path)
        name, _, _ = await service.note(answered, "what ?", 0.0)
        await service.reward(name, 1.0, None)
        assert b"arr_coc_fallbacks_total 1.0" in service.metrics.page()
        service.log.close()

    async def nothing() -> None:
        return None

    asyncio.run(note())
    joined = read_rounds(tmp_path)
    assert joined.decisions == 1 and not joined.rounds and not joined.orphans  # nobody learns from it


def test_questions_that_are_planned_side_by_side_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    made = budgeter(Client(attention=True), monkeypatch)

    async def play() -> list[Any]:
        await made.start()
        return await asyncio.gather(*(made.plan({"full": True}) for _ in range(6)))

    planned = asyncio.run(play())
    assert len({id(one.once.taken) for one in planned}) == 6
    for one in planned:
        index = one.once.taken.decision.index
        assert one.budgets == [made.policies.config.budgets[k] for k in index]


def test_a_policy_that_needs_the_features_of_the_glance_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = budgeter(Client(True), monkeypatch).policies.loaded.planner
    assert watched_layers(planner) == [-2, -1]
    check_planner(planner)
    planner.contexts.scorers.append(make_scorer({"name": "participatory", "variant": "embedding"}))
    with pytest.raises(ValueError, match="embedding"):
        check_planner(planner)


def test_positions_with_gaps_are_refused_where_an_engine_only_counts() -> None:
    describer = Describer.__new__(Describer)
    describer.model = Some(base_model=Some())  # no M-RoPE
    with pytest.raises(ValueError, match="positions='keep'"):
        describer.serve(ArrCocConfig(positions="keep"))
