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


def verdict(
    difference: Difference, images: int, share: float, base: str = "full detail", near: float = 0.02
) -> str:
    """What a comparison shows, in one clause: "as accurate" is said only where the interval leaves nothing else.

    Parameters
    ----------
    difference
        Of scores, the method's minus the baseline's.
    images
        How many were judged. Where no question was scored differently, the bootstrap sees no spread; the interval is
        then plus and minus 3 / images, the rule of three (Hanley & Lippman-Hand, JAMA 1983).
    share
        Tokens of the method, as a share of the baseline's.
    base
        What the baseline is called.
    near
        Largest difference that still counts as equal, at either end of the interval.
    """
    low, high = difference.low, difference.high
    if not difference.wins + difference.losses:
        low, high = max(-1.0, -3 / images), min(1.0, 3 / images)
    found = f"{100 * difference.value:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    tokens = f"{100 * share:.0f} % of its tokens"
    if low > 0:
        return f"more accurate than {base} at {tokens} ({found})"
    if high < 0:
        return f"less accurate than {base}, at {tokens} ({found})"
    if low >= -near and high <= near:
        return f"as accurate as {base} at {tokens} ({found})"
    return f"not told apart from {base} by these questions, at {tokens} ({found})"


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
