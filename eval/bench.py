"""The model under test: batches of questions in, answers with their tokens and times out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from arr_coc.asking import answers, prepare
from arr_coc.drawing import patch_boxes
from arr_coc.patches import Patch
from arr_coc.rewards import Reward
from arr_coc.scene import Allocation, Plan, Planner, Scene

if TYPE_CHECKING:
    from arr_coc.wrapper import ArrCoc

    from .tasks import Sample

SHARED_STAGES = ("encode", "splice", "generate")
"""Stages that `Allocation.timings` gives for the whole call; here each question bears an equal part."""


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
    timings
        Seconds by stage: glance, knowing, balancing, attending, encode, splice, generate; empty for an untouched call.
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
    ) -> None:
        self.arr, self.reward, self.max_new_tokens, self.seed = arr, reward, max_new_tokens, seed
        self.learned = learned
        self.shares = dict(shares or {})
        self.folder = folder

    @property
    def budgets(self) -> tuple[int, ...]:
        """The budgets of the wrapped model; the first is the floor."""
        return tuple(self.arr.config.budgets)

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
        if planners is not None:
            arr.planner = _Each(planners)
        try:
            texts, seconds, _ = self._generate(samples, images)
        finally:
            arr.planner = own
        pictures = [sample["image"] for sample in samples] if images is None else images
        return [
            self._answer(text, allocation, seconds, len(samples), picture)
            for text, allocation, picture in zip(texts, arr.last, pictures, strict=True)
        ]

    def untouched(self, samples: Sequence[Sample], images: Sequence[Image.Image] | None = None) -> list[Answer]:
        """Answer with the model as it was before it was wrapped; tokens are counted in the prompt."""
        self.arr.detach()
        try:
            texts, seconds, tokens = self._generate(samples, images)
        finally:
            self.arr.attach()
        full = tokens if images is None else [self.tokens(sample["image"], sample["question"]) for sample in samples]
        return [
            Answer(text, count, whole, seconds=seconds / len(samples))
            for text, count, whole in zip(texts, tokens, full, strict=True)
        ]

    def tokens(self, image: Image.Image, question: str) -> int:
        """Visual tokens that the untouched model spends on an image."""
        return self._count(prepare(self.arr.processor, [image], [question]))[0]

    def _answer(self, text: str, allocation: Allocation, seconds: float, batch: int, image: Image.Image) -> Answer:
        timings = allocation.timings.items()
        return Answer(
            text=text,
            tokens=allocation.tokens,
            full_tokens=allocation.full_tokens,
            budgets=list(allocation.budgets),
            realised=list(allocation.realised),
            seconds=seconds / batch,
            timings={stage: value / batch if stage in SHARED_STAGES else value for stage, value in timings},
            scores=dict(allocation.scores),
            boxes=self._boxes(image, allocation.patches),
        )

    def _boxes(self, image: Image.Image, patches: Sequence[Patch]) -> list[list[int]]:
        grid = getattr(self.arr.processor, "patch_grid", lambda image: None)(image)
        if grid is None and len({(patch.entry, patch.view) for patch in patches}) != 1:
            return []
        return [list(box) for box in patch_boxes((1000, 1000), patches, grid)]

    def _generate(
        self, samples: Sequence[Sample], images: Sequence[Image.Image] | None
    ) -> tuple[list[str], float, list[int]]:
        arr = self.arr
        pictures = [sample["image"] for sample in samples] if images is None else list(images)
        inputs = prepare(arr.processor, pictures, [sample["question"] for sample in samples]).to(arr.model.device)
        began = time.perf_counter()
        sequences = arr.model.generate(**inputs, do_sample=False, max_new_tokens=self.max_new_tokens)
        texts = answers(arr.processor, inputs["input_ids"], sequences)  # waits for the device
        return texts, time.perf_counter() - began, self._count(inputs)

    def _count(self, inputs: Mapping[str, Any]) -> list[int]:
        return (inputs["input_ids"] == self.arr.family.image_token(self.arr.model)).sum(1).tolist()
