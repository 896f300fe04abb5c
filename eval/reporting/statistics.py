"""Curves of accuracy against tokens, and spreads; intervals and paired tests are those of `arr_coc.evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from arr_coc.learning.statistics import Array, Difference, Estimate, mean_interval, paired_difference

__all__ = [
    "Array", "Difference", "Estimate", "at_tokens", "curve_area", "mean_interval", "mean_over", "paired_difference",
    "spread", "tokens_at",
]  # fmt: skip


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
