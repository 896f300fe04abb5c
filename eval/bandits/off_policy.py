"""The off-policy estimators beside those of obp (Open Bandit Pipeline) on the same log."""

from __future__ import annotations

from typing import Any

import numpy as np

from allocator.checks import FloatArray
from allocator.decision import Decision
from allocator.logged import estimators as ope
from allocator.registry import make_policy

from .extras import optional

ROUNDS, ARMS, TAU = 400, 5, 1.2


def log(patches: int, seed: int = 0) -> tuple[list[Decision], FloatArray, FloatArray, FloatArray]:
    """A log of random play: decisions, rewards [T], the target's distributions [T, N, K], a biased model [T, N, K]."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(3, ARMS))
    policy = make_policy("boltzmann", dim=3, arms=ARMS, tau=0.05, seed=seed, prior_mean=0.05 * weights.T[1:])
    contexts = rng.normal(size=(ROUNDS, patches, 3))
    decisions = [policy.select(x) for x in contexts]
    gains = contexts @ weights / 3
    chosen = np.stack([gains[t][np.arange(patches), d.index] for t, d in enumerate(decisions)])
    rewards = 0.5 + chosen.sum(axis=1) + 0.1 * rng.normal(size=ROUNDS)
    target = np.exp(3 * gains - (3 * gains).max(axis=2, keepdims=True))
    model = 0.8 * gains + 0.1 * rng.normal(size=gains.shape)
    return decisions, rewards, target / target.sum(axis=2, keepdims=True), model


def ours() -> dict[str, float]:
    """Values of this library's estimators."""
    decisions, r, target, model = log(patches=1)
    w = ope.importance_weights(decisions, list(target))
    q = model[np.arange(ROUNDS), 0, [int(d.index[0]) for d in decisions]]
    q_pi = (target * model).sum(axis=(1, 2))
    slate, slate_r, slate_target, _ = log(patches=3, seed=1)
    found = {
        "ips": ope.ips(r, w, resamples=1),
        "snips": ope.snips(r, w, resamples=1),
        "dm": ope.dm(q_pi, resamples=1),
        "dr": ope.dr(r, w, q, q_pi, resamples=1),
        "sndr": ope.sndr(r, w, q, q_pi, resamples=1),
        "switch_dr": ope.switch_dr(r, w, q, q_pi, tau=TAU, resamples=1),
        "ips of a slate": ope.ips(slate_r, ope.importance_weights(slate, list(slate_target)), resamples=1),
    }
    return {name: estimate.value for name, estimate in found.items()}


def theirs() -> dict[str, float]:
    """Values of obp's estimators on the same logs.

    Raises
    ------
    ImportError
        If obp is not installed.
    """
    obp = optional("obp.ope", "obp")
    decisions, r, target, model = log(patches=1)
    given = {
        "reward": r,
        "action": np.array([int(d.index[0]) for d in decisions]),
        "pscore": np.array([d.propensity for d in decisions]),
        "action_dist": target.transpose(0, 2, 1),
        "position": np.zeros(ROUNDS, dtype=int),
        "estimated_rewards_by_reg_model": model.transpose(0, 2, 1),
    }
    estimators = {
        "ips": obp.InverseProbabilityWeighting(),
        "snips": obp.SelfNormalizedInverseProbabilityWeighting(),
        "dm": obp.DirectMethod(),
        "dr": obp.DoublyRobust(),
        "sndr": obp.SelfNormalizedDoublyRobust(),
        "switch_dr": obp.SwitchDoublyRobust(tau=TAU),
    }
    found = {name: float(estimator.estimate_policy_value(**given)) for name, estimator in estimators.items()}
    slate, slate_r, slate_target, _ = log(patches=3, seed=1)
    chosen = [np.log(p[np.arange(3), d.index]).sum() for p, d in zip(slate_target, slate, strict=True)]
    # One row per slot; the slate's reward stands in its first.
    found["ips of a slate"] = float(
        obp.SlateStandardIPS(len_list=3).estimate_policy_value(
            slate_id=np.repeat(np.arange(ROUNDS), 3),
            reward=np.stack([slate_r, 0 * slate_r, 0 * slate_r], axis=1).ravel(),
            position=np.tile(np.arange(3), ROUNDS),
            pscore=np.repeat([d.propensity for d in slate], 3),
            evaluation_policy_pscore=np.repeat(np.exp(chosen), 3),
        )
    )
    return found


def compare() -> list[dict[str, Any]]:
    """One row per estimator; empty where obp is not installed."""
    try:
        other = theirs()
    except ImportError:
        return []
    return [
        {"estimator": name, "allocator": value, "obp": other[name], "difference": value - other[name]}
        for name, value in ours().items()
    ]
