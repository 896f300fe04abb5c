"""The model under test: batches of questions in, answers with their tokens and times out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from arr_coc.asking.ask import answers, prepare
from arr_coc.drawing import patch_boxes
from arr_coc.knowing import Scorer, make_scorer
from arr_coc.knowing.reading import suited
from arr_coc.knowing.relevance import Relevance
from arr_coc.learning.rewards import Reward
from arr_coc.scene.contract import Plan, Planner, Scene
from arr_coc.scene.patches import Patch, by_view, full_tokens
from arr_coc.wrapping.record import Allocation

from .clock import Clock
from .question import CachedQuestion, Tokens, full_builder, reduced

if TYPE_CHECKING:
    from torch import Tensor

    from arr_coc.learning.tasks import Sample
    from arr_coc.wrapping.planning import SceneBuilder
    from arr_coc.wrapping.wrapper import ArrCoc

SHARED_STAGES = ("encode", "splice", "prefill", "decode")
"""Stages that are timed for the whole call; here each question bears an equal part."""


@dataclass
class Answer:
    """One question, answered.

    Attributes
    ----------
    text
        What the model said.
    tokens, full_tokens
        Visual tokens that the language model saw, and those of the untouched image.
    budgets, realised
        Per patch the nominal budget and the tokens spent; empty for calls without allocation.
    seconds
        Wall time of the call, an equal part for each question of the batch. Image preprocessing is not in it.
    first
        Seconds from the start of the call to the first token of its answers, an equal part for each question too.
    timings
        Seconds by stage: glance, knowing, balancing, attending, encode, splice, prefill, decode. An untouched call has
        the last two, and its tower's time as encode.
    scores
        Per scorer one number per patch.
    boxes
        Where the patches lie: left, top, right, bottom in thousandths of the image; empty where that is unknown.
    """

    text: str
    tokens: int
    full_tokens: int
    budgets: list[int] = field(default_factory=list)
    realised: list[int] = field(default_factory=list)
    seconds: float = 0.0
    first: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    boxes: list[list[int]] = field(default_factory=list)


class _Each:
    """A planner that hands each question of a batch to a planner of its own."""

    def __init__(self, planners: Sequence[Planner]) -> None:
        self.needs = frozenset().union(*(planner.needs for planner in planners))
        self._waiting = deque(planners)

    def plan(self, scene: Scene) -> Plan:
        return self._waiting.popleft().plan(scene)


class Bench:
    """Answers batches of questions, wrapped or untouched.

    Parameters
    ----------
    arr
        The wrapped model. Its planner is put back after every call.
    reward
        What an answer is worth; the oracle looks at it.
    max_new_tokens
        Length of an answer.
    seed
        Seed of the run, see `rng`.
    learned
        Whether the wrapper's own planner holds a learned policy.
    shares
        Measured tokens over full tokens of methods that already ran, for methods that match another's tokens.
    folder
        The run's, where methods that learn keep their checkpoints.
    lessons
        What methods learned that others of the run may use.
    shared
        Let methods share what was seen, encoded and answered of a question (see `CachedQuestion`): an allocation that
        was answered is not answered again. Answers stay the same, but their times say nothing and are left out.
    """

    def __init__(
        self,
        arr: ArrCoc,
        reward: Reward,
        max_new_tokens: int = 8,
        seed: int = 0,
        learned: bool = False,
        shares: Mapping[str, float] | None = None,
        folder: Path | None = None,
        shared: bool = False,
    ) -> None:
        self.arr, self.reward, self.max_new_tokens, self.seed = arr, reward, max_new_tokens, seed
        self.learned = learned
        self.shares = dict(shares or {})
        self.folder, self.shared = folder, shared
        self._cached: dict[str, CachedQuestion] = {}
        self._detail: SceneBuilder | None = None
        self.lessons: dict[tuple[Any, ...], Any] = {}
        self._answers: dict[tuple[str, tuple[int, ...]], Answer] = {}

    def forget(self) -> None:
        """Let go of what was seen of the questions so far; answers are kept."""
        self._cached.clear()

    @property
    def budgets(self) -> tuple[int, ...]:
        """The budgets of the wrapped model; the first is the floor."""
        return tuple(self.arr.config.budgets)

    def scorer(self, name: str) -> Scorer:
        """A scorer with the options that the wrapped model's configuration gives it, or its defaults."""
        options = [s for s in self.arr.config.scorers if not isinstance(s, str) and s["name"] == name]
        return make_scorer(suited(options[0] if options else name, self.arr.model))

    def relevance(self) -> Relevance:
        """Where the question looks, by the scorers of the wrapped model's configuration that read it; by the model's
        own attention where none does."""
        readers = Relevance([make_scorer(suited(spec, self.arr.model)) for spec in self.arr.config.scorers]).readers
        return Relevance(readers or [self.scorer("participatory")])

    def share(self, method: str) -> float:
        """Mean share of full detail that an earlier method spent."""
        if method not in self.shares:
            raise ValueError(
                f"match: {method!r} has not been measured in this run; known: {sorted(self.shares) or 'none yet'}"
            )
        return self.shares[method]

    def rng(self, sample: Sample, *more: int) -> np.random.Generator:
        """A generator that depends on the run's seed and the question alone, so that batches and restarts change
        nothing."""
        return np.random.default_rng([self.seed, *more, *sample["question_id"].encode()])

    def __call__(
        self,
        samples: Sequence[Sample],
        planners: Sequence[Planner] | None = None,
        images: Sequence[Image.Image] | None = None,
    ) -> list[Answer]:
        """Answer through the wrapper: each question with a planner of its own, or all with the wrapper's.

        ``images`` replace the samples' own. ``full_tokens`` are those of the images given.
        """
        arr, own = self.arr, self.arr.planner
        if self.shared and images is None:
            each = [own] * len(samples) if planners is None else planners
            return [self._share(sample, planner) for sample, planner in zip(samples, each, strict=True)]
        if planners is not None:
            arr.planner = _Each(planners)
        try:
            texts, clock, _ = self._generate(samples, images)
        finally:
            arr.planner = own
        pictures = [sample["image"] for sample in samples] if images is None else images
        return [
            self._answer(text, allocation, clock, len(samples), picture)
            for text, allocation, picture in zip(texts, arr.last, pictures, strict=True)
        ]

    def pruned(
        self,
        samples: Sequence[Sample],
        choose: Callable[[Tokens, int], Tensor],
        share: float,
        tower: bool = False,
    ) -> list[Answer]:
        """Answer from a share of the tower's tokens, chosen question by question; see `eval.methods.pruned`."""
        return [self._pruned(sample, choose, share, tower) for sample in samples]

    def untouched(self, samples: Sequence[Sample], images: Sequence[Image.Image] | None = None) -> list[Answer]:
        """Answer with the model as it was before it was wrapped; tokens are counted in the prompt."""
        self.arr.detach()
        try:
            texts, clock, tokens = self._generate(samples, images)
        finally:
            self.arr.attach()
        full = tokens if images is None else [self.tokens(sample["image"], sample["question"]) for sample in samples]
        batch = len(samples)
        times = {"encode": clock.tower, "generate": clock.seconds - clock.tower} if clock.ticks else {}
        return [
            Answer(text, count, whole, seconds=clock.seconds / batch, first=clock.first / batch,
                   timings=_stages(times, clock, batch))
            for text, count, whole in zip(texts, tokens, full, strict=True)
        ]  # fmt: skip

    def tokens(self, image: Image.Image, question: str) -> int:
        """Visual tokens that the untouched model spends on an image."""
        return self._count(prepare(self.arr.processor, [image], [question]))[0]

    def _answer(self, text: str, allocation: Allocation, clock: Clock, batch: int, image: Image.Image) -> Answer:
        return Answer(
            text=text,
            tokens=allocation.tokens,
            full_tokens=allocation.full_tokens,
            budgets=list(allocation.budgets),
            realised=list(allocation.realised),
            seconds=clock.seconds / batch,
            first=clock.first / batch,
            timings=_stages(allocation.timings, clock, batch),
            scores=dict(allocation.scores),
            boxes=self._boxes(image, allocation.patches),
        )

    def cached(self, sample: Sample) -> CachedQuestion:
        """What has been seen of a question; a fresh look where nothing is shared."""
        known = self._cached.get(sample["question_id"]) if self.shared else None
        if known is not None:
            return known
        inputs = prepare(self.arr.processor, [sample["image"]], [sample["question"]]).to(self.arr.model.device)
        if self._detail is None:
            self._detail = full_builder(self.arr)
        question = CachedQuestion(self.arr, inputs, self.max_new_tokens, self._detail)
        if self.shared:
            self._cached[sample["question_id"]] = question
        return question

    def _share(self, sample: Sample, planner: Planner) -> Answer:
        """The answer to a planner's allocation."""
        return self.answer_plan(sample, self.cached(sample).plan(planner))

    def answer_plan(self, sample: Sample, plan: Plan) -> Answer:
        """The answer to an allocation, which another method may have had already; in shared runs."""
        question = self.cached(sample)
        scores = {name: [float(value) for value in values] for name, values in plan.scores.items()}
        key = sample["question_id"], tuple(plan.budgets)
        if key not in self._answers:
            realised, spent = question.realise(plan.budgets)
            text, patches = question.answer(question.call, realised), question.call.patches
            self._answers[key] = Answer(
                text, sum(spent), full_tokens(patches), list(plan.budgets), spent,
                boxes=self._boxes(sample["image"], patches),
            )  # fmt: skip
        return replace(self._answers[key], scores=scores)

    def _pruned(self, sample: Sample, choose: Callable[[Tokens, int], Tensor], share: float, tower: bool) -> Answer:
        question = self.cached(sample)
        clock = Clock(self.arr.model)
        tokens, call, rows = question.tokens(self.rng(sample), tower)
        with question.watch("knowing"):
            owner = choose(tokens, max(1, int(share * len(tokens.features) + 1e-9)))
        realised = reduced(call, rows, owner)
        text = question.answer(call, realised, clock)
        clock.stop()
        sizes = [patch.native for patch in call.patches]
        kept = [int((part >= 0).sum()) for part in _own(owner).split(sizes)]
        return Answer(
            text, sum(kept), sum(sizes), realised=kept,
            seconds=0.0 if self.shared else clock.seconds,
            first=0.0 if self.shared else clock.first,
            timings={} if self.shared else _stages(question.watch.seconds, clock, 1),
        )  # fmt: skip

    def _boxes(self, image: Image.Image, patches: Sequence[Patch]) -> list[list[int]]:
        grid = getattr(self.arr.processor, "patch_grid", lambda image: None)(image)
        if grid is None and len(by_view(patches)) != 1:
            return []
        return [list(box) for box in patch_boxes((1000, 1000), patches, grid)]

    def _generate(
        self, samples: Sequence[Sample], images: Sequence[Image.Image] | None
    ) -> tuple[list[str], Clock, list[int]]:
        arr = self.arr
        pictures = [sample["image"] for sample in samples] if images is None else list(images)
        inputs = prepare(arr.processor, pictures, [sample["question"] for sample in samples]).to(arr.model.device)
        clock = Clock(arr.model)
        with nullcontext() if arr.attached else clock.watching(arr.model):
            sequences = arr.model.generate(
                **inputs, do_sample=False, max_new_tokens=self.max_new_tokens, stopping_criteria=[clock]
            )
        texts = answers(arr.processor, inputs["input_ids"], sequences)
        clock.stop()
        return texts, clock, self._count(inputs)

    def _count(self, inputs: Mapping[str, Any]) -> list[int]:
        return (inputs["input_ids"] == self.arr.family.image_token(self.arr.model)).sum(1).tolist()


def _stages(timings: Mapping[str, float], clock: Clock, batch: int) -> dict[str, float]:
    """Seconds by stage for one question of a batch, the language model's time cut where the first token is there."""
    stages = {stage: value for stage, value in timings.items() if stage != "total"}
    if "generate" in stages:
        whole = stages.pop("generate")
        stages |= {"prefill": max(0.0, whole - clock.decode), "decode": clock.decode}
    return {stage: value / batch if stage in SHARED_STAGES else value for stage, value in stages.items()}


def _own(owner: Tensor) -> Tensor:
    """Owners with -1 for every token that doesn't stand for itself."""
    return owner.where(owner == torch.arange(len(owner)), -1)
