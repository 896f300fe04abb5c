"""Runs side by side: the same methods over several seeds or policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..methods import curve_members, make_methods
from ..methods.fixed import Uniform
from ..records import Record, read_run
from .curves import REACH, Curves, curves
from .dominance import Runs, difference, dominance, pairs
from .page import markdown_table
from .plots import forest
from .statistics import Difference, paired_difference
from .summary import by_method

_DOMINATED = (
    "Each baseline against the best level of the learned policy that spends no more tokens (within 1 %) on the same "
    "questions: dominated if its accuracy is lower beyond the interval. A baseline that is cheaper than every level "
    "is compared with the cheapest."
)


_CURVES = (
    "Methods at several prices form a curve, with the floor and full detail at its ends and mixtures in between. "
    f"Left: at the tokens that learned spends. Right: mean over tokens from the floor to {100 * REACH:g} % of full "
    "detail (the area under the curve)."
)


def compare(paths: Sequence[str | Path], picture: str | Path | None = None) -> str:
    """Runs side by side, as Markdown.

    Each method's accuracy and tokens in every run, with the mean over runs and its 95 % t interval where three or
    more have it; and for methods of the first two runs that answered the same questions, the paired difference. Where
    policies were played at several prices, their curves are set against the learned policy's, and drawn to
    ``picture`` (PNG).

    Raises
    ------
    ValueError
        If fewer than two runs are given, one is unfinished, or they have no method in common.
    """
    if len(paths) < 2:
        raise ValueError("one run has nothing to be compared with; name at least two run folders")
    runs = [read_run(path) for path in paths]
    names = _names(paths)
    labels = [label for label in runs[0][0]["methods"] if any(label in run[0]["methods"] for run in runs[1:])]
    if not labels:
        raise ValueError(f"the runs have no method in common: {[list(run[0]['methods']) for run in runs]}")
    header = ("accuracy (tokens)", *names, "mean [95% CI over runs]", "tokens")
    cells = [[label, *_cells(label, [run[0] for run in runs])] for label in labels]
    parts = ["# Runs side by side", markdown_table(header, cells)]
    if "learned" in labels:
        header = (
            "learned minus", "points [95% CI]", "p (images)", "share of full, points [95% CI]", "utility [95% CI]",
            "questions",
        )  # fmt: skip
        tables = [by_method(records) for _, records, _ in runs]
        price = runs[0][0]["utility"]["price"]
        parts += ["## Learned against each method, paired within runs", markdown_table(header, _pooled(tables, price))]
        drawn = _curves(tables, runs[0][2])
        if drawn:
            if picture is not None:
                forest({name: (at, area) for name, (_, at, _, area) in drawn.items() if name != "learned"}, picture)
            header = ("curve", "at learned's tokens", "minus learned, points [95% CI]", "mean accuracy",
                      "minus learned's curve [95% CI]")  # fmt: skip
            parts += ["## Curves", _CURVES, markdown_table(header, _curve_rows(drawn))]
        if "oracle" in labels:
            header = ("baseline", "tokens", "learned level", "its tokens", "points [95% CI]", "verdict")
            parts += ["## Against each baseline", _DOMINATED, markdown_table(header, dominance(tables))]
    paired = _paired(runs[0], runs[1], labels)
    if paired:
        header = (f"{names[0]} minus {names[1]}", "points [95% CI]", "p (images)", "questions in both")
        parts += ["## Paired, the first two runs", markdown_table(header, paired)]
    return "\n\n".join(parts) + "\n"


def seeds_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over runs with its 95 % t interval; fewer than two runs have no interval, and it is the mean itself."""
    mean = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return mean, mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
    return mean, float(low), float(high)


def _names(paths: Sequence[str | Path]) -> list[str]:
    """The last parts of the paths that tell them apart."""
    parts = [Path(path).resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _cells(label: str, metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [run["methods"].get(label) for run in metrics]
    each = ["–" if m is None else f"{100 * m['accuracy'][0]:.1f} ({m['tokens']['mean']:,.0f})" for m in found]
    there = [m for m in found if m is not None]
    mean, low, high = (100 * v for v in seeds_interval([m["accuracy"][0] for m in there]))
    interval = f"{mean:.1f} [{low:.1f}, {high:.1f}]" if len(there) > 2 else f"{mean:.1f}"
    return [*each, interval, f"{np.mean([m['tokens']['mean'] for m in there]):,.0f}"]


def _pooled(tables: Runs, price: float) -> list[list[str]]:
    """The learned policy minus every other method, paired by question within each run and pooled over the runs."""

    def share(record: Record) -> float:
        return record["tokens"] / record["full_tokens"]

    def net(record: Record) -> float:
        return record["score"] - price * share(record)

    rows = []
    for label in dict.fromkeys(label for table in tables for label in table):
        found = pairs(tables, "learned", label)
        if label == "learned" or not found:
            continue
        accuracy = difference(found, lambda record: record["score"])
        spent, utility = difference(found, share), difference(found, net)
        rows.append(
            [label, _points(accuracy), f"{accuracy.p:.3g}", _points(spent), _points(utility), f"{len(found):,}"]
        )
    return rows


def _curves(tables: Runs, config: Mapping[str, Any]) -> Curves:
    """`eval.reporting.curves.curves` of runs whose learned policy has a curve and that know floor and full detail."""
    methods = make_methods(config["run"]["methods"])
    members = curve_members(methods)
    uniform = [(method.budget, method.label) for method in methods if isinstance(method, Uniform)]
    if "learned" not in members or len(uniform) < 2:
        return {}
    return curves(tables, members, "learned", min(uniform)[1], max(uniform)[1])


def _curve_rows(drawn: Curves) -> list[list[str]]:
    return [
        [name, f"{100 * there:.1f}", own or _points(minus), f"{100 * mean:.1f}", own or _points(less)]
        for name, (there, minus, mean, less) in drawn.items()
        for own in ("–" if name == "learned" else "",)
    ]


def _points(difference: Difference) -> str:
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def _paired(
    one: tuple[Any, list[Record], Any], two: tuple[Any, list[Record], Any], labels: Sequence[str]
) -> list[list[str]]:
    first, second = by_method(one[1]), by_method(two[1])
    rows = []
    for label in labels:
        if label not in first or label not in second:
            continue
        theirs = {r["question_id"]: r for r in second[label]}
        pairs = [(r, theirs[r["question_id"]]) for r in first[label] if r["question_id"] in theirs]
        if not pairs or any(a["question"] != b["question"] for a, b in pairs):
            continue
        found = paired_difference(
            np.array([a["score"] for a, _ in pairs]),
            np.array([b["score"] for _, b in pairs]),
            [a["image_id"] for a, _ in pairs],
        )
        rows.append([label, _points(found), f"{found.p:.3g}", f"{len(pairs):,}"])
    return rows
