"""Curves of accuracy against tokens over several runs: each against the learned policy's, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..records import Record
from .dominance import Runs
from .statistics import Difference, at_tokens, mean_over, paired_difference

Curves = dict[str, tuple[float, Difference, float, Difference]]
REACH = 0.4
"""Areas reach from the floor to this share of full detail: where a policy that saves tokens is at work."""


def curves(
    runs: Runs, members: Mapping[str, Sequence[str]], base: str, floor: str, full: str
) -> Curves:
    """Every curve against the base method at equal tokens, and against the base's curve by the area under it.

    A curve is what its methods reach with mixtures of neighbours, the floor and full detail included: anybody can play
    those, so every curve spans all tokens.

    Parameters
    ----------
    runs
        Per run the records of each method.
    members
        The methods of each curve; one curve has the base's name.
    base, floor, full
        Labels: the method compared with, and those that spend least and most on every patch.

    Returns
    -------
    dict
        By the curve's name: its accuracy at the base's mean tokens and the difference to the base there, and its mean
        accuracy over tokens from the floor to `REACH` of full detail and the difference to the base's curve.
    """
    found: Curves = {}
    for name, labels in members.items():
        at: list[tuple[np.ndarray, np.ndarray]] = []
        area: list[tuple[np.ndarray, np.ndarray]] = []
        clusters: list[str] = []
        for number, methods in enumerate(runs):
            if not {base, floor, full, *labels, *members[base]} <= methods.keys():
                continue
            ends = [_point(methods[floor]), _point(methods[full])]
            own, theirs = ([*ends, *(_point(methods[label]) for label in group)] for group in (labels, members[base]))
            spent, scores = _point(methods[base])
            mixture = at_tokens(own, spent)
            assert mixture is not None  # every curve spans the floor to full detail
            low, high = ends[0][0], max(REACH * ends[1][0], 1.01 * ends[0][0])
            at.append((mixture, scores))
            area.append((mean_over(own, low, high), mean_over(theirs, low, high)))
            clusters += [f"{number}/{record['image_id']}" for record in methods[base]]
        if at:
            pooled = [[np.concatenate(side) for side in zip(*pairs, strict=True)] for pairs in (at, area)]
            (mixture, scores), (ours, theirs_) = pooled
            found[name] = (
                float(mixture.mean()), paired_difference(mixture, scores, clusters),
                float(ours.mean()), paired_difference(ours, theirs_, clusters),
            )  # fmt: skip
    return found


def _point(records: Sequence[Record]) -> tuple[float, np.ndarray]:
    return float(np.mean([r["tokens"] for r in records])), np.array([r["score"] for r in records], dtype=float)
