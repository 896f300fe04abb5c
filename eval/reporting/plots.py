"""The report's figures. Colours are Okabe and Ito's, which stay apart for every kind of colour vision."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .statistics import Difference

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*X<>p"
GREY = "#8A8A93"
Style = tuple[str, str]
CROWD = 14
"""More points than this are named in a legend, since their names would cover each other."""


def styles(metrics: Mapping[str, Any]) -> dict[str, Style]:
    """Colour and marker of every method of a run, the same in all its figures.

    Uniform budgets are grey; the methods of one curve share their style; the policy under test comes first.
    """
    labels, uniform = list(metrics["methods"]), list(metrics.get("uniform", ()))
    curves = metrics.get("curves", {})
    member = {label: name for name, curve in curves.items() for label in curve["methods"]}
    first = [label for label in ("learned", "heuristic", "oracle") if label in labels]
    names = dict.fromkeys(member.get(label, label) for label in [*first, *labels] if label not in uniform)
    own = {
        name: (OKABE_ITO[number % len(OKABE_ITO)], MARKERS[number % len(MARKERS)])
        for number, name in enumerate(names)
    }
    return {label: (GREY, "o") if label in uniform else own[member.get(label, label)] for label in labels}


def pareto(
    metrics: Mapping[str, Any], path: str | os.PathLike[str], uniform: Sequence[str] = (), time: bool = False
) -> None:
    """Accuracy against visual tokens or time, each method with its 95 % interval and its name; curves are joined.

    Parameters
    ----------
    metrics
        Of one run.
    path
        PNG to write.
    uniform
        Labels joined by a line: what equal budgets buy.
    time
        Against the median time to the first token, where it was timed, instead of tokens.
    """
    methods = metrics["methods"]
    crowd = len(methods) > CROWD
    figure = Figure(figsize=(11 if crowd else 9, 5.6), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    points = {
        label: (m["milliseconds"]["first token"] if time else m["tokens"]["mean"], *(100 * v for v in m["accuracy"]))
        for label, m in methods.items()
        if not time or "first token" in m["milliseconds"]
    }
    line = sorted(points[label][:2] for label in uniform if label in points)
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), color=GREY, linewidth=1.2, zorder=1)
    joined = {name: [m for m in curve["methods"] if m in points] for name, curve in metrics.get("curves", {}).items()}
    member = {label: name for name, labels in joined.items() for label in labels}
    groups: dict[str, list[str]] = {}
    for label in sorted(points, key=lambda label: points[label][0]):
        groups.setdefault(member.get(label, label), []).append(label)
    best, own_style = set(_front(points)), styles(metrics)
    for name, labels in groups.items():
        color, marker = own_style[labels[0]]
        if len(labels) > 1:
            places = (points[label][:2] for label in labels)
            axes.plot(*zip(*places, strict=True), color=color, linewidth=0.8, zorder=1)
        for label in labels:
            tokens, value, low, high = points[label]
            axes.errorbar(
                tokens, value, yerr=[[max(0, value - low)], [max(0, high - value)]], fmt=marker,
                color=color, markersize=5 if len(groups) > 2 * CROWD else 7,
                markeredgecolor="black" if label in best else color,
                capsize=0 if crowd else 3, elinewidth=0.6 if crowd else 1.1,
                label=name if label == labels[0] else None,
            )  # fmt: skip
    axes.set_xlabel("milliseconds to the first token (median)" if time else "visual tokens per question (mean)")
    axes.set_ylabel("accuracy in %, with 95 % interval")
    title = f"{metrics['questions']:,} questions on {metrics['images']:,} images; black rim: none is better for less"
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(alpha=0.25)
    axes.margins(x=0.1, y=0.08)
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if not crowd:
        unnamed = name_points(figure, axes, [(label, *points[label][:2]) for label in points])
        named = {name: handle for name, handle in named.items() if unnamed & set(groups[name])}
    if named:
        own = {name: name if name in points else labels[0] for name, labels in groups.items()}
        by_accuracy = sorted(named, key=lambda name: -points[own[name]][1])
        axes.legend(
            [named[name] for name in by_accuracy], [f"{name}, {points[own[name]][1]:.1f}" for name in by_accuracy],
            **({"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False} if crowd else {"loc": "best"}),
            fontsize=8,
        )  # fmt: skip
    figure.savefig(path)


def kinds(metrics: Mapping[str, Any], path: str | os.PathLike[str], labels: Sequence[str]) -> None:
    """Accuracy by kind of question, one bar per method, with 95 % intervals."""
    methods = metrics["methods"]
    most = max(methods.values(), key=lambda method: sum(k["questions"] for k in method["kinds"].values()))["kinds"]
    names, used = list(most), list[str]()
    figure = Figure(figsize=(max(7, 1.3 * len(names) + 2), 4.4), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    width, own_style = 0.84 / len(labels), styles(metrics)
    greys = iter(np.linspace(0.82, 0.45, max(1, sum(own_style[label][0] == GREY for label in labels))))
    for number, label in enumerate(labels):
        color = own_style[label][0]
        color, taken = (str(next(greys)), False) if color == GREY else (color, color in used)
        used.append(color)
        found = [methods[label]["kinds"].get(name) for name in names]
        value, low, high = 100 * np.array([kind["accuracy"] if kind else [np.nan] * 3 for kind in found]).T
        axes.bar(
            np.arange(len(names)) + (number - (len(labels) - 1) / 2) * width, value, width * 0.94, label=label,
            color=color, hatch="//" if taken else None, edgecolor="white", linewidth=0,
            yerr=np.clip([value - low, high - value], 0, None), capsize=1.5,
            error_kw={"elinewidth": 0.8},
        )  # fmt: skip
    counts = [most[name]["questions"] for name in names]
    axes.set_xticks(range(len(names)), [f"{name}\n{count}" for name, count in zip(names, counts, strict=True)])
    axes.set_ylabel("accuracy in %")
    axes.set_ylim(0, 105)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=min(5, len(labels)), frameon=False)
    figure.savefig(path)


def forest(rows: Mapping[str, tuple[Difference, Difference]], path: str | os.PathLike[str]) -> None:
    """What each policy of a comparison loses or gains beside the learned one, with 95 % intervals.

    Parameters
    ----------
    rows
        Per policy its difference at the learned policy's tokens, and that of the areas under the curves.
    path
        PNG to write.
    """
    figure = Figure(figsize=(9, 1.3 + 0.27 * len(rows)), dpi=130, layout="constrained")
    titles = ("at the learned policy's tokens", "mean over the curve")
    panels = figure.subplots(1, 2, sharey=True)
    for side, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        axes.axvline(0, color="black", linewidth=0.8)
        for place, found in enumerate(pair[side] for pair in rows.values()):
            value, low, high = (100 * v for v in (found.value, found.low, found.high))
            color = OKABE_ITO[1] if high < 0 else OKABE_ITO[2] if low > 0 else GREY
            axes.plot([low, high], [place, place], color=color, linewidth=1.6)
            axes.plot(value, place, "o", color=color, markersize=5)
        axes.set_xscale("symlog", linthresh=2)
        low, high = axes.get_xlim()
        ticks = [tick for tick in (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50) if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("points, minus learned")
        axes.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(rows)), list(rows))
    panels[0].invert_yaxis()
    figure.savefig(path)


def _run_name(log: Path) -> str:
    """The folder that names a learning run: the run's own, not the ``learning`` that a quickstart keeps it in."""
    folder = log.parent.parent if log.parent.name == "learning" else log.parent
    return folder.name or str(log)


def learning_curve(
    logs: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    window: int = 100,
    colors: Mapping[str, str] | None = None,
) -> None:
    """Reward and share of full detail while learning, as running means over episodes; one line per run.

    Parameters
    ----------
    logs
        The learner's logs: JSON lines with ``episode``, ``reward``, ``tokens`` and ``full_tokens``.
    path
        PNG to write.
    window
        Episodes in a running mean.
    colors
        Of runs by name, where other figures show them too.

    Raises
    ------
    ValueError
        If a log is missing, empty or of another form.
    """
    crowd = len(logs) > len(OKABE_ITO)
    figure = Figure(figsize=(11 if crowd else 8, 5.6), dpi=130, layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for number, log in enumerate(logs):
        rows = read_log(Path(log))
        episodes = np.array([row["episode"] for row in rows])
        color = (colors or {}).get(_run_name(Path(log)), OKABE_ITO[number % len(OKABE_ITO)])
        curves = ([row["reward"] for row in rows], [100 * row["tokens"] / row["full_tokens"] for row in rows])
        for axes, values in zip((above, below), curves, strict=True):
            x, mean = running_mean(episodes, np.array(values, dtype=float), window)
            style = ("-", "--", ":", "-.")[number // len(OKABE_ITO) % 4]
            axes.plot(x, mean, style, color=color, linewidth=1.8, label=_run_name(Path(log)))
    above.set_ylabel(f"reward\n(mean of {window})")
    below.set_ylabel("tokens in %\nof full detail")
    below.set_xlabel("episode")
    for axes in (above, below):
        axes.grid(alpha=0.25)
    if crowd:
        figure.legend(*above.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    elif len(logs) > 1:
        above.legend(frameon=False)
    figure.savefig(path)


def _front(points: Mapping[str, tuple[float, float, float, float]]) -> list[str]:
    """Labels that no other point beats in both tokens and accuracy."""
    return [
        label
        for label, (tokens, value, *_) in points.items()
        if not any(t <= tokens and v >= value and (t, v) != (tokens, value) for t, v, *_ in points.values())
    ]


def name_points(figure: Figure, axes: Any, points: Sequence[tuple[str, float, float]]) -> set[str]:
    """Write each name right beside its own marker; returns those for which there was no such place.

    A place is free if it covers no marker and no other name, and if no other marker is nearer to it than its own.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    frame = axes.get_window_extent(renderer)
    markers = {label: axes.transData.transform((x, y)) for label, x, y in points}
    taken = [(x - 8, y - 8, x + 8, y + 8) for x, y in markers.values()]
    near = ((9, 0), (7, 7), (7, -7), (0, 10), (0, -10), (-7, 7), (-7, -7), (-9, 0), (14, 12), (14, -12), (-14, 12))
    unnamed = set()
    for label, x, y in points:
        for dx, dy in near:
            across = "left" if dx > 0 else "right" if dx < 0 else "center"
            up = "bottom" if dy > 0 else "top" if dy < 0 else "center"
            text = axes.annotate(label, (x, y), (dx, dy), textcoords="offset points", ha=across, va=up, fontsize=8.5)
            box = text.get_window_extent(renderer)
            away = {name: _distance(box, place) for name, place in markers.items()}
            inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
            clear = all(box.x1 < t[0] or t[2] < box.x0 or box.y1 < t[1] or t[3] < box.y0 for t in taken)
            if inside and clear and all(away[label] < far for name, far in away.items() if name != label):
                taken.append((box.x0, box.y0, box.x1, box.y1))
                break
            text.remove()
        else:
            unnamed.add(label)
    return unnamed


def _distance(box: Any, place: Sequence[float]) -> float:
    """Pixels from a point to a box."""
    dx = max(box.x0 - place[0], 0.0, place[0] - box.x1)
    dy = max(box.y0 - place[1], 0.0, place[1] - box.y1)
    return float(np.hypot(dx, dy))


def running_mean(episodes: np.ndarray, values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of windows that end at each episode; a log shorter than the window is one growing mean."""
    totals = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    shown = ends >= min(window, len(values))
    return episodes[shown], ((totals[ends] - totals[starts]) / (ends - starts))[shown]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The episodes of a learning log.

    Raises
    ------
    ValueError
        If it is missing, empty or of another form.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not rows:
            raise ValueError("it is empty")
        for row in rows:
            float(row["reward"]), row["tokens"] / row["full_tokens"], int(row["episode"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no learning log ({error}); give the log.jsonl that learning wrote") from error
    return rows
