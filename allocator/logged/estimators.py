"""Off-policy evaluation: what another policy would have earned, from a log with propensities.

Every estimator is a mean of per-round terms built from importance weights w. For a whole super-arm w = pi(s) / mu(s).
For N patches drawn independently the slate pseudo-inverse weight w = sum_i pi_i(s_i) / mu_i(s_i) - N + 1 (Swaminathan
et al. 2017) is unbiased whenever the reward is additive over patches, with a variance that grows with N instead of
exponentially in it. The same estimators take either.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..checks import Array, FloatArray, floats, number
from ..decision import Decision
from .intervals import Estimate, effective_sample_size, summarise

__all__ = [
    "Estimate",
    "clipped_ips",
    "dm",
    "dr",
    "dr_pi",
    "effective_sample_size",
    "importance_weights",
    "ips",
    "pi",
    "read_log",
    "slate_weights",
    "snips",
    "snpi",
    "sndr",
    "switch_dr",
]

# Weights.


def importance_weights(decisions: Sequence[Decision], target: Sequence[Array]) -> FloatArray:
    """pi(s) / mu(s) of every logged super-arm.

    Parameters
    ----------
    decisions : sequence of Decision
        The log, with propensities.
    target : sequence of array-like, each shape [N, K] or [N]
        Per round, the target policy's distribution of every patch, or its super-arm if it is deterministic.

    Returns
    -------
    FloatArray, shape [T]

    Raises
    ------
    ValueError
        If a decision was logged without its propensity, a target is not a distribution, or the target may play an arm
        that the log never plays: nothing in the log tells what that arm is worth.
    """
    weights = np.zeros(len(decisions))
    for t, (decision, given) in enumerate(_pairs(decisions, target)):
        if decision.log_propensity is None:
            raise ValueError(
                f"round {t} was logged by policy {decision.policy!r} without a propensity and cannot be reweighted; "
                "log with 'random', 'boltzmann' or 'epsilon_greedy'"
            )
        chosen = given[np.arange(len(given)), decision.index]
        if (chosen > 0).all():
            weights[t] = math.exp(min(float(np.log(chosen).sum()) - decision.log_propensity, 700.0))
    return weights


def slate_weights(decisions: Sequence[Decision], target: Sequence[Array]) -> FloatArray:
    """Pseudo-inverse weights sum_i pi_i(s_i) / mu_i(s_i) - N + 1 under product logging (Swaminathan et al. 2017).

    Parameters and errors as in `importance_weights`; besides, every decision must carry its per-patch probabilities: a
    limit that binds makes patches dependent, and the product form would then be wrong.
    """
    weights = np.zeros(len(decisions))
    for t, (decision, given) in enumerate(_pairs(decisions, target)):
        if decision.probabilities is None:
            raise ValueError(
                f"round {t} was logged by policy {decision.policy!r} without per-patch propensities (a limit bound "
                "it, or it does not draw patches independently); log at a price instead, or use importance_weights"
            )
        rows = np.arange(len(given))
        ratio = given[rows, decision.index] / decision.probabilities[rows, decision.index]
        weights[t] = ratio.sum() - len(given) + 1
    return weights


def _pairs(decisions: Sequence[Decision], target: Sequence[Array]) -> Iterable[tuple[Decision, FloatArray]]:
    if len(decisions) != len(target) or not len(decisions):
        raise ValueError(f"one target per logged round: got {len(decisions)} decisions and {len(target)} targets")
    for t, (decision, given) in enumerate(zip(decisions, target, strict=True)):
        shape = decision.values.shape
        if np.ndim(given) == 1:
            given = np.eye(shape[1])[np.asarray(given)]
        probabilities = floats(f"target of round {t}", given, shape)
        if probabilities.min() < 0 or not np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-6):
            raise ValueError(f"target of round {t} must hold one distribution over the arms per patch")
        if decision.probabilities is not None and ((probabilities > 0) & (decision.probabilities == 0)).any():
            patch, arm = np.argwhere((probabilities > 0) & (decision.probabilities == 0))[0].tolist()
            raise ValueError(
                f"in round {t} the target may give patch {patch} arm {arm}, which policy {decision.policy!r} never "
                "plays there; name the first of the arms that cost the same, log with more exploration, or leave "
                "the round out"
            )
        yield decision, probabilities


# Estimators: each turns (rewards, weights, ...) into numerators and denominators whose ratio of means is the value.


def ips(rewards: Array, weights: Array, **interval: Any) -> Estimate:
    """Inverse propensity scoring, mean(w r) (Horvitz & Thompson 1952).

    Parameters
    ----------
    rewards : array-like, shape [T]
    weights : array-like, shape [T]
        From `importance_weights` or `slate_weights`.
    **interval
        See `allocator.logged.intervals.summarise`.
    """
    r, w = _checked(rewards, weights)
    return summarise("ips", w * r, None, w, **interval)


def clipped_ips(rewards: Array, weights: Array, cap: float = 10.0, **interval: Any) -> Estimate:
    """mean(min(w, cap) r): bias against variance (Ionides 2008). Parameters as in `ips`."""
    r, w = _checked(rewards, weights)
    w = np.minimum(w, number("cap", cap, low=0.0))
    return summarise("clipped_ips", w * r, None, w, **interval)


def snips(rewards: Array, weights: Array, **interval: Any) -> Estimate:
    """Self-normalised, sum(w r) / sum(w) (Swaminathan & Joachims 2015). Parameters as in `ips`."""
    r, w = _checked(rewards, weights)
    return summarise("snips", w * r, w, w, **interval)


def dm(target_values: Array, **interval: Any) -> Estimate:
    """Direct method: mean of the model's E_pi[q(x, .)], shape [T]."""
    values = floats("target_values", target_values, (None,))
    return summarise("dm", values, None, np.ones(len(values)), **interval)


def dr(rewards: Array, weights: Array, logged_values: Array, target_values: Array, **interval: Any) -> Estimate:
    """Doubly robust, mean(q_pi + w (r - q(x, s))) (Dudik, Langford & Li 2011).

    Parameters
    ----------
    rewards, weights
        As in `ips`.
    logged_values : array-like, shape [T]
        The model's value of the logged super-arm.
    target_values : array-like, shape [T]
        The model's expected value under the target policy.
    **interval
        See `allocator.logged.intervals.summarise`.
    """
    r, w, q, q_pi = _modelled(rewards, weights, logged_values, target_values)
    return summarise("dr", w * (r - q), None, w, base=q_pi, **interval)


def sndr(rewards: Array, weights: Array, logged_values: Array, target_values: Array, **interval: Any) -> Estimate:
    """Self-normalised doubly robust, mean(q_pi) + sum(w (r - q)) / sum(w). Parameters as in `dr`."""
    r, w, q, q_pi = _modelled(rewards, weights, logged_values, target_values)
    return summarise("sndr", w * (r - q), w, w, base=q_pi, **interval)


def switch_dr(
    rewards: Array, weights: Array, logged_values: Array, target_values: Array, tau: float = 10.0, **interval: Any
) -> Estimate:
    """DR where w <= tau, the model alone elsewhere (Wang, Agarwal & Dudik 2017). Parameters as in `dr`."""
    r, w, q, q_pi = _modelled(rewards, weights, logged_values, target_values)
    kept = np.where(w <= number("tau", tau, low=0.0), w, 0.0)
    return summarise("switch_dr", kept * (r - q), None, kept, base=q_pi, **interval)


def pi(rewards: Array, decisions: Sequence[Decision], target: Sequence[Array], **interval: Any) -> Estimate:
    """Slate pseudo-inverse estimator: IPS with `slate_weights` (Swaminathan et al. 2017)."""
    return _renamed("pi", ips(rewards, slate_weights(decisions, target), **interval))


def snpi(rewards: Array, decisions: Sequence[Decision], target: Sequence[Array], **interval: Any) -> Estimate:
    """Self-normalised slate estimator."""
    return _renamed("snpi", snips(rewards, slate_weights(decisions, target), **interval))


def dr_pi(
    rewards: Array,
    decisions: Sequence[Decision],
    target: Sequence[Array],
    logged_values: Array,
    target_values: Array,
    **interval: Any,
) -> Estimate:
    """Doubly robust slate estimator: DR with `slate_weights` (a control variate; Vlassis et al. 2021)."""
    weights = slate_weights(decisions, target)
    return _renamed("dr_pi", dr(rewards, weights, logged_values, target_values, **interval))


def _renamed(method: str, estimate: Estimate) -> Estimate:
    return replace(estimate, method=method)


def _checked(rewards: Array, weights: Array) -> tuple[FloatArray, FloatArray]:
    r = floats("rewards", rewards, (None,))
    return r, floats("weights", weights, (len(r),))


def _modelled(
    rewards: Array, weights: Array, logged_values: Array, target_values: Array
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    r, w = _checked(rewards, weights)
    q = floats("logged_values", logged_values, (len(r),))
    return r, w, q, floats("target_values", target_values, (len(r),))


# The decision log.


def read_log(path: str | os.PathLike[str]) -> tuple[list[Decision], FloatArray]:
    """Read a decision log.

    Returns
    -------
    decisions : list of Decision
    rewards : FloatArray, shape [T]

    Raises
    ------
    ValueError
        If a line is not a logged decision; the message names the line.
    """
    decisions, rewards = [], []
    with open(path, encoding="utf-8") as file:
        for row, line in enumerate(file, 1):
            try:
                data = json.loads(line)
                decisions.append(Decision.from_dict(data["decision"]))
                rewards.append(number("reward", data["reward"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{os.fspath(path)}, line {row} is not a logged decision: {error}") from None
    return decisions, np.array(rewards)
