"""What the headline claims, bar by bar, from the records of several runs: met or missed, with intervals."""

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


def bars(runs: Runs) -> tuple[list[list[str]], list[list[str]]]:
    """The bars that these runs can speak of, and learned against every baseline.

    Goes by the labels of configs/headline.yaml: learned (and learned-... at other prices), uniform-64, uniform-400,
    random..., top-patch-400, oracle and oracle-control.

    Returns
    -------
    (list, list)
        Rows of (bar, found, met or missed), and of (baseline, tokens, level, its tokens, points, verdict).
    """
    rows = []

    def mean(label: str, other: str, value: Callable[[Record], float]) -> float:
        return float(np.mean([value(record) for _, record, _ in pairs(runs, label, other)]))

    def row(bar: str, found: str, met: bool) -> None:
        rows.append([bar, found, "met" if met else "missed"])

    labels = list(dict.fromkeys(label for methods in runs for label in methods))
    if both := pairs(runs, "learned", "uniform-400"):
        share = 100 * mean("learned", "uniform-400", _tokens) / mean("uniform-400", "learned", _tokens)
        found = difference(both, _score)
        row(
            "at most 40 % of the tokens, within 0.5 point of full detail",
            f"{share:.0f} % of the tokens, {_points(found)} points",
            share <= 40 and found.value >= -0.005,
        )
        if timed := [pair for pair in both if "timed" in pair[1] and "timed" in pair[2]]:
            saved, full = difference(timed, _first), np.mean([_first(pair[2]) for pair in timed])
            row(
                "at least 50 % less measured time to the first token than full detail",
                f"{-100 * saved.value / full:.0f} % less [{-100 * saved.high / full:.0f}, "
                f"{-100 * saved.low / full:.0f}], {len(timed)} questions",
                -saved.value / full >= 0.5,
            )
    chances = [label for label in labels if label.startswith("random") and not label.startswith("random-tokens")]
    if chances and pairs(runs, "learned", "oracle"):
        chance = float(np.mean([mean(label, "learned", _score) for label in chances]))
        ours, best = mean("learned", "oracle", _score), mean("oracle", "learned", _score)
        luck = 0.0
        if pairs(runs, "oracle-control", "uniform-64"):
            luck = max(
                0.0, mean("oracle-control", "uniform-64", _score) - mean("uniform-64", "oracle-control", _score)
            )
        for name, bound in (("oracle", best), ("oracle, its luck taken off", best - luck)):
            closed = (ours - chance) / (bound - chance) if bound > chance else 1.0
            row(
                f"closes 80 % of the accuracy gap between random at equal tokens and the {name}",
                f"{100 * closed:.0f} % of the way from {100 * chance:.1f} to {100 * bound:.1f}",
                closed >= 0.8,
            )
    if both := pairs(runs, "learned", "top-patch-400"):
        ours, top, best = (mean(label, "oracle", _tokens) for label in ("learned", "top-patch-400", "oracle"))
        closed, found = (top - ours) / (top - best), difference(both, _score)
        row(
            "closes 60 % of the token gap between full detail on the top patch and the cheapest sufficient oracle, at "
            "equal accuracy",
            f"{100 * closed:.0f} % of the way from {top:,.0f} to {best:,.0f} tokens, {_points(found)} points",
            closed >= 0.6 and found.high >= 0,
        )
    levels = [label for label in labels if label.startswith("learned")]
    return rows, [_against(runs, label, levels) for label in labels if not label.startswith(("learned", *UNFAIR))]


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


def _first(record: Record) -> float:
    return float(record["timed"]["first"])


def _points(found: Difference) -> str:
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
