"""Attending: from what is known about each patch to one budget each.

The context vector of a patch (``Contexts.slots`` names every entry) is bounded by construction, so it needs no running
statistics. Value means gain over the floor. A patch can only gain if the question is about it and the glance has not
already answered it, so every slot is a multiple of ``relevance_doubt``: the relevance ``r`` of the patch relative to
the most relevant one (see `Relevance`) times the model's doubt ``u`` about the answer its glance gives. With
``loss_b`` the detail that budget ``b`` destroys *where the question looks* and ``q`` a random projection of the
question, the slots are ``r u`` times

    loss_b, 1, u, q, each score that is blind to the question

and, where several scorers read the question, the relative score of each, so that a learner may trust one more.

The covariates explain how hard the question is whatever is allocated: ``doubt`` u, the probability ``other_mass`` that
the glance gives to all other answers, their squares, ``q`` and ``u q``. Without them hard questions, which are given
more tokens, would make detail look harmful. The score heuristic "worth of a budget = relevance times doubt times the
detail it restores" is linear in these slots; it is the prior mean of the learners and, frozen, the baseline they must
beat.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from allocator import Policy, make_policy, policy_names
from allocator.registry import policy_class

from ..balancing import Balance, Balancer, balance_config
from ..config import POLICIES, ArrCocConfig, resolve_limit
from ..knowing import Scorer, make_scorer
from ..knowing.detail import scene_detail_loss
from ..knowing.relevance import Relevance
from ..scene.contract import Plan, Planner

if TYPE_CHECKING:
    from allocator import Decision

    from ..scene.contract import Scene

QUESTION_WIDTH = 8
PRIOR_STRENGTH = 1.0
"""Reward the score heuristic expects from restoring all detail of a patch of relevance and doubt 1."""
PRIOR_PRECISION = 10.0
"""Prior precision of every slot, in observations of unit noise."""
WORTHLESS = 0.01
"""Where relevance times doubt is below this, the detail lost is not measured: no more can be gained there."""
TYPICAL_LOSS = 0.4
"""Share of local detail that a typical picture loses per share of resolution given up, where none was measured: fitted
to the means over reference questions, .25, .17 and .07 at 64, 128 and 256 of 400 tokens (eval/records/knowing)."""
POSTERIOR_SCALE = 0.15
"""Scale of Thompson draws: with the posterior reckoned at unit noise, about half the deviation of 0/1 rewards."""


class Contexts:
    """Scores and context vectors of a scene.

    Parameters
    ----------
    budgets
        The K budgets.
    scorers
        In the order in which their scores enter.
    confidence
        Whether the doubt is read from the glance (one full-depth pass over the glance tokens); else u = e = 1, and the
        heuristic is relevance times restored detail.
    seed
        Of the question's projection.
    detail
        Whether the detail lost is measured; else it is what is typical of each budget, see `TYPICAL_LOSS`.
    """

    def __init__(
        self,
        budgets: Sequence[int],
        scorers: Sequence[Scorer],
        confidence: bool = True,
        seed: int = 0,
        detail: bool = True,
    ):
        self.scorers, self.confidence, self.seed, self.measured = list(scorers), confidence, seed, detail
        self.typical = torch.tensor([TYPICAL_LOSS * (1 - math.sqrt(b / budgets[-1])) for b in budgets[:-1]])
        self.budgets, self.reduced = tuple(budgets), [f"loss_{b}" for b in budgets[:-1]]
        questions = [f"q{i}" for i in range(QUESTION_WIDTH)]
        self.relevance = Relevance(scorers)
        single = len(self.relevance.readers) == 1
        self.factors = [s.name for s in scorers if not (single and s.reads_question)]
        factors = ["doubt", *self.reduced, *questions, *self.factors]
        self.slots = ["relevance_doubt", *(f"relevance_doubt {name}" for name in factors)]
        self.covariates = ["doubt", "other_mass", "doubt doubt", "other_mass other_mass", *questions]
        self.covariates += [f"doubt {q}" for q in questions]

    def prior_mean(self) -> np.ndarray:
        """``[K-1, d]``: arm k is worth relevance times doubt times the detail it restores, ``ru (d_0 - d_k)``."""
        theta = np.zeros((len(self.reduced), len(self.slots)))
        theta[:, self.slots.index(f"relevance_doubt {self.reduced[0]}")] = PRIOR_STRENGTH
        for k, name in enumerate(self.reduced[1:]):
            theta[k, self.slots.index(f"relevance_doubt {name}")] = -PRIOR_STRENGTH
        return theta

    def question_code(self, embeddings: Tensor) -> Tensor:
        """``[8]``: the mean embedding of the question, at unit length, under a fixed Gaussian projection."""
        mean = embeddings.float().mean(0)
        mean = mean / mean.norm().clamp_min(1e-6)
        generator = torch.Generator().manual_seed(self.seed)
        projection = torch.randn(QUESTION_WIDTH, mean.numel(), generator=generator)
        return projection.to(mean.device) @ mean / 2

    def __call__(self, scene: Scene) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Contexts ``[N, d]``, covariates ``[m]`` and the scores by name."""
        # The full-depth pass goes first: attention is then read off the same pass.
        u, e = self.doubt(scene)
        scores = {scorer.name: scorer(scene).cpu() for scorer in self.scorers}
        relevance = _relative(self.relevance.join(scores))
        detail = self.detail(scene, u * relevance, scores)
        readers = {reader.name for reader in self.relevance.readers}
        others = [_relative(scores[name]) if name in readers else scores[name] for name in self.factors]
        question = self.question_code(scene.question_embeddings).cpu()
        asked = torch.cat([question.new_tensor([1.0, u]), question]).expand(len(relevance), -1)
        known = torch.cat([asked[:, :2], detail, asked[:, 2:], *(score[:, None] for score in others)], 1)
        covariates = torch.cat([question.new_tensor([u, e, u * u, e * e]), question, u * question])
        return u * relevance[:, None] * known, covariates, scores

    def doubt(self, scene: Scene) -> tuple[float, float]:
        """Doubt u about the glance's answer and probability e of all other answers, both in [0, 1].

        u is one less the margin between the two likeliest answers: between "yes" and "no" at 70 to 30 it is 0.6,
        where e, at most one half there, would call that surer than a name picked at 60 from a hundred.
        """
        if not self.confidence:
            return 1.0, 1.0
        first, second = scene.glance_answer().float().exp().topk(2).values.tolist()
        return max(1.0 - (first - second), 0.0), max(1.0 - first, 0.0)

    def detail(
        self, scene: Scene, worth: Tensor | None = None, scores: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """``[N, K-1]`` share of detail each reduced budget destroys, weighted by where the question looks.

        It is measured where ``worth [N]`` is at least `WORTHLESS` (everywhere by default), and else what is typical;
        without pixels it is typical everywhere. ``scores`` are those of the scene, if they are known.
        """
        detail = self.typical.repeat(len(scene.patches), 1)
        rows = [i for i in range(len(detail)) if worth is None or worth[i] >= WORTHLESS]
        if scene.pixels is None or not self.measured or not rows:
            return detail
        part = dataclasses.replace(
            scene,
            patches=[scene.patches[i] for i in rows],
            pixels=[scene.pixels[i] for i in rows],
            costs=scene.costs[rows],
            glance_grids=[scene.glance_grids[i] for i in rows],
        )
        loss = scene_detail_loss(part)
        if not self.relevance.readers:
            found = loss.per_patch
        else:
            cells = self.relevance.cell_map(scene, scores)
            found = loss.attended([cells[i] / cells[i].sum().clamp_min(1e-9) for i in rows])
        detail[rows] = found[:, :-1].cpu()
        return detail


def _relative(score: Tensor) -> Tensor:
    return score / score.max().clamp_min(1e-6)


class BlindPlanner:
    """A planner that looks at nothing: uniform, random and other policies without contexts."""

    needs: frozenset[str] = frozenset()

    def __init__(self, config: ArrCocConfig, policy: Policy):
        self.config, self.policy = config, policy

    def plan(self, scene: Scene) -> Plan:
        """The policy's budgets under the limit; the scene is not looked at."""
        began = time.perf_counter()
        limit = resolve_limit(self.config.limit, scene.costs) if self.config.limit is not None else None
        decision = self.policy.select(costs=scene.costs, limit=limit)
        return Plan(_budgets(self.config, decision), decision, timings={"attending": time.perf_counter() - began})


class PolicyPlanner:
    """Knowing, balancing and attending for one question.

    Attributes
    ----------
    policy
        The allocator's policy; replace its state to use a learned one.
    price
        Reward units that a full-detail image costs.
    explore
        Whether the policy explores; learning sets it.
    """

    needs = frozenset({"pixels", "glance"})

    def __init__(self, config: ArrCocConfig, contexts: Contexts, policy: Policy):
        self.config, self.contexts, self.policy = config, contexts, policy
        self.balancer = Balancer(balance_config(config.tensions), contexts.relevance.join)
        self.price, self.explore = config.price, False

    @property
    def direct(self) -> bool:
        """Whether a question may be answered without asking, where looking can't pay; not while exploring."""
        return self.config.direct and not self.explore

    def plan(self, scene: Scene) -> Plan:
        """Score the patches, set the terms, let the policy choose."""
        began = time.perf_counter()
        contexts, covariates, scores = self.contexts(scene)
        known = time.perf_counter()
        balance = self.balancer(scene, scores, self.price)
        balanced = time.perf_counter()
        limit = resolve_limit(self.config.limit, scene.costs) if self.config.limit is not None else None
        decision = self.policy.select(
            contexts, covariates, scene.costs, limit, explore=self.explore, **self.terms(scene, balance)
        )
        timings = {
            "knowing": known - began, "balancing": balanced - known, "attending": time.perf_counter() - balanced,
        }  # fmt: skip
        return Plan(
            _budgets(self.config, decision), decision, scores, {"price": balance.price, **balance.log}, timings
        )

    def terms(self, scene: Scene, balance: Balance) -> dict[str, Any]:
        """The terms on which the policy chooses, as arguments of its ``select``."""
        return {
            "price": balance.price / int(scene.costs[:, -1].sum()),
            "temperature": balance.temperature,
            "coverage": balance.coverage,
        }


class Recorder:
    """Hands a planner's plans on and keeps them.

    Attributes
    ----------
    planner
        Who plans.
    plans
        Its plans, in order.
    scenes
        What they were made from; filled with ``scenes=True`` only, because a scene holds the whole glance.
    """

    def __init__(self, planner: Planner, scenes: bool = False):
        self.planner, self.needs, self._keep = planner, planner.needs, scenes
        self.plans: list[Plan] = []
        self.scenes: list[Scene] = []

    def plan(self, scene: Scene) -> Plan:
        """The planner's plan, kept on the way."""
        plan = self.planner.plan(scene)
        self.plans.append(plan)
        if self._keep:
            self.scenes.append(scene)
        return plan


def _budgets(config: ArrCocConfig, decision: Decision) -> list[int]:
    return [config.budgets[k] for k in decision.index]


def make_planner(config: ArrCocConfig, model: Any = None, processor: Any = None) -> Planner:
    """The planner that ``config.policy`` names.

    Raises
    ------
    ValueError
        If a scorer or one of its options is unknown.
    """
    config = config.resolved()
    if config.policy == "uniform":
        assert config.budget is not None  # the configuration saw to that
        arm = config.budgets.index(config.budget)
        return BlindPlanner(config, make_policy("uniform", arm=arm, arms=len(config.budgets)))
    if config.policy == "random":
        return BlindPlanner(config, make_policy("random", arms=len(config.budgets), seed=config.seed))
    scorers = [make_scorer(spec) for spec in config.scorers]
    contexts = Contexts(config.budgets, scorers, config.confidence, config.seed, config.detail)
    return PolicyPlanner(config, contexts, build_policy(config, contexts))


def build_policy(config: ArrCocConfig, contexts: Contexts, prior: bool = True) -> Policy:
    """A fresh policy of ``config.policy`` over these contexts.

    Its prior mean is the score heuristic, or without ``prior`` zero.
    """
    mean = contexts.prior_mean()
    if config.policy == "heuristic":
        return make_policy("heuristic", prior_mean=mean)
    options = {"nu": POSTERIOR_SCALE} if config.policy == "thompson" else {}
    return make_policy(
        config.policy, dim=len(contexts.slots), arms=len(config.budgets), covariates=len(contexts.covariates),
        prior_mean=mean if prior else None, seed=config.seed,
        prior_precision=PRIOR_PRECISION, **options,
    )  # fmt: skip


def wrappable_policies() -> list[str]:
    """Names of the policies that can be wrapped: the shipped ones, and registered ones that learn from the whole."""
    return [name for name in policy_names() if name in POLICIES or policy_class(name).feedback == "full"]
