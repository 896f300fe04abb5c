"""A supervised router with two levels per patch."""

from __future__ import annotations

import dataclasses
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from arr_coc.knowing.detail import scene_detail_loss
from arr_coc.scene.contract import Plan, Planner, Scene

from .base import Method, NotApplicable, register_method, wanted_share
from .fixed import Same

if TYPE_CHECKING:
    from arr_coc.attending.planners import PolicyPlanner
    from arr_coc.learning.tasks import Sample

    from ..model.bench import Bench

RATIO, SMOOTH = 1.25, 0.1
"""A patch needs its detail where the loss without it is this many times the loss with it, both raised by SMOOTH nats,
so that ratios of what is next to nothing do not count."""


@register_method("router")
@dataclass(kw_only=True)
class Router(Method):
    """Floor or full detail for each patch, by a classifier trained on what detail did to the model's own answers.

    The shape of the router of ViCO (Wang et al., "InternVL3.5", 2025: two levels per patch, labels from the ratio of
    losses with and without the patch's detail). Here the ratio is taken from the floor up, at a sixth of the price of
    taking it from full detail down: the loss of the right answer's first token with every patch at the floor, over
    that with one patch at full detail. The classifier is a logistic regression.

    Attributes
    ----------
    share
        With it, or with ``match``, the threshold is the one at which the training questions spend that share; else a
        probability of one half.
    question
        Whether it sees the context vectors of the learned policy, with the question in them; else, as ViCO's, only
        what the patch looks like: scores, detail, and the mean of its glance tokens.
    episodes, task
        Questions to train on, and where they come from, as the section ``task`` of a file; reference VQA by default,
        never those that are judged.
    """

    share: float | None = None
    question: bool = False
    episodes: int = 80
    task: dict[str, Any] = dataclasses.field(default_factory=dict)

    def prepare(self, bench: Bench) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        from arr_coc.attending.planners import PolicyPlanner, make_planner
        from arr_coc.learning.tasks import learning_task

        config = dataclasses.replace(bench.arr.config, policy="heuristic", limit=None)
        planner = make_planner(config, bench.arr.model, bench.arr.processor)
        assert isinstance(planner, PolicyPlanner)
        self._seeing = _Seeing(planner, self.question)
        key = ("router", repr(self.task), self.episodes)
        if key not in bench.lessons:  # routers that see different things learn from the same labels
            rows = []
            task = learning_task({"seed": bench.seed, **self.task}, self.episodes)
            for sample in itertools.islice(task, self.episodes):
                needed = self._needs(bench, sample)
                scene = self._seeing.scene
                rows.append((needed, scene.costs.numpy(), self._seeing.asked(scene), self._seeing.shown(scene)))
                bench.forget()
            bench.lessons[key] = [np.concatenate(column) for column in zip(*rows, strict=True)]
        y, spent, asked, shown = bench.lessons[key]
        x = asked if self.question else shown
        if y.all() or not y.any():
            raise NotApplicable(f"detail decides {'every' if y.all() else 'no'} patch of {self.episodes} questions")
        self._model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1)).fit(x, y)
        self._threshold = 0.5
        if self.share is not None or self.match is not None:
            floor = spent[:, 0].sum() / spent[:, -1].sum()
            detailed = np.clip((wanted_share(self, bench) - floor) / (1 - floor), 0, 1)
            self._threshold = float(np.quantile(self._model.predict_proba(x)[:, 1], 1 - detailed))

    def _needs(self, bench: Bench, sample: Sample) -> np.ndarray:
        """``[N]`` bool: which patches the model answers better for, each alone at full detail."""
        question = bench.cached(sample)
        question.plan(self._seeing)
        floor, full, patches = bench.budgets[0], bench.budgets[-1], range(len(question.call.patches))
        tokenizer = getattr(bench.arr.processor, "tokenizer", bench.arr.processor)
        answer = str(next(iter(sample.get("answers") or [sample.get("answer")])))
        gold = tokenizer(answer, add_special_tokens=False)["input_ids"][0]

        def loss(budgets: list[int]) -> float:
            return SMOOTH - float(question.next_token(question.realise(budgets)[0])[gold])

        without = loss([floor] * len(patches))
        return np.array([without / loss([full if i == p else floor for i in patches]) >= RATIO for p in patches])

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        return _Routed(self._seeing, self._model, self._threshold, bench.budgets)


class _Seeing(Same):
    """What the classifier knows of each patch; as a planner it keeps the last scene."""

    needs = frozenset({"pixels", "glance"})

    def __init__(self, planner: PolicyPlanner, question: bool) -> None:
        super().__init__(planner.config.budgets[0])
        self.contexts, self.question = planner.contexts, question

    def __call__(self, scene: Scene) -> np.ndarray:
        return self.asked(scene) if self.question else self.shown(scene)

    def asked(self, scene: Scene) -> np.ndarray:
        """``[N, d]`` the context vectors of the learned policy."""
        return np.asarray(self.contexts(scene)[0])

    def shown(self, scene: Scene) -> np.ndarray:
        """``[N, d]`` what the patches look like, whatever is asked."""
        known = [scorer(scene).cpu()[:, None] for scorer in self.contexts.relevance.blind]
        if scene.pixels is not None:
            known.append(scene_detail_loss(scene).per_patch.cpu())
        return torch.cat([*known, torch.stack([tokens.mean(0) for tokens in scene.glance])], 1).numpy()

    def plan(self, scene: Scene) -> Plan:
        self.scene = scene
        return super().plan(scene)


class _Routed:
    def __init__(self, seeing: _Seeing, model: Any, threshold: float, budgets: tuple[int, ...]) -> None:
        self.needs, self.seeing, self.model, self.threshold, self.budgets = (
            seeing.needs, seeing, model, threshold, budgets,
        )  # fmt: skip

    def plan(self, scene: Scene) -> Plan:
        began = time.perf_counter()
        detailed = self.model.predict_proba(self.seeing(scene))[:, 1] > self.threshold
        timings = {"knowing": time.perf_counter() - began}
        return Plan([self.budgets[-1] if d else self.budgets[0] for d in detailed], timings=timings)
