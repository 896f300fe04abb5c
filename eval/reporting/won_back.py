"""What breaking its knowing costs the heuristic, and how much of that learning and calibrating win back."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..records import read_run
from .page import markdown_table
from .plots import GREY, OKABE_ITO
from .statistics import Difference, paired_difference
from .summary import by_method

CLEAN = "clean"
_LABEL = re.compile(r"(?P<who>.+?), (?P<broken>[^,]+?)(?:, after (?P<after>\d+))?$")
LEAST = 0.01
"""Utility that must have been lost before a share of it is quoted."""


@dataclass(frozen=True)
class Row:
    """One method under one corruption, over all runs.

    Attributes
    ----------
    who, broken
        Parts of its label, ``"learned, sink 97, after 104"``.
    after
        Answers it had learned from; 0 for what does not learn.
    questions
        How many it answered, in all runs that hold it and its heuristic.
    accuracy, tokens
        Mean score, and mean share of full detail.
    scores, spent, utility
        Differences to the heuristic under the same corruption: of scores, of shares, of the score less price.
    share
        Of the utility that the heuristic lost, what is won back, with its interval; None where it lost next to none.
    """

    who: str
    broken: str
    after: int
    questions: int
    accuracy: float
    tokens: float
    scores: Difference
    spent: Difference
    utility: Difference
    share: tuple[float, float, float] | None


def won_back(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[Row], dict[str, Difference]]:
    """Every method of one or more runs of a bench of broken knowing, against the heuristic of its corruption.

    Methods are told apart by their labels, ``"WHO, BROKEN"`` or ``"WHO, BROKEN, after N"``, where BROKEN is "clean"
    for what is not. Differences are of the same questions; intervals are 95 % bootstrap intervals over pictures of all
    runs.

    Returns
    -------
    rows, lost
        The methods; by corruption the heuristic's utility less that of the clean one.

    Raises
    ------
    ValueError
        If a run has no methods "heuristic, clean" and "heuristic, BROKEN".
    """
    runs = [read_run(path) for path in paths]
    found = [by_method(records) for _, records, _ in runs]
    prices = [float(config["run"]["price"]) for *_, config in runs]
    episodes = {
        method["label"]: int(method["episodes"])
        for *_, config in runs
        for method in config["run"]["methods"]
        if isinstance(method, Mapping) and method.get("episodes") and method.get("label")
    }
    labels = list(dict.fromkeys(label for methods in found for label in methods))
    parsed = {label: match for label in labels if (match := _LABEL.match(label))}
    base = f"heuristic, {CLEAN}"
    broken = [m["broken"] for label, m in parsed.items() if m["who"] == "heuristic" and label != base]
    if base not in parsed or not broken:
        raise ValueError(f"these runs hold no {base!r} and 'heuristic, BROKEN', only {labels}")

    def columns(label: str, *beside: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Scores, shares, utilities and pictures, of the runs that also hold other methods."""
        score, spent, paid, clusters = [], [], [], []
        for number, (methods, price) in enumerate(zip(found, prices, strict=True)):
            for record in methods[label] if {label, *beside} <= methods.keys() else ():
                share = record["tokens"] / record["full_tokens"]
                score.append(record["score"])
                spent.append(share)
                paid.append(record["score"] - price * share)
                clusters.append(f"{number}/{record['image_id']}")
        return np.array(score, dtype=float), np.array(spent), np.array(paid), clusters

    rows, lost = [], {}
    for kind in [CLEAN, *broken]:
        own = f"heuristic, {kind}"
        if kind != CLEAN:
            mine, clean = columns(own, base), columns(base, own)
            lost[kind] = paired_difference(mine[2], clean[2], mine[3])
        for label, match in parsed.items():
            if match["broken"] != kind:
                continue
            theirs, mine, clean = columns(label, own, base), columns(own, label, base), columns(base, label, own)
            if not len(mine[0]):
                continue
            after = int(match["after"] or episodes.get(label, 0))
            pairs = [paired_difference(a, b, mine[3]) for a, b in zip(theirs[:3], mine[:3], strict=True)]
            share = None
            if kind != CLEAN and match["who"] != "heuristic" and -lost[kind].value >= LEAST:
                share = _share(theirs[2] - mine[2], clean[2] - mine[2], mine[3])
            means = len(mine[0]), float(theirs[0].mean()), float(theirs[1].mean())
            rows.append(Row(match["who"], kind, after, *means, *pairs, share))
    order, whos = [CLEAN, *broken], list(dict.fromkeys(row.who for row in rows))
    rows.sort(key=lambda row: (order.index(row.broken), whos.index(row.who), row.after))
    return rows, lost


def _share(gain: np.ndarray, gap: np.ndarray, clusters: Sequence[str]) -> tuple[float, float, float]:
    """Ratio of sums with its bootstrap interval; numerator and denominator are drawn together."""
    which = np.unique(clusters, return_inverse=True)[1]
    sums = np.stack([np.bincount(which, weights=values) for values in (gain, gap)])
    drawn = np.random.default_rng(0).integers(sums.shape[1], size=(2000, sums.shape[1]))
    above, below = sums[0][drawn].sum(1), sums[1][drawn].sum(1)
    low, high = np.quantile(above / np.where(np.abs(below) < 1e-9, np.nan, below), [0.025, 0.975])
    return float(gain.sum() / gap.sum()), float(low), float(high)


def markdown(paths: Sequence[str | os.PathLike[str]]) -> str:
    """The table of `won_back`."""
    rows, lost = won_back(paths)
    cells = []
    for row in rows:
        own = row.who == "heuristic"
        gap = lost.get(row.broken)
        share = "" if row.share is None else f"{row.share[0]:.0%} [{row.share[1]:.0%}, {row.share[2]:.0%}]"
        cells.append(
            [
                row.broken, row.who, str(row.after or ""), f"{row.questions:,}",
                f"{100 * row.accuracy:.1f}", f"{row.tokens:.1%}",
                "" if own else _points(row.scores), "" if own else _points(row.spent),
                ("" if gap is None else f"lost {_points(gap)}") if own else _points(row.utility), share,
            ]
        )  # fmt: skip
    header = ("broken", "method", "answers", "judged on", "accuracy", "tokens", "accuracy, against the heuristic's",
              "tokens, same", "utility, same", "of what was lost")  # fmt: skip
    of = "1 run" if len(paths) == 1 else f"{len(paths)} runs"
    return (
        f"# What is won back\n\n{of}. Differences in points with 95 % bootstrap intervals, "
        "question by question, to the heuristic under the same corruption; utility is the score less the price of "
        f"the tokens.\n\n{markdown_table(header, cells)}\n"
    )


def _points(found: Difference) -> str:
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def draw(paths: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]) -> None:
    """Utility over answers learned from, one panel per corruption, with intervals; the dashed line is the clean one's.

    Zero is the frozen heuristic under the same corruption.
    """
    rows, lost = won_back(paths)
    kinds = list(dict.fromkeys(row.broken for row in rows))
    across = min(3, len(kinds))
    down = -(-len(kinds) // across)
    figure = Figure(figsize=(3.4 * across, 2.5 * down + 0.5), dpi=130, layout="constrained")
    panels = np.atleast_1d(figure.subplots(down, across, sharex=True, squeeze=False)).ravel()
    names = [who for who in dict.fromkeys(row.who for row in rows) if who != "heuristic"]
    for axes, kind in zip(panels, kinds, strict=False):
        axes.axhline(0, color=GREY, linewidth=1)
        if kind in lost:
            axes.axhline(-100 * lost[kind].value, color=GREY, linewidth=1.2, linestyle="--")
        for number, who in enumerate(names):
            _line(axes, sorted((r for r in rows if r.broken == kind and r.who == who), key=lambda r: r.after), number)
        judged = max(row.questions for row in rows if row.broken == kind)
        axes.set_title(f"{kind} ({judged:,} questions)", loc="left", fontsize=10)
        axes.grid(alpha=0.25)
        axes.tick_params(labelbottom=True)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -1.0), max(high, 1.0))
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
    figure.supxlabel("answers learned from", fontsize=10)
    figure.supylabel("utility, points above the heuristic", fontsize=10)
    figure.suptitle("dashed: what the heuristic has with its knowing whole", fontsize=9)
    if len(names) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)


def _line(axes: Any, rows: Sequence[Row], number: int) -> None:
    if not rows:
        return
    points = [(0, 0.0, 0.0, 0.0)] if rows[0].after else []
    points += [(r.after, 100 * r.utility.value, 100 * r.utility.low, 100 * r.utility.high) for r in rows]
    x, y, low, high = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    color = OKABE_ITO[number % len(OKABE_ITO)]
    axes.errorbar(x, y, np.maximum([y - low, high - y], 0), fmt="o-", color=color, capsize=3, label=rows[0].who)


def write(paths: Sequence[str | os.PathLike[str]], out: Path) -> None:
    """The table to ``out`` and the picture beside it."""
    from allocator.storage import replace_file

    out.parent.mkdir(parents=True, exist_ok=True)
    picture = out.with_suffix(".png")
    draw(paths, picture)
    replace_file(out, markdown(paths) + f"\n![utility won back over answers learned from]({picture.name})\n")
