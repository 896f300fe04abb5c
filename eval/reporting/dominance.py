"""Learned against every baseline, from the records of several runs: dominated or not, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..records import Record
from .statistics import Difference, paired_difference

Runs = Sequence[Mapping[str, Sequence[Record]]]
"""Per run the records of each method, as `eval.reporting.summary.by_method` gives them."""
Pairs = list[tuple[str, Record, Record]]
UNFAIR = ("oracle", "evidence", "blind")
"""What a policy need not beat: methods that know the answer or its place, and the floor of all."""


def pairs(runs: Runs, label: str, other: str) -> Pairs:
    """``(cluster, record, record)`` of the questions that both methods answered, over all runs; a cluster is an image
    of a run."""
    found = []
    for number, methods in enumerate(runs):
        theirs = {r["question_id"]: r for r in methods.get(other, ())}
        found += [
            (f"{number}/{r['image_id']}", r, theirs[r["question_id"]])
            for r in methods.get(label, ())
            if r["question_id"] in theirs
        ]
    return found


def difference(found: Pairs, value: Callable[[Record], float]) -> Difference:
    """The first method minus the second in something that records have."""
    one, two = (np.array([value(pair[side]) for pair in found]) for side in (1, 2))
    return paired_difference(one, two, [cluster for cluster, _, _ in found])


def dominance(runs: Runs) -> list[list[str]]:
    """The learned policy at its best level (labels that begin with "learned") against every baseline.

    Returns
    -------
    list
        Rows of (baseline, tokens, level, its tokens, points, verdict).
    """
    labels = list(dict.fromkeys(label for methods in runs for label in methods))
    levels = [label for label in labels if label.startswith("learned")]
    return [_against(runs, label, levels) for label in labels if not label.startswith(("learned", *UNFAIR))]


def _against(runs: Runs, label: str, levels: Sequence[str]) -> list[str]:
    """One baseline against the best level of the learned policy that spends no more on the same questions, or against
    the cheapest level where the baseline is cheaper than all."""
    found: list[tuple[str, float, float, Difference]] = []
    for level in levels:
        if both := pairs(runs, level, label):
            ours, spent = (float(np.mean([_tokens(pair[side]) for pair in both])) for side in (1, 2))
            found.append((level, ours, spent, difference(both, _score)))
    if not found:
        return [label, "–", "–", "–", "–", "no question in common"]
    able = [entry for entry in found if entry[1] <= entry[2] * 1.01]
    level, ours, spent, best = max(able, key=lambda e: e[3].value) if able else min(found, key=lambda e: e[1])
    if able:
        verdict = "dominated" if best.low > 0 else "within the interval" if best.high >= 0 else "not dominated"
    else:
        verdict = "cheaper, " + (
            "less accurate" if best.low > 0 else "within the interval" if best.high >= 0 else "more accurate"
        )
    return [label, f"{spent:,.0f}", level, f"{ours:,.0f}", _points(best), verdict]


def _score(record: Record) -> float:
    return float(record["score"])


def _tokens(record: Record) -> float:
    return float(record["tokens"])


def _points(found: Difference) -> str:
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
