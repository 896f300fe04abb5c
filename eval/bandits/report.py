"""From records to tables and pictures."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..records import hardware, versions
from ..reporting.compare import seeds_interval
from ..reporting.page import markdown_table
from .extras import optional
from .tasks import TASKS

GROUPS = {
    "classification": ("digits", "breast_cancer", "wine", "iris"),
    "combinatorial": ("cn-h1", "cn-h2", "cn-h3"),
    "full-bandit": ("additive", "additive-binary", "concave", "product", "drifting"),
}
_PEERS = ("contextualbandits", "mabwiser", "vowpalwabbit", "obp", "ortools", "scipy", "scikit-learn", "jax")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % t interval over seeds (0 for one seed)."""
    mean, _, high = seeds_interval(values)
    return mean, high - mean


def machine() -> dict[str, Any]:
    """Where the figures were measured, and with what."""
    return {
        "python": platform.python_version(),
        **hardware(),
        "load at the start": round(os.getloadavg()[0], 1),
        "versions": versions(("numpy", "torch", *_PEERS)),
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown lines of rows with the same kind of content."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(key, "")) for key in keys] for row in rows]
    return [*markdown_table(keys, cells).splitlines(), ""]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(record: dict[str, Any]) -> str:
    """The record as tables: ours beside the peers, every method of every task, then speed and off-policy values."""
    about = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = ["# Allocator benchmark", "", "```bash", *record["commands"], "```", ""]
    lines += [
        f"{about['processor']}, {about['cores']} cores, {about['threads']} thread(s), GPU: {about['gpu'] or 'none'}, "
        f"load {about['load at the start']} at the start, Python {about['python']}; {versions}.",
        "",
    ]
    if record["tasks"]:
        lines += ["Mean over seeds with 95 % t intervals; regret is that of expected rewards.", ""]
    contests = [row for name, methods in record["tasks"].items() if (row := contest(name, methods))]
    if contests:
        lines += ["## Ours beside the peers, on the same streams", ""]
        lines += ["The best of each side by mean reward, among those that played all seeds.", "", *table(contests)]
    for group, tasks in _grouped(record).items():
        lines += [f"## Regret, {group}", "", f"![cumulative regret](regret-{group}.png)", "", *table(overview(tasks))]
    for task, methods in record["tasks"].items():
        rounds = next(iter(methods.values()))["rounds"]
        lines += [f"## {task}", "", f"{_about(task)}; {rounds:,} rounds.", ""]
        if task in record["noise_floor"]:
            mean, half = interval(record["noise_floor"][task])
            lines += [f"Regret counted against the best noisy rewards is {mean:.1f} ± {half:.1f} higher.", ""]
        ranked = sorted(methods.items(), key=lambda item: interval(item[1]["regret"])[0])
        lines += table([_row(label, found) for label, found in ranked])
    if record.get("modifiers"):
        lines += ["## Modifiers", "", "Each beside the policy without it, on the same streams.", ""]
        lines += table([_modifier(row) for row in record["modifiers"]])
    for name, rows in record.get("speed", {}).items():
        lines += [f"## {name}", "", *table(rows)]
    return "\n".join(lines).rstrip() + "\n"


def _about(task: str) -> str:
    about = TASKS[task].about if task in TASKS else task
    return about[0].upper() + about[1:]


def _grouped(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Group -> task -> method -> what was found, for the tasks that the record holds."""
    groups = {
        group: {name: record["tasks"][name] for name in names if record["tasks"].get(name)}
        for group, names in GROUPS.items()
    }
    return {group: tasks for group, tasks in groups.items() if tasks}


def overview(tasks: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per method, one column per task: mean regret and its interval, with the seeds where there are fewer."""
    rows = []
    for label in dict.fromkeys(label for methods in tasks.values() for label in methods):
        row: dict[str, Any] = {"method": label}
        for task, methods in tasks.items():
            if label in methods:
                mean, half = interval(methods[label]["regret"])
                row[task] = f"{mean:.1f} ± {half:.1f}{_fewer(methods, label)}"
        rows.append(row)
    return rows


def _fewer(methods: dict[str, Any], label: str) -> str:
    seeds, most = len(methods[label]["regret"]), max(len(found["regret"]) for found in methods.values())
    return f" ({seeds} seed{'s' * (seeds > 1)})" if seeds < most else ""


def _row(label: str, found: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"method": label}
    for what in ("regret", "reward"):
        mean, half = interval(found[what])
        row[what] = f"{mean:.1f} ± {half:.1f}"
    row["seeds"] = len(found["regret"])
    row["CPU ms per round"] = 1e3 * float(np.mean(found["cpu_seconds"])) / found["rounds"]
    return row


def _modifier(row: dict[str, Any]) -> dict[str, Any]:
    cells = {key: row[key] for key in ("modifier", "around", "measure")}
    for kind in ("without", "with it"):
        mean, half = interval(row[kind])
        cells[kind] = f"{mean:.4g} ± {half:.2g}"
    return cells | {"seeds": len(row["without"])}


def contest(task: str, methods: dict[str, Any]) -> dict[str, Any] | None:
    """The best of each side that played all seeds, and the difference paired over seeds; None without peers."""
    best: dict[str, tuple[str, dict[str, Any]]] = {}
    seeds = max(len(found["reward"]) for found in methods.values())
    for label, found in methods.items():
        if len(found["reward"]) < seeds:
            continue
        side = "peer" if label.startswith("peer: ") else "ours"
        if side not in best or np.mean(found["reward"]) > np.mean(best[side][1]["reward"]):
            best[side] = (label, found)
    if len(best) < 2:
        return None
    (ours, a), (peer, b) = best["ours"], best["peer"]
    mean, half = interval(np.subtract(a["reward"], b["reward"]).tolist())
    return {
        "task": task,
        "our best": ours,
        "reward": "{:.1f} ± {:.1f}".format(*interval(a["reward"])),
        "best peer": peer.removeprefix("peer: "),
        "its reward": "{:.1f} ± {:.1f}".format(*interval(b["reward"])),
        "ours - peer": f"{mean:+.1f} ± {half:.1f}",
    }


def plot(record: dict[str, Any], folder: Path) -> None:
    """Cumulative regret, one picture per group and one panel per task; the band is the 95 % interval over seeds."""
    optional("matplotlib").use("Agg")
    pyplot = optional("matplotlib.pyplot", "matplotlib")
    for group, tasks in _grouped(record).items():
        labels = dict.fromkeys(label for methods in tasks.values() for label in methods if label != "random")
        palette = [pyplot.get_cmap("tab20")(at) for at in (*range(0, 14, 2), 16, 18, *range(1, 15, 2), 17, 19)]
        colors = {label: palette[at % len(palette)] for at, label in enumerate(labels)} | {"random": "grey"}
        columns = min(3, len(tasks)) if len(tasks) != 4 else 2
        rows = math.ceil(len(tasks) / columns)
        figure, axes = pyplot.subplots(rows, columns, figsize=(5.2 * columns, 4.6 * rows), squeeze=False)
        for axis in axes.ravel()[len(tasks) :]:
            axis.set_axis_off()
        for axis, (task, methods) in zip(axes.ravel(), tasks.items(), strict=False):
            _panel(axis, task, methods, colors)
        figure.tight_layout()
        figure.savefig(folder / f"regret-{group}.png", dpi=110)
        pyplot.close(figure)


def _panel(axis: Any, task: str, methods: dict[str, Any], colors: dict[str, str]) -> None:
    top = 0.0
    for label, found in methods.items():
        bands = [interval(column) for column in np.array(found["curves"]).T.tolist()]
        middle, half = np.array(bands).T
        style = "--" if label.startswith("peer: ") else ":" if label == "random" else "-"
        name = label + _fewer(methods, label)
        axis.plot(found["at"], middle, style, label=name, color=colors[label])
        axis.fill_between(found["at"], middle - half, middle + half, color=colors[label], alpha=0.12, linewidth=0)
        if label != "random":
            top = max(top, float((middle + half).max()))
    # Random play is far above: it is cut off so that the learners can be told apart.
    axis.set(
        title=f"{task}: {_about(task).lower()}",
        xlabel="round",
        ylabel="cumulative regret",
        ylim=(0, 1.05 * top or None),
    )
    axis.title.set_fontsize(10)
    axis.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)
