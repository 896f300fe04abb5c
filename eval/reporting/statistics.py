"""Intervals and tests for paired, clustered questions. The statistics are scipy's; what is ours is the clustering.

Several questions may share an image, and their errors then go together, so images are resampled, not questions. Two
methods answer the same questions, so their difference is taken question by question.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
Array = np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_list(self) -> list[float]:
        """``[value, low, high]``."""
        return [self.value, self.low, self.high]


@dataclass(frozen=True)
class Difference:
    """Method A minus method B on the same questions.

    Attributes
    ----------
    value, low, high
        Mean difference with its 95 % interval.
    p
        Two-sided permutation test that flips the sign of whole images' differences.
    mcnemar
        Exact McNemar test on right (score >= 0.5) against wrong, questions taken as independent.
    wins, losses
        Questions on which A scores higher, lower.
    """

    value: float
    low: float
    high: float
    p: float
    mcnemar: float
    wins: int
    losses: int

    def to_dict(self) -> dict[str, float]:
        """As plain data."""
        return asdict(self)


def mean_interval(scores: Array, clusters: Sequence[str], resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean score with a percentile interval from a cluster bootstrap.

    Parameters
    ----------
    scores
        ``[Q]`` in [0, 1].
    clusters
        Q names of images.
    resamples, seed
        Of the bootstrap.

    Returns
    -------
    Estimate
        Where all scores are 0 or all are 1 the bootstrap sees no spread; the interval is then Wilson's, an image
        counting once.
    """
    scores = _checked(scores, clusters)
    sums, counts = _by_cluster(scores, clusters)
    mean = float(scores.mean())
    if mean in (0.0, 1.0):
        wilson = stats.binomtest(round(mean * len(sums)), len(sums)).proportion_ci(LEVEL, method="wilson")
        return Estimate(mean, float(wilson.low), float(wilson.high))
    return Estimate(mean, *(_bootstrap(sums, counts, resamples, seed) or (0.0, 1.0)))


def paired_difference(a: Array, b: Array, clusters: Sequence[str], resamples: int = 2000, seed: int = 0) -> Difference:
    """Compare two methods on the same questions, see `Difference`.

    Parameters
    ----------
    a, b
        ``[Q]`` scores in the same order.
    clusters
        Q names of images.
    resamples, seed
        Of the bootstrap and of the permutation test.
    """
    a, b = _checked(a, clusters), _checked(b, clusters)
    sums, counts = _by_cluster(a - b, clusters)
    low, high = _bootstrap(sums, counts, resamples, seed) or (-1.0, 1.0)
    changed = sums[sums != 0]
    p = 1.0
    if len(changed) > 1:  # one image alone can go either way
        test = stats.permutation_test(
            (changed,),
            lambda x, axis: x.sum(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, 2_000_000 // len(changed)),
            rng=np.random.default_rng(seed),
        )
        p = float(test.pvalue)
    only_a, only_b = int(((a >= 0.5) & (b < 0.5)).sum()), int(((b >= 0.5) & (a < 0.5)).sum())
    mcnemar = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return Difference(float((a - b).mean()), low, high, p, mcnemar, int((a > b).sum()), int((a < b).sum()))


def at_tokens(curve: Sequence[tuple[float, Array]], tokens: float) -> Array | None:
    """Scores that a mixture of methods would have at a given mean of tokens, question by question.

    Between two points of the curve the mixture that uses the dearer one for a share of the questions has exactly the
    interpolated expected score and tokens, so this is what a baseline can really do at those tokens.

    Parameters
    ----------
    curve
        ``(mean tokens, [Q] scores)`` of each point.
    tokens
        Wanted mean of tokens.

    Returns
    -------
    ndarray or None
        ``[Q]`` expected scores; ``None`` outside the curve.
    """
    points = sorted(curve, key=lambda point: point[0])
    for (cheap, low), (dear, high) in zip(points, points[1:], strict=False):
        if cheap <= tokens <= dear:
            weight = (tokens - cheap) / (dear - cheap) if dear > cheap else 1.0
            return (1 - weight) * np.asarray(low) + weight * np.asarray(high)
    return None


def tokens_at(curve: Sequence[tuple[float, float]], accuracy: float) -> float | None:
    """The fewest mean tokens at which a mixture of a curve's ``(tokens, accuracy)`` points reaches an accuracy, or
    ``None``."""
    points = sorted(curve)
    best = [tokens for tokens, reached in points if reached >= accuracy]
    for (cheap, low), (dear, high) in ((p, q) for p in points for q in points if p[0] < q[0]):
        if low < accuracy <= high:
            best.append(cheap + (accuracy - low) / (high - low) * (dear - cheap))
    return min(best, default=None)


def curve_area(curve: Sequence[tuple[float, float]]) -> float | None:
    """Mean accuracy over a curve's range of tokens (area under it divided by the range); ``None`` for fewer than two
    points."""
    tokens, accuracy = np.array(sorted(curve), dtype=float).reshape(-1, 2).T
    if len(tokens) < 2 or tokens[-1] == tokens[0]:
        return None
    return float(np.trapezoid(accuracy, tokens) / (tokens[-1] - tokens[0]))


def mean_over(curve: Sequence[tuple[float, Array]], low: float, high: float) -> Array:
    """Mean score of each question over a range of tokens along a curve: the area under its piece, by its width.

    Parameters
    ----------
    curve
        ``(mean tokens, [Q] scores)`` of each point; it must reach from ``low`` to ``high``.
    low, high
        The range.

    Returns
    -------
    ndarray
        ``[Q]``; areas are linear in scores, so their mean is the area under the mean curve, and questions can be
        paired and clustered.
    """
    inner = sorted(tokens for tokens, _ in curve if low < tokens < high)
    places = [low, *inner, high]
    values = [at_tokens(curve, place) for place in places]
    if any(value is None for value in values) or low >= high:
        raise ValueError(f"the curve does not reach from {low} to {high} tokens")
    return np.trapezoid(np.array(values), places, axis=0) / (high - low)


def spread(values: Array) -> dict[str, float]:
    """Mean, 10th and 90th percentile."""
    values = np.asarray(values, dtype=float)
    return {
        "mean": float(values.mean()),
        "p10": float(np.percentile(values, 10)),
        "p90": float(np.percentile(values, 90)),
    }


def _checked(scores: Array, clusters: Sequence[str]) -> Array:
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 1 or not len(scores) or len(scores) != len(clusters):
        raise ValueError(
            f"scores of shape {scores.shape} for {len(clusters)} questions; give one score per question, at least one"
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{int((~np.isfinite(scores)).sum())} scores are NaN or infinite; no mean exists, mend the reward"
        )
    return scores


def _by_cluster(values: Array, clusters: Sequence[str]) -> tuple[Array, Array]:
    """Sum and number of values in each cluster."""
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return np.bincount(index, values), np.bincount(index).astype(float)


def _bootstrap(sums: Array, counts: Array, resamples: int, seed: int) -> tuple[float, float] | None:
    """Interval of the ratio of totals over resampled clusters; ``None`` for a single cluster, which bounds nothing."""
    if len(sums) < 2:
        return None
    with warnings.catch_warnings():
        # Equal values in all clusters: scipy warns, and the interval of zero width is what the data say.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (sums, counts),
            lambda s, c, axis: s.sum(axis) / c.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, 2_000_000 // len(sums)),
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
