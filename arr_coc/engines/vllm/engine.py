"""One question through vLLM: a glance, the plan, the answer; the first and the last are ordinary requests."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load

from ...attending.planners import PolicyPlanner
from ...scene.patches import full_tokens
from ...serving.engine import Answered
from ...serving.policy import Loaded, Once, Policies
from .glance import Describer, Glanced
from .inputs import reduced
from .names import KEY


@dataclass
class Planned:
    """A rendered input at the planned budgets, with all that is to be remembered of it.

    Attributes
    ----------
    given
        What is to be generated from.
    once
        The planner of this question with its decision; None where none was asked.
    budgets, tokens, full_tokens
        What is spent.
    question
        In words.
    timings
        Seconds by stage.
    fallback
        Why no decision was made.
    """

    given: Mapping[str, Any]
    once: Once | None
    budgets: list[int]
    tokens: int
    full_tokens: int
    question: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    fallback: str = ""

    def answered(self, text: str | None, policies: Policies, grid: tuple[int, int] | None = None) -> Answered:
        """What was answered, for the log; without text where it is still being written."""
        taken = self.once.taken if self.once is not None and not self.fallback else None
        return Answered(
            text, self.budgets, self.tokens, self.full_tokens, taken,
            self.once.price if self.once else policies.loaded.planner.price,
            self.once.version if self.once else policies.version, grid, self.timings, self.fallback,
        )  # fmt: skip


class Budgeter:
    """Gives rendered inputs of one engine their budgets.

    Parameters
    ----------
    client
        vLLM's asynchronous engine.
    policies
        The served policy.
    describer
        Of the served model.
    """

    def __init__(self, client: Any, policies: Policies, describer: Describer) -> None:
        self.client, self.policies, self.describer = client, policies, describer
        self.layers: dict[float, int] = {}
        self._plans = ThreadPoolExecutor(1, thread_name_prefix="plan")  # one after another: an explorer has a state

    async def start(self) -> None:
        """Begin to watch what the policy reads."""
        await self.watch(self.policies.loaded)

    async def watch(self, loaded: Loaded) -> None:
        """Watch the layers that a policy reads.

        Raises
        ------
        ValueError
            If it asks for what can't be had of this engine.
        """
        check_planner(loaded.planner)
        layers = watched_layers(loaded.planner)
        numbers = await self.client.collective_rpc("arr_coc_watch", args=(layers,))
        self.layers |= dict(zip(layers, numbers[0], strict=True))

    def stop(self) -> None:
        """Let the planning thread go."""
        self._plans.shutdown()

    async def plan(
        self, given: Mapping[str, Any], allocation: Sequence[Sequence[int]] | None = None
    ) -> Planned | None:
        """Plan the budgets of a rendered input; None if it has no image.

        A glance that can't be read, or a question without words, is no reason to refuse: full detail is given, and it
        is said.

        Parameters
        ----------
        given
            At full detail.
        allocation
            Per image the budgets of its patches, where they are not to be planned.

        Raises
        ------
        ValueError
            If the allocation doesn't fit.
        """
        began = time.perf_counter()
        call = await self._thread(self.describer.question, given)
        if call is None:
            return None
        full = full_tokens(call.patches)
        if allocation is not None:
            budgets = self.describer.allocation(call, given, allocation)
            grids = self.describer.grids(call, budgets)
            spent = sum(rows * columns for rows, columns in grids)
            return Planned(reduced(given, call, grids), None, budgets, spent, full, fallback="given by the client")
        try:
            words = self.describer.words(call)
        except ValueError as error:
            return self._full(given, call, None, "", {}, str(error))
        once, timings = self.policies.once(), {"prepare": time.perf_counter() - began}
        try:
            glanced = await self._glance(given, call, words[1], timings)
            scene = await self._thread(self.describer.scene, call, words, self.layers, glanced)
            plan = await self._thread(once.plan, scene)
        except _Unread as error:
            return self._full(given, call, once, words[0], timings, str(error))
        timings |= plan.timings
        grids = self.describer.grids(call, plan.budgets)
        spent = sum(rows * columns for rows, columns in grids)
        short = await self._thread(reduced, given, call, grids)
        return Planned(short, once, [int(b) for b in plan.budgets], spent, full, words[0], timings)

    def _full(
        self, given: Mapping[str, Any], call: Any, once: Once | None, words: str, timings: dict[str, float], why: str
    ) -> Planned:
        full, highest = full_tokens(call.patches), [self.policies.config.budgets[-1]] * len(call.patches)
        return Planned(given, once, highest, full, full, words, timings, why)

    async def _glance(
        self, given: Mapping[str, Any], call: Any, words: list[int], timings: dict[str, float]
    ) -> Glanced:
        began, name = time.perf_counter(), uuid.uuid4().hex
        floor = await self._thread(reduced, given, call, self.describer.floor(call), True)
        outputs = [one async for one in self.client.generate(floor, glance_params(name), f"arr-coc-{name}")]
        ranks = await self.client.collective_rpc("arr_coc_take", args=(name, words))
        glanced = joined(ranks, outputs[-1].outputs[0].logprobs)
        timings["glance"] = time.perf_counter() - began
        if not set(self.layers.values()) <= set(glanced.attention):
            raise _Unread("the attention of the glance could not be read")
        return glanced

    async def _thread(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._plans, function, *args)


class _Unread(RuntimeError):
    """A glance left nothing; never leaves this module."""


def glance_params(name: str) -> Any:
    """Of the request that is watched under a name: one token, the two likeliest, and no prefix from a cache."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0, max_tokens=1, logprobs=2, extra_args={KEY: name}, skip_reading_prefix_cache=True
    )


def joined(ranks: Sequence[bytes], logprobs: Any) -> Glanced:
    """What every rank of the engine has read, heads after one another."""
    parts = [load(rank) for rank in ranks]
    layers = [int(key) for key in parts[0] if key != "embeddings"]
    attention = {layer: torch.cat([part[str(layer)] for part in parts]) for layer in layers}
    likely = {token: value.logprob for token, value in logprobs[0].items()}
    return Glanced(attention, parts[0]["embeddings"], likely)


def watched_layers(planner: PolicyPlanner) -> list[float]:
    """The layers whose attention a planner reads."""
    return sorted({layer for scorer in planner.contexts.scorers for layer in getattr(scorer, "layers", ())})


def check_planner(planner: PolicyPlanner) -> None:
    """Refuse a policy that needs what no engine gives: the features of the glance.

    Raises
    ------
    ValueError
        Naming the scorer.
    """
    for scorer in planner.contexts.scorers:
        if "glance" in scorer.needs and getattr(scorer, "variant", "") != "attention":
            raise ValueError(
                f"the policy's scorer {scorer.name} ({getattr(scorer, 'variant', '')}) reads the features of the "
                "glance, which stay in the engine; learn a policy with participatory attention, or serve it with "
                "arr-coc serve"
            )
