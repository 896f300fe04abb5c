"""From records to a table and a picture."""

from __future__ import annotations

import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allocator.extras import optional


def interval(finals: list[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval over seeds (normal; 0 for one seed)."""
    n = len(finals)
    return float(np.mean(finals)), 1.96 * float(np.std(finals, ddof=1)) / math.sqrt(n) if n > 1 else 0.0


def machine() -> dict[str, Any]:
    """Where the figures were measured."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }


def write_atomically(path: Path, text: str) -> None:
    """A killed run leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def markdown(record: dict[str, Any]) -> str:
    """The record as tables: regret per task and method, then speed."""
    lines = ["# Allocator benchmark", "", f"`{record['command']}`", "", f"{json.dumps(record['machine'])}", ""]
    for task, methods in record["tasks"].items():
        lines += [f"## {task}", "", "| method | regret | reward | seeds | CPU ms per round |", "|---|---|---|---|---|"]
        ranked = sorted(methods.items(), key=lambda item: interval(item[1]["regret"])[0])
        for label, found in ranked:
            regret, half = interval(found["regret"])
            reward, half_reward = interval(found["reward"])
            cpu = 1e3 * float(np.mean(found["cpu_seconds"])) / found["rounds"]
            lines.append(
                f"| {label} | {regret:.1f} ± {half:.1f} | {reward:.1f} ± {half_reward:.1f} "
                f"| {len(found['regret'])} | {cpu:.2f} |"
            )
        lines.append("")
    for name, rows in record.get("speed", {}).items():
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"## speed: {name}", "", "| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
        for row in rows:
            cells = [f"{row[key]:.3g}" if isinstance(row.get(key), float) else str(row.get(key, "")) for key in keys]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def plot(record: dict[str, Any], path: Path) -> None:
    """Cumulative regret, one panel per task; the band is the 95 % interval over seeds."""
    optional("matplotlib").use("Agg")
    pyplot = optional("matplotlib.pyplot", "matplotlib")
    tasks = record["tasks"]
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(5 * columns, 3.6 * rows), squeeze=False)
    for axis in axes.ravel()[len(tasks) :]:
        axis.set_axis_off()
    for axis, (task, methods) in zip(axes.ravel(), tasks.items(), strict=False):
        for label, found in methods.items():
            if label == "random":
                continue
            curves = np.array(found["curves"])
            middle = curves.mean(axis=0)
            half = 1.96 * curves.std(axis=0) / math.sqrt(len(curves))
            (line,) = axis.plot(found["at"], middle, label=label)
            axis.fill_between(found["at"], middle - half, middle + half, color=line.get_color(), alpha=0.2)
        axis.set(title=task, xlabel="round", ylabel="cumulative regret")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
