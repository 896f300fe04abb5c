"""One question taken in hand: looked at, encoded and answered step by step, at the seam that the wrapper uses.

Two things need the steps apart: methods that drop single tokens of the tower rather than choose budgets, and runs in
which all methods share what was already seen, encoded or answered.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from arr_coc.asking.ask import answers
from arr_coc.attending.planners import PolicyPlanner
from arr_coc.config import ArrCocConfig
from arr_coc.realizing import Call, Encoded, Realised, splice
from arr_coc.scene.contract import Plan, Planner, Scene
from arr_coc.wrapping.inputs import with_mask
from arr_coc.wrapping.planning import Observed, SceneBuilder
from arr_coc.wrapping.timing import Stopwatch

from .tower import TowerReader, TowerView

if TYPE_CHECKING:
    from arr_coc.wrapping.wrapper import ArrCoc


@dataclass
class Tokens:
    """All visual tokens of one question at full detail, for methods that keep some of them.

    Attributes
    ----------
    features
        ``[N, D]`` float32: what the language model would see, patch after patch, each in raster order.
    scene
        The scene at full detail: its glance *is* these tokens, its attention is the language model's to each of them.
    tower
        How the tower's attention went, if asked for.
    rng
        A generator of this question's own.
    """

    features: torch.Tensor
    scene: Scene
    tower: TowerView | None
    rng: np.random.Generator


class _Asks:
    """A planner that only says what it wants to see."""

    def __init__(self, needs: frozenset[str]) -> None:
        self.needs = needs

    def plan(self, scene: Scene) -> Plan:
        raise NotImplementedError


def alone(encoded: Encoded) -> Encoded:
    """What was encoded of patches that saw no other: it is the same whatever becomes of the others."""
    return {key: features for key, features in encoded.items() if len(key) == 1}


def full_builder(arr: ArrCoc) -> SceneBuilder:
    """A builder whose glance is full detail."""
    side = arr.config.patch_side
    config = ArrCocConfig(budgets=(side * side,), patch_side=side, positions=arr.config.positions)
    return SceneBuilder(arr.model, arr.family, arr.processor, arr.realizer, config)


class CachedQuestion:
    """One question of a wrapped model.

    Parameters
    ----------
    arr
        The wrapped model, attached.
    inputs
        What its processor made of one image and one question.
    max_new_tokens
        Length of an answer.
    detail
        Who looks at full detail, see `full_builder`; made when it is needed by default.
    """

    def __init__(
        self, arr: ArrCoc, inputs: Mapping[str, Any], max_new_tokens: int, detail: SceneBuilder | None = None
    ) -> None:
        self.arr, self.max_new_tokens, self._detail = arr, max_new_tokens, detail
        self._asked = with_mask(arr.model, inputs, True)
        self.call = self._fresh_call()
        self.watch = Stopwatch(arr.model, arr.synchronize)
        self._needs: frozenset[str] | None = None
        self._observed: Observed
        self._full: tuple[Observed, TowerView | None] | None = None
        self._known: Encoded = {}
        self._known_contexts: dict[str, Any] = {}

    def _fresh_call(self) -> Call:
        return Call(self.arr.model, self.arr.family, self._asked, self.arr.config.patch_side)

    def plan(self, planner: Planner) -> Plan:
        """Ask a planner; what it needs to see is looked at once for all planners, and known once for all policies."""
        needs = frozenset(planner.needs) | (self._needs or frozenset())
        if needs != self._needs:
            self._observed, self._needs = self.arr.builder.build(self.call, 0, None, _Asks(needs), False), needs
            glance = self._observed.glance
            if glance is not None:
                self._known |= alone(glance.encoded)
        assert self._observed.scene is not None
        if isinstance(planner, PolicyPlanner):
            planner = copy.copy(planner)
            planner.contexts = partial(self._contexts, planner.contexts, planner.config)
        return self.arr.builder.plan(planner, self._observed.scene)

    def _contexts(self, contexts: Any, config: ArrCocConfig, scene: Scene, reads: Any = None) -> Any:
        """Context vectors depend on what is looked at and how, not on the policy that goes by them or on its terms; so
        all of them are worked out, whatever one policy reads."""
        terms = replace(config, policy="heuristic", budget=None, price=0.0, limit=None, caution=0.0, tensions=())
        key = f"{terms} {getattr(contexts, 'corruption', None)}"
        if key not in self._known_contexts:
            self._known_contexts[key] = contexts(scene)
        return self._known_contexts[key]

    def realise(self, budgets: Sequence[int]) -> tuple[Realised, list[int]]:
        """What an allocation makes of the image, and the tokens of each patch; encoded patches are used again."""
        arr, call = self.arr, self.call
        grids = [arr.realizer.grid(arr.family, p, b) for p, b in zip(call.patches, budgets, strict=True)]
        with torch.no_grad():
            realised = arr.realizer.realize(call, grids, self._known)
        self._known |= alone(realised.encoded)
        return realised, [rows * columns for rows, columns in grids]

    def tokens(self, rng: np.random.Generator, tower: bool = False) -> tuple[Tokens, Call, torch.Tensor]:
        """All tokens at full detail, the call that they belong to, and the feature row ``[N]`` of each in it.

        ``tower`` reads the tower's attention as well.
        """
        arr = self.arr
        if self._full is None or (tower and self._full[1] is None):
            builder = self._detail or full_builder(arr)
            call = self._fresh_call() if tower else self.call  # features that are known would run no tower to read
            reader = TowerReader(arr.model, arr.family) if tower else nullcontext()
            with reader as read, self.watch("encode"):
                observed = builder.build(call, 0, None, _Asks(frozenset({"glance"})), False)
            assert observed.glance is not None
            self.call.adopt([observed.glance.call])
            self._full = observed, None if read is None else read.view(observed.glance.call.starts[-1])
        observed, view = self._full
        assert observed.glance is not None and observed.scene is not None
        call = observed.glance.call
        rows = torch.cat([call.rows(patch).reshape(-1) for patch in call.patches])
        features = call.full.streams[0].detach()
        if view is not None:
            view = TowerView(view.received[rows], view.keys[rows])
        return Tokens(features[rows.to(features.device)].float(), observed.scene, view, rng), call, rows

    def answer(self, call: Call, realised: Realised, clock: Any = None) -> str:
        """The model's answer from exactly these tokens, by its own ``generate``."""
        extra = {} if clock is None else {"stopping_criteria": [clock]}
        prompt, sequences = self._generate(call, realised, max_new_tokens=self.max_new_tokens, **extra)
        (text,) = answers(self.arr.processor, prompt, sequences)
        return text

    def next_token(self, realised: Realised) -> torch.Tensor:
        """``[V]`` log-probabilities of the answer's first token."""
        asked = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
        return self._generate(self.call, realised, **asked)[1].logits[0][0].float().log_softmax(-1).cpu()

    def _generate(self, call: Call, realised: Realised, **asked: Any) -> tuple[torch.Tensor, Any]:
        """The shortened prompt, and what ``generate`` made of it."""
        model = self.arr.model
        with self.watch("splice"):
            spliced = splice(call, realised, self.arr.config.positions, for_generate=True)
        if spliced.rope_deltas is not None:
            model.base_model.rope_deltas = spliced.rope_deltas
        with self.watch("generate"):
            return spliced.inputs["input_ids"], model.generate(**spliced.inputs, do_sample=False, **asked)


def reduced(call: Call, rows: torch.Tensor, owner: torch.Tensor) -> Realised:
    """Keep some of a call's visual tokens, each as the mean of the tokens that it stands for.

    Parameters
    ----------
    call
        One question, encoded at full detail.
    rows
        ``[N]`` feature rows of its visual tokens; rows that are none of them (newlines) are glue.
    owner
        ``[N]`` per token the token that stands for it: itself where it is kept, -1 where it is dropped. A token that
        stands for others must stand for itself.

    Returns
    -------
    Realised
        The model's own output, untouched, where every token stands for itself. Tokens keep their places.
    """
    owner, full, count = owner.cpu(), call.full, call.starts[-1]
    kept = (owner == torch.arange(len(owner))).nonzero().squeeze(1)
    if not bool(torch.isin(owner, torch.cat([kept, torch.tensor([-1])])).all()) or not len(kept):
        raise ValueError("owner must name kept tokens, those that stand for themselves, and keep at least one")
    if len(kept) == len(owner):
        return Realised(torch.ones(count, dtype=torch.bool), full.streams, full.output, full.output,
                        [False] * len(call.entries))  # fmt: skip
    keep = torch.ones(count, dtype=torch.bool)
    keep[rows] = False
    keep[rows[kept]] = True
    keep = call.without_orphans(keep)
    used = (owner >= 0).nonzero().squeeze(1)
    group = torch.searchsorted(kept, owner[used])
    sizes = torch.bincount(group, minlength=len(kept))
    chosen, streams = keep.nonzero().squeeze(1), []
    for stream in full.streams:
        device = stream.device
        sums = torch.zeros(len(kept), stream.shape[1], device=device)
        sums.index_add_(0, group.to(device), stream[rows[used].to(device)].float())
        means = (sums / sizes.to(device).unsqueeze(1)).to(stream.dtype)
        streams.append(stream.index_copy(0, rows[kept].to(device), means)[chosen.to(device)])
    return Realised(keep, tuple(streams), full.output, None, [False] * len(call.entries))
