"""Attending: planners, from a scene to one budget per patch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from allocator import Policy, make_policy, policy_names
from allocator.policies.caution import Cautious
from allocator.registry import policy_class

from ..balancing import Balance, Balancer, balance_config
from ..config import POLICIES, ArrCocConfig, resolve_limit
from ..knowing import make_scorer
from ..knowing.reading import suited
from ..scene.contract import Plan, Planner
from .contexts import PRIOR_PRECISION, Contexts

if TYPE_CHECKING:
    from allocator import Decision

    from ..scene.contract import Scene

POSTERIOR_SCALE = 0.15
"""Scale of Thompson draws: with the posterior reckoned at unit noise, about half the deviation of 0/1 rewards."""
SURCHARGE = 5.0
"""Tokens beyond the prior's must promise to pay for themselves six times before they are spent."""
PATIENCE = 0.02
"""Reward per question that departing from the prior surely gains, by which caution and surcharge shrink e-fold."""


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
    thorough
        Whether all scores and contexts are worked out, as for someone to look at, where the policy goes by relevance
        alone. Where it explores, or tensions act, all are anyway.
    """

    needs = frozenset({"pixels", "glance"})

    def __init__(self, config: ArrCocConfig, contexts: Contexts, policy: Policy):
        self.config, self.contexts, self.policy = config, contexts, policy
        self.balancer = Balancer(balance_config(config.tensions), contexts.relevance.join)
        self.price, self.explore, self.thorough = config.price, False, False

    @property
    def direct(self) -> bool:
        """Whether a question may be answered without asking, where looking can't pay; not while exploring."""
        return self.config.direct and not self.explore

    def plan(self, scene: Scene) -> Plan:
        """Score the patches, set the terms, let the policy choose."""
        began = time.perf_counter()
        lean = not (self.explore or self.thorough or self.config.tensions)
        contexts, covariates, scores = self.contexts(scene, self.policy.reads if lean else None)
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
    scorers = [make_scorer(suited(spec, model)) for spec in config.scorers]
    contexts = Contexts(
        config.budgets,
        scorers,
        config.confidence,
        config.seed,
        config.detail,
        config.slots,
        config.trust,
        getattr(processor, "tokenizer", processor),
    )
    return PolicyPlanner(config, contexts, build_policy(config, contexts))


def build_policy(config: ArrCocConfig, contexts: Contexts, prior: bool = True) -> Policy:
    """A fresh policy of ``config.policy`` over these contexts.

    Its prior mean is the score heuristic, from which it departs with ``config.caution``; without ``prior`` it is zero,
    and nothing holds the policy back.
    """
    mean = contexts.prior_mean()
    if config.policy == "heuristic":
        return make_policy("heuristic", prior_mean=mean)
    options: dict[str, Any] = {"nu": POSTERIOR_SCALE} if config.policy == "thompson" else {}
    if config.policy == "neural_mixture":
        options = contexts.mixture_prior() if prior else {}
    elif config.policy not in ("windowed", "conservative"):
        options["prior_precision"] = contexts.prior_precision(PRIOR_PRECISION)
    if prior:
        options["prior_mean"] = mean
        if issubclass(policy_class(config.policy), Cautious):
            options |= {"caution": config.caution, "surcharge": SURCHARGE}
        if config.policy == "neural_mixture":
            options["patience"] = PATIENCE
    return make_policy(
        config.policy, dim=len(contexts.slots), arms=len(config.budgets), covariates=len(contexts.covariates),
        seed=config.seed, **options,
    )  # fmt: skip


def wrappable_policies() -> list[str]:
    """Names of the policies that can be wrapped: the shipped ones, and registered ones that learn from the whole."""
    return [name for name in policy_names() if name in POLICIES or policy_class(name).feedback == "full"]
