"""Estimates with confidence intervals, for off-policy evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..checks import Array, FloatArray, IntArray, count, floats, number


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An off-policy value.

    Attributes
    ----------
    method : str
        Name of the estimator.
    value : float
        Estimated mean reward of the target policy.
    low, high : float
        Confidence interval.
    interval : str
        "bootstrap" or "empirical-bernstein".
    ess : float
        Effective sample size (sum w)^2 / sum w^2 of the weights; n for the direct method.
    rounds : int
        Logged rounds.
    """

    method: str
    value: float
    low: float
    high: float
    interval: str
    ess: float
    rounds: int


def effective_sample_size(weights: Array) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965)."""
    w = floats("weights", weights, (None,))
    squares = float(np.square(w).sum())
    return float(w.sum()) ** 2 / squares if squares else 0.0


def summarise(
    method: str,
    terms: FloatArray,
    norms: FloatArray | None,
    weights: FloatArray,
    *,
    base: FloatArray | None = None,
    interval: str = "bootstrap",
    confidence: float = 0.95,
    term_range: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Value and interval of mean(base) + mean(terms), or of mean(base) + sum(terms) / sum(norms).

    Parameters
    ----------
    method : str
        Name to report.
    terms : FloatArray, shape [T]
        Independent rounds' contributions.
    norms : FloatArray, shape [T], or None
        Denominators of a self-normalised estimator.
    weights : FloatArray, shape [T]
        For the effective sample size.
    base : FloatArray, shape [T], optional
        What a model already says of each round, zero if None.
    interval : {"bootstrap", "empirical-bernstein"}
        Percentile bootstrap over rounds, or the finite-sample bound of Maurer & Pontil 2009 (theorem 4).
    confidence : float
        Two-sided level.
    term_range : float, optional
        A priori range of base + term (e.g. cap x reward range); the empirical-Bernstein bound needs it.
    resamples, seed : int
        Of the bootstrap.

    Raises
    ------
    ValueError
        If the bound is asked of a self-normalised estimator, without its range or with one that the terms exceed, if
        all weights are zero, or for fewer than two rounds.
    """
    n = len(terms)
    if n < 2:
        raise ValueError(f"off-policy evaluation needs at least 2 logged rounds, got {n}")
    start = np.zeros(n) if base is None else base
    if not 0.0 < number("confidence", confidence) < 1.0:
        raise ValueError(f"confidence must be above 0 and below 1, got {confidence:g}")
    alpha = 1.0 - confidence
    if norms is not None and abs(norms.sum()) < 1e-12:
        raise ValueError("the weights sum to zero: the log never did what the target would do")
    value = float(start.mean() + (terms.mean() if norms is None else terms.sum() / norms.sum()))
    if interval == "bootstrap":
        generator = np.random.default_rng(seed)
        draws = np.empty(count("resamples", resamples))
        for b in range(len(draws)):
            rows = generator.integers(n, size=n)
            # A ratio is drawn as a ratio: its denominator varies with the rounds as much as its numerator.
            ratio = terms[rows].mean() if norms is None else terms[rows].sum() / (norms[rows].sum() or np.nan)
            draws[b] = start[rows].mean() + ratio
        low, high = (float(x) for x in np.nanquantile(draws, [alpha / 2, 1 - alpha / 2]))
    elif interval == "empirical-bernstein":
        if norms is not None:
            raise ValueError(f"the empirical-Bernstein bound needs a plain mean, {method!r} is self-normalised")
        if term_range is None:
            raise ValueError(
                "the empirical-Bernstein bound needs term_range, the a priori range of w r (use clipped_ips)"
            )
        term_range, whole = number("term_range", term_range, low=0.0), start + terms
        if float(np.ptp(whole)) > term_range:
            raise ValueError(
                f"term_range is {term_range:g}, but the terms already span {float(np.ptp(whole)):g}; give the "
                "a priori range, or clip the weights"
            )
        log_term = math.log(4.0 / alpha)  # two sides, each of level alpha / 2
        width = math.sqrt(2.0 * float(whole.var(ddof=1)) * log_term / n)
        width += 7.0 * term_range * log_term / (3.0 * (n - 1))
        low, high = value - width, value + width
    else:
        raise ValueError(f"interval must be 'bootstrap' or 'empirical-bernstein', got {interval!r}")
    ess = effective_sample_size(weights)
    return Estimate(method=method, value=value, low=low, high=high, interval=interval, ess=ess, rounds=n)


def without_one(terms: FloatArray, low: float, clients: Sequence[str | None], fewest: int | None) -> float:
    """The lowest of the lower bounds of a mean if one client is left out.

    Parameters
    ----------
    terms
        Whose mean it is, ``[T]``.
    low
        Lower bound with everybody.
    clients
        Who gave the reward of each round, ``[T]``; None is never left out.
    fewest
        Rounds that must remain; None leaves nobody out.
    """
    if fewest is None:
        return low
    width, total = float(terms.mean()) - low, len(terms)
    rows, out = may_go(clients, fewest)
    rest = total - np.bincount(rows)[out]
    left = (terms.sum() - np.bincount(rows, terms)[out]) / rest - width * np.sqrt(total / rest)
    return float(min([low, *left]))


def may_go(clients: Sequence[str | None], fewest: int, least: float = 1) -> tuple[IntArray, IntArray]:
    """Who may be left out: who is known, gave at least ``least`` rounds, and without whom ``fewest`` remain.

    Parameters
    ----------
    clients, fewest
        As of `without_one`.
    least
        Rounds.

    Returns
    -------
    tuple
        The number of each round's client, ``[T]``, and the numbers of those who may go.
    """
    _, rows = np.unique([client or "" for client in clients], return_inverse=True)
    counts = np.bincount(rows)
    known = np.bincount(rows, [client is not None for client in clients]) > 0
    return rows, np.flatnonzero(known & (counts >= least) & (len(rows) - counts >= max(fewest, 1)))
