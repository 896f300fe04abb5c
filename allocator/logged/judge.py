"""Judging a new policy against the incumbent, off-policy.

The question is what the greedy allocation pi(x) of each would have earned on the logged questions, net of the price
of its tokens. Tokens are known exactly; only the reward must be estimated. Serving logs the exact probability
mu(s | x) of the whole allocation it chose (see `allocator.logged.explore`), so with one reward model q fitted on
*other* rounds

    V(pi) = mean[ q(x, pi(x)) + w (r - q(x, s)) ],     w = [s = pi(x)] / mu(s | x)

is unbiased whatever q is worth (doubly robust: Dudik, Langford & Li 2011). No additivity of the reward over patches is
assumed; the slate estimator, which does assume it, is reported beside it for the explored rounds. Propensities of a
Thompson draw through the knapsack would have to be estimated by resampling: 1 / (estimate) is biased, worst for rare
allocations, which decide here. That is why serving does not explore that way.

Both policies are judged on the same rounds, so what is estimated is their difference, round by round: where they
choose alike it is exactly zero.

*Support.* Where the new policy's allocation had a probability below 1 / `LARGEST_WEIGHT`, or if too few of the others
were ever tried, the log cannot say what it earns, and a model's guess with a narrow interval would be the usual lie.
There the lower bound takes its reward to be 0, the worst there is (Manski 1990). A policy that changes much is thus
kept back until it was explored enough.

*One client.* Who rewards a tenth of the rounds as it likes can move an estimate by a tenth and more, since it sees the
budgets of the answers that it rewards and may pick those of great weight. So the lower bounds can be made to hold
whichever client is left out: then no single one carries a promotion.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from .. import Policy
from ..checks import FloatArray, IntArray
from ..policies.full_bandit.base import Aggregated
from ..policies.valued import Valued
from ..registry import make_policy
from . import estimators as ope
from .estimators import Estimate
from .intervals import may_go, without_one
from .rounds import Round

LARGEST_WEIGHT = 1000.0
_PRECISION = 10.0  # of the prior of a linear model that stands in for one that is not: what makes a prior mean count
FEWEST_TRIES = 30.0
"""Expected number of tries of what the new policy would do differently, from which the log may speak about it."""
_TOGETHER = 1000  # questions chosen for at a time


@dataclass(frozen=True)
class Judgement:
    """What the log says about a new policy.

    Attributes
    ----------
    rounds
        Judged on.
    changed
        Share of rounds in which the two choose differently.
    supported
        Share of those about which the log can speak.
    tries
        Expected number of those that were tried.
    incumbent, new
        Mean reward of each: doubly robust, self-normalised, by the model alone.
    tokens
        Mean share of full detail of each.
    difference
        New minus incumbent, net of the price: value, and an interval whose lower bound counts unsupported rounds as
        lost and whose upper bound counts them as won.
    slate
        The same difference by the slate estimator over the explored rounds; None where it does not apply.
    """

    rounds: int
    changed: float
    supported: float
    tries: float
    incumbent: dict[str, Estimate]
    new: dict[str, Estimate]
    tokens: tuple[float, float]
    difference: Estimate
    slate: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def greedy(policy: Policy, rounds: Sequence[Round]) -> list[IntArray]:
    """What a policy would have chosen for the logged questions, [N] arms each; `judge` and `by_model` take it too."""
    found: list[IntArray] = []
    for start in range(0, len(rounds), _TOGETHER):
        questions = [
            {
                "contexts": r.decision.contexts, "covariates": r.decision.covariates, "costs": r.costs,
                "limit": r.limit, "price": r.decision.price, "coverage": r.coverage,
            }
            for r in rounds[start : start + _TOGETHER]
        ]  # fmt: skip
        found += [decision.index for decision in policy.select_many(questions, explore=False)]
    return found


def judge(
    rounds: Sequence[Round],
    incumbent: Policy | list[IntArray],
    new: Policy | list[IntArray],
    model: Valued,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    fewest: int | None = None,
) -> Judgement:
    """Compare two policies on logged rounds.

    Parameters
    ----------
    rounds
        Rounds that neither the new policy nor the reward model was learned from.
    incumbent, new
        Judged as they would be served, greedily; or what `greedy` found of them for these rounds.
    model
        Reward model q: what this policy expects.
    confidence
        Two-sided level of the intervals.
    seed
        Of the bootstrap.
    fewest
        The lower bounds of the differences are the lowest if any one client is left out without whom there are still
        so many rounds; None leaves nobody out.

    Raises
    ------
    ValueError
        If a round has no propensity, or there are fewer than two.
    """
    if len(rounds) < 2:
        raise ValueError(f"{len(rounds)} rounds can't be judged on; at least 2 are needed")
    options: dict[str, Any] = {"confidence": confidence, "seed": seed}
    mine, theirs = _chosen(incumbent, rounds), _chosen(new, rounds)
    rewards = np.array([r.reward for r in rounds])
    logged = _model(model, rounds, [r.decision.index for r in rounds])
    weights = [ope.importance_weights([r.decision for r in rounds], chosen) for chosen in (mine, theirs)]
    values = [_model(model, rounds, chosen) for chosen in (mine, theirs)]
    prices = [_charge(rounds, chosen) for chosen in (mine, theirs)]

    changed = np.array([(a != b).any() for a, b in zip(mine, theirs, strict=True)])
    chance = np.exp([_log_probability(r, chosen) for r, chosen in zip(rounds, theirs, strict=True)])
    supported = ~changed | (chance >= 1.0 / LARGEST_WEIGHT)
    tries = float(chance[changed & supported].sum())
    if tries < FEWEST_TRIES:
        supported = ~changed
    # The new policy's part where the log cannot speak: the model's guess for the value, 0 and 1 for the bounds.
    weight = np.where(supported, weights[1], 0.0)
    bounds, terms = [], []
    for guess in (values[1], 0.0, 1.0):
        gain = np.where(supported, values[1], guess) - values[0] - (prices[1] - prices[0])
        bounds.append(ope.dr(rewards, weight - weights[0], logged, gain, **options))
        terms.append(gain + (weight - weights[0]) * (rewards - logged))
    low = without_one(terms[1], bounds[1].low, [r.client for r in rounds], fewest)
    difference = replace(bounds[0], low=low, high=bounds[2].high, ess=ope.effective_sample_size(weight))
    return Judgement(
        rounds=len(rounds),
        changed=float(changed.mean()),
        supported=float(supported[changed].mean()) if changed.any() else 1.0,
        tries=tries,
        incumbent=_estimates(rewards, weights[0], logged, values[0], options),
        new=_estimates(rewards, weights[1], logged, values[1], options),
        tokens=(_share(rounds, mine), _share(rounds, theirs)),
        difference=difference,
        slate=_slate(rounds, mine, theirs, logged, values, prices, options, fewest),
    )


def by_model(
    rounds: Sequence[Round],
    baseline: Policy | list[IntArray] | None,
    new: Policy | list[IntArray],
    model: Valued,
    *,
    confidence: float = 0.95,
    fewest: int | None = None,
) -> Estimate:
    """New minus a baseline, net of the price, by a linear reward model of these very rounds.

    For baselines that the log seldom or never played, where importance weights say nothing: full detail, or a policy
    of long ago. It leans on the model, so it is a bound beside `judge`, not in its place.

    Parameters
    ----------
    rounds
        Rounds that the new policy was not learned from.
    baseline
        As `new`; None for full detail.
    new
        Judged greedily; or what `greedy` found of it for these rounds.
    model
        A policy that says the prior, and the features if it is linear; it is left as it is.
    confidence
        Two-sided level of the interval, which is that of the posterior with the residuals' deviation as noise.
    fewest
        As of `judge`; who gave less than a thousandth of the rounds is never left out.

    Raises
    ------
    ValueError
        If there are no rounds.
    """
    if not rounds:
        raise ValueError("there are no rounds to judge on")
    chosen = _chosen(new, rounds)
    others = [r.costs.argmax(axis=1) for r in rounds] if baseline is None else _chosen(baseline, rounds)
    linear = _linear(model)
    logged = _stakes(linear, rounds, [r.decision.index for r in rounds])
    rewards = np.array([r.reward for r in rounds])
    change = _stakes(linear, rounds, chosen) - _stakes(linear, rounds, others)
    charge = _charge(rounds, chosen) - _charge(rounds, others)
    quantile = NormalDist().inv_cdf(0.5 + confidence / 2)

    def compare(rows: Any) -> tuple[float, float]:
        """Value and half the width of its interval."""
        posterior, features = copy.deepcopy(linear.posterior), logged[rows]
        posterior.reset()
        posterior.update(features, rewards[rows])
        theta, mean = posterior.mean.cpu().numpy(), change[rows].mean(axis=0)
        noise = float(np.sqrt(np.mean((rewards[rows] - features @ theta) ** 2)))
        spread = float(posterior.sigma(torch.from_numpy(mean[None]).to(posterior.device))[0])
        return float(mean @ theta - charge[rows].mean()), quantile * noise * spread

    value, width = compare(slice(None))
    low = value - width
    if fewest is not None:
        numbers, out = may_go([r.client for r in rounds], fewest, len(rounds) / 1000)
        low = min([low, *(float(np.subtract(*compare(numbers != client))) for client in out)])
    return Estimate(
        method="model", value=value, low=low, high=value + width, interval="posterior",
        ess=float(len(rounds)), rounds=len(rounds),
    )  # fmt: skip


def _chosen(policy: Policy | list[IntArray], rounds: Sequence[Round]) -> list[IntArray]:
    return greedy(policy, rounds) if isinstance(policy, Policy) else policy


def _model(model: Valued, rounds: Sequence[Round], chosen: Sequence[IntArray]) -> FloatArray:
    return np.clip(model.weigh(_stakes(model, rounds, chosen))[0], 0.0, 1.0)  # rewards lie in [0, 1]


def _stakes(model: Valued, rounds: Sequence[Round], chosen: Sequence[IntArray]) -> FloatArray:
    pairs = zip(rounds, chosen, strict=True)
    return np.stack([model.stakes_of(r.decision.contexts, r.decision.covariates, index) for r, index in pairs])


def _linear(model: Valued) -> Aggregated:
    """A linear model of the same contexts, around the same prior."""
    if isinstance(model, Aggregated):
        return model
    known = {name: getattr(model, name) for name in ("dim", "arms", "covariates")}
    made = make_policy(
        "thompson", **known, prior_mean=getattr(model, "prior_mean", None), prior_precision=_PRECISION
    )
    assert isinstance(made, Aggregated)
    return made


def _charge(rounds: Sequence[Round], chosen: Sequence[IntArray]) -> FloatArray:
    pairs = zip(rounds, chosen, strict=True)
    return np.array([r.decision.price * r.costs[np.arange(len(index)), index].sum() for r, index in pairs])


def _share(rounds: Sequence[Round], chosen: Sequence[IntArray]) -> float:
    pairs = list(zip(rounds, chosen, strict=True))
    spent = sum(int(r.costs[np.arange(len(index)), index].sum()) for r, index in pairs)
    return spent / sum(int(r.costs.max(axis=1).sum()) for r, _ in pairs)


def _log_probability(r: Round, chosen: IntArray) -> float:
    """log mu(chosen | x) of the round's question."""
    if r.law is not None:
        return r.law.log_probability(r.decision.values, r.costs, chosen)
    return 0.0 if (chosen == r.decision.index).all() else -np.inf


def _estimates(
    rewards: FloatArray, weights: FloatArray, logged: FloatArray, values: FloatArray, options: dict[str, Any]
) -> dict[str, Estimate]:
    found = {"dr": ope.dr(rewards, weights, logged, values, **options), "dm": ope.dm(values, **options)}
    if weights.any():
        found["snips"] = ope.snips(rewards, weights, **options)
    return found


def _slate(
    rounds: Sequence[Round],
    mine: list[IntArray],
    theirs: list[IntArray],
    logged: FloatArray,
    values: list[FloatArray],
    prices: list[FloatArray],
    options: dict[str, Any],
    fewest: int | None,
) -> Estimate | None:
    """The difference by DR with slate weights, on the rounds that the coin picked: a random sample of all of them."""
    rows = [t for t, r in enumerate(rounds) if r.decision.probabilities is not None]
    if len(rows) < 2:
        return None
    decisions = [rounds[t].decision for t in rows]
    rewards = np.array([rounds[t].reward for t in rows])
    weights = [ope.slate_weights(decisions, [chosen[t] for t in rows]) for chosen in (mine, theirs)]
    gain = (values[1] - values[0] - (prices[1] - prices[0]))[rows]
    found = ope.dr(rewards, weights[1] - weights[0], logged[rows], gain, **options)
    terms = gain + (weights[1] - weights[0]) * (rewards - logged[rows])
    share = None if fewest is None else fewest * len(rows) // len(rounds)
    low = without_one(terms, found.low, [rounds[t].client for t in rows], share)
    return replace(found, method="dr_pi", low=low)
