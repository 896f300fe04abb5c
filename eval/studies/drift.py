"""How fast learners recover when the mix of questions changes midway."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..reporting.page import markdown_table
from ..reporting.plots import read_log, running_mean


def drift(logs: Sequence[str | Path], change: int, price: float = 0.05, window: int = 60, slack: float = 0.03) -> str:
    """A table of learning logs around a change, as Markdown.

    A learner has recovered when the mean utility (reward less price times share of full detail) of its last
    ``window`` episodes, all of them after the change, comes within ``slack`` of the best level that any of the
    learners holds over the last third of what follows the change.

    Parameters
    ----------
    logs
        ``log.jsonl`` of learners on one and the same stream.
    change
        Episode of the first question of the new mix.
    price
        Reward units of full detail.
    window
        Episodes of the running mean.
    slack
        Utility that counts as recovered.

    Raises
    ------
    ValueError
        If a log is missing, or too short for the windows around the change.
    """
    utility = {}
    for log in logs:
        rows = read_log(Path(log))
        if change < window or len(rows) < change + 2 * window:
            raise ValueError(
                f"{log} has {len(rows)} episodes; {window} before episode {change} and {2 * window} from it on are "
                "needed: change --change or --window"
            )
        utility[Path(log).parent.name] = np.array(
            [row["reward"] - price * row["tokens"] / row["full_tokens"] for row in rows]
        )
    settled = max(values[change + 2 * (len(values) - change) // 3 :].mean() for values in utility.values())
    cells = []
    for name, values in utility.items():
        after, mean = running_mean(np.arange(len(values) - change), values[change:], window)
        there = after[mean >= settled - slack]
        cells.append(
            [
                name,
                f"{values[change - window : change].mean():.3f}",
                f"{values[change : change + window].mean():.3f}",
                f"{values[change + 2 * (len(values) - change) // 3 :].mean():.3f}",
                f"{there[0] + 1:,}" if len(there) else f"not in {len(values) - change:,}",
            ]
        )
    header = ("learner", "before", f"first {window} after", "last third", "episodes to recover")
    text = f"Utility at a price of {price:g}; recovered within {slack:g} of {settled:.3f}, means of {window} episodes."
    return f"# A change of questions at episode {change:,}\n\n{text}\n\n{markdown_table(header, cells)}\n"
