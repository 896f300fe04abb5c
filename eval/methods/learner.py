"""Policies that the run learns itself, for ablations: each with settings of its own, on the same questions.

In a shared run all that learn from one stream go through it side by side: a question is seen and encoded once for all
of them, and an allocation that one had answered is not answered again for another.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from allocator import Policy
from arr_coc.learning.rewards import ASK_AGAIN, make_reward
from arr_coc.scene.contract import Planner

from .base import Method, register_method
from .calibrated import calibrated
from .planned import corrupt

if TYPE_CHECKING:
    from arr_coc.learning.tasks import Sample

    from ..model.bench import Bench


@register_method("learner")
@dataclass(kw_only=True)
class Learner(Method):
    """A policy learned in this run, from questions that are not judged on, before the first one that is.

    Attributes
    ----------
    policy, scorers, confidence, detail, slots, caution, tensions, price, limit
        As of `arr_coc.ArrCocConfig`; None keeps the run's own.
    corruption
        What breaks the knowing of this policy, while it learns and when it is judged; see `eval.corruptions`.
    calibrated
        Unlabelled questions on which what it knows is fitted to the model before it learns; 0 for none.
    checkpoints
        Answers after which what was learned so far is kept, for "learned" with ``after``; in shared runs.
    prior
        Whether the score heuristic is the prior mean; else the policy starts from zero.
    episodes
        Answers to learn from.
    reward
        What they are rewarded by.
    task
        Where they come from, as the section ``task`` of a file; reference VQA by default.
    kinds, seed, grid
        Short for these of the task; the seed is the run's by default.
    phases
        Instead of kinds, several lists of them that follow one another in equal parts: a stream that changes.
    forgetting
        Factor by which what was learned is discounted with each batch, in (0, 1]; below 1 for streams that change.
    """

    policy: str | None = None
    scorers: list[Any] | None = None
    confidence: bool | None = None
    detail: bool | None = None
    slots: str | None = None
    caution: float | None = None
    corruption: Any = None
    calibrated: int = 0
    checkpoints: list[int] = dataclasses.field(default_factory=list)
    tensions: list[str] | None = None
    price: float | None = None
    limit: float | None = None
    prior: bool = True
    episodes: int = 600
    reward: str = "vqa_accuracy"
    task: dict[str, Any] = dataclasses.field(default_factory=dict)
    kinds: list[str] | None = None
    seed: int | None = None
    grid: list[int] | None = None
    phases: list[list[str]] | None = None
    forgetting: float = 1.0

    def prepare(self, bench: Bench) -> None:
        from arr_coc.learning.loop import learn

        if ("learner", self.label) in bench.lessons:  # learned beside others
            self._planner: Planner = bench.lessons["learner", self.label]
            return
        if self.checkpoints:
            raise ValueError(f"method {self.label!r}: checkpoints need run.shared and a plain reward")
        planner = self.fresh(bench)
        out = None if bench.folder is None else bench.folder / "learning" / self.label
        own, bench.arr.planner = bench.arr.planner, planner
        try:
            learn(bench.arr, self.samples(bench), self.reward, self.episodes, out=out, resume=True)
        finally:
            bench.arr.planner = own
        self._planner = planner
        bench.lessons["learner", self.label] = planner

    def fresh(self, bench: Bench) -> Any:
        """The planner before it has learned anything."""
        from arr_coc.attending.planners import PolicyPlanner, build_policy, make_planner

        seed = bench.seed if self.seed is None else self.seed
        names = ("policy", "scorers", "confidence", "detail", "slots", "caution", "tensions", "price", "limit")
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        config = dataclasses.replace(bench.arr.config, seed=seed, **given)
        config = calibrated(bench, config, self.corruption, self.calibrated)
        planner = make_planner(config, bench.arr.model, bench.arr.processor)
        if isinstance(planner, PolicyPlanner) and not self.prior:
            planner.policy = build_policy(config, planner.contexts, prior=False)
        if isinstance(planner, PolicyPlanner) and self.forgetting < 1:
            planner.policy = dataclasses.replace(planner.policy, forgetting=self.forgetting)
        corrupt(planner, self.corruption, self.label)
        return planner

    def stream(self, bench: Bench) -> tuple[Any, ...]:
        """What tells its stream of questions and rewards from another learner's."""
        seed = bench.seed if self.seed is None else self.seed
        return seed, self.episodes, self.reward, repr((self.kinds, self.grid, self.phases, self.task))

    def samples(self, bench: Bench) -> Iterable[Mapping[str, Any]]:
        """The questions it learns from, in order."""
        seed = bench.seed if self.seed is None else self.seed
        from arr_coc.learning.tasks import learning_task
        from arr_coc.reference import generate

        if self.phases is None:
            return learning_task({"seed": seed, "kinds": self.kinds, "grid": self.grid, **self.task}, self.episodes)
        if self.task:
            raise ValueError(f"method {self.label!r}: phases are known of the reference world only; leave task out")
        each, grid = -(-self.episodes // len(self.phases)), None if self.grid is None else tuple(self.grid)
        return itertools.chain.from_iterable(
            generate(each, seed=1000 * number + seed, split="learn", kinds=kinds, grid=grid)
            for number, kinds in enumerate(self.phases)
        )

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        return self._planner


def learn_side_by_side(bench: Bench, learners: Sequence[Learner], progress: bool = True, batch: int = 8) -> None:
    """Let all learners of a shared run learn, stream by stream; what they learned is kept in the run's folder.

    As in `arr_coc.learn`, the questions of a batch share one posterior. A learner alone on its stream without
    checkpoints, or whose reward needs more than the answer, learns by itself when its turn comes. All keep the
    checkpoints that one of them names, and a broken run goes on from the last that all have.
    """
    streams: dict[tuple[Any, ...], list[Learner]] = {}
    for learner in learners:
        if ("learner", learner.label) not in bench.lessons and learner.reward not in ASK_AGAIN:
            streams.setdefault(learner.stream(bench), []).append(learner)
    for group in streams.values():
        if len(group) > 1 or group[0].checkpoints:
            _learn_stream(bench, group, progress, batch)


class _Kept:
    """What the learners of a stream had learned after so many answers: in the run's folder, and in its lessons."""

    def __init__(self, bench: Bench, group: Sequence[Learner], planners: Sequence[Any]) -> None:
        self.bench, self.group, self.planners = bench, group, planners
        self.last = group[0].episodes
        self.places = sorted({self.last, *(k for learner in group for k in learner.checkpoints if k < self.last)})

    def _named(self, after: int) -> Iterator[tuple[str, Path | None, Any]]:
        for learner, planner in zip(self.group, self.planners, strict=True):
            label = learner.label if after == self.last else f"{learner.label} after {after}"
            folder = self.bench.folder
            yield label, None if folder is None else folder / "learning" / f"{label}.safetensors", planner

    def resume(self) -> int:
        """Take up the last place that all have; answers that were learned from by then."""
        done = 0
        for after in self.places:
            named = list(self._named(after))
            if any(file is None or not file.exists() for _, file, _ in named):
                break
            for label, file, planner in named:
                planner.policy = Policy.load(file)  # type: ignore[arg-type]  # it exists
                self._tell(label, planner)
                done = planner.policy.rounds
        return done

    def keep(self, before: int, now: int) -> None:
        """Keep what was learned if a place lies in this batch."""
        for after in self.places:
            if before < after <= now:
                for label, file, planner in self._named(after):
                    if file is not None:
                        planner.policy.save(file)
                    self._tell(label, planner)

    def _tell(self, label: str, planner: Any) -> None:
        told = copy.copy(planner)
        told.policy, told.explore = copy.deepcopy(planner.policy), False
        self.bench.lessons["learner", label] = told


def _learn_stream(bench: Bench, group: Sequence[Learner], progress: bool, batch: int) -> None:
    reward, planners = make_reward(group[0].reward), [learner.fresh(bench) for learner in group]
    kept = _Kept(bench, group, planners)
    seen, total = kept.resume(), group[0].episodes
    questions = itertools.islice(iter(group[0].samples(bench)), seen, total)
    name = f"learning x {len(group)}"
    with tqdm(total=total, initial=seen, desc=name, unit="question", disable=not progress) as bar:
        while samples := list(itertools.islice(questions, batch)):
            lessons: list[tuple[list[Any], list[float]]] = [([], []) for _ in planners]
            for sample in samples:
                for planner, (decisions, rewards) in zip(planners, lessons, strict=True):
                    planner.explore = True
                    plan = bench.cached(sample).plan(planner)
                    decisions.append(plan.decision)
                    rewards.append(float(reward(bench.answer_plan(sample, plan).text, sample)))
            for planner, (decisions, rewards) in zip(planners, lessons, strict=True):
                planner.policy.update_many(decisions, rewards)
            bench.forget()
            kept.keep(seen, seen + len(samples))
            seen += len(samples)
            bar.update(len(samples))
