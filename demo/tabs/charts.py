"""Figures of the page, as pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from eval.reporting import plots

WINDOW = 40


def pareto(metrics: Mapping[str, Any]) -> Image.Image:
    """The report's own Pareto plot of a run."""
    out = io.BytesIO()
    plots.pareto(metrics, out, list(metrics["uniform"]))
    return Image.open(out)


def learning(log: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Reward, tokens and regret over the episodes so far, and the tokens of each kind of question, early and late.

    Parameters
    ----------
    log
        Records of `demo.lessons.Pupil`; at least one.
    """
    figure = Figure(figsize=(11, 6.4), dpi=100, layout="constrained")
    (reward, tokens), (regret, kinds) = figure.subplots(2, 2)
    episodes = np.arange(1, len(log) + 1)
    share = np.array([100 * row["tokens"] / row["full_tokens"] for row in log])
    window = min(WINDOW, max(1, len(log) // 3))
    for axes, values, label, color in (
        (reward, np.array([row["reward"] for row in log], dtype=float), "reward", plots.OKABE_ITO[0]),
        (tokens, share, "tokens in % of full detail", plots.OKABE_ITO[1]),
    ):
        x, mean = plots.running_mean(episodes, values, window)
        axes.plot(x, mean, color=color, linewidth=2, marker="o" if len(x) < 20 else "")
        axes.set_title(f"{label}, mean of {window}", loc="left", fontsize=10)
    reward.set_ylim(-0.05, 1.05)
    known = [(i + 1, row["regret"]) for i, row in enumerate(log) if row["regret"] is not None]
    if known:
        x, values = np.array(known, dtype=float).T
        regret.plot(x, np.cumsum(values), color=plots.OKABE_ITO[2], linewidth=2)
    regret.set_title(
        "regret, summed: net reward behind the allocation that knows the evidence", loc="left", fontsize=10
    )
    for axes in (reward, tokens, regret):
        axes.set_xlabel("episode")
        axes.grid(alpha=0.25)
    _kinds(kinds, log, share)
    return _picture(figure)


def _kinds(axes: Any, log: Sequence[Mapping[str, Any]], share: np.ndarray) -> None:
    """Mean tokens by kind of question in the first and the second half."""
    names = sorted({row["kind"] for row in log})
    half = max(1, len(log) // 2)
    for place, (label, rows) in enumerate((("first half", slice(0, half)), ("second half", slice(half, None)))):
        means = [
            np.mean([s for row, s in zip(log[rows], share[rows], strict=True) if row["kind"] == name] or [np.nan])
            for name in names
        ]
        spots = np.arange(len(names)) + (place - 0.5) * 0.4
        axes.bar(spots, means, 0.38, label=label, color=(plots.GREY, plots.OKABE_ITO[1])[place])
    axes.set_xticks(range(len(names)), names, rotation=20)
    axes.set_title("tokens by kind of question, % of full detail", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    axes.grid(axis="y", alpha=0.25)


def _picture(figure: Figure) -> Image.Image:
    out = io.BytesIO()
    figure.savefig(out)
    return Image.open(out)
