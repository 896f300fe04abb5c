"""The contract of a reward."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..learning.rewards import make_reward
from .base import require

SAMPLE = {"question": "which year ?", "answers": ["1990"] * 10, "answer": "1990", "kind": "all", "question_id": "1"}
SAID = ("1990", "1991", "", "the year 1990.", "Ελληνικά 😀", "1990 " * 200)


def check_reward(
    reward: str | Callable[[str, Mapping[str, Any]], float],
    sample: Mapping[str, Any] | None = None,
    right: str | None = None,
) -> None:
    """Hold a reward to its contract.

    Parameters
    ----------
    reward
        A registered name, or a function of (answer, sample).
    sample
        A sample that it can judge; by default a question after a year.
    right
        The right answer to it; by default the first of its answers.

    Raises
    ------
    Broken
        If an answer, also an empty or a very long one, is not worth a number in [0, 1]; if the right answer is worth
        less than another; if the same answer is worth something else the second time; or if the sample is changed.
    """
    score = make_reward(reward) if isinstance(reward, str) else reward
    name = reward if isinstance(reward, str) else getattr(reward, "__name__", repr(reward))
    given = dict(sample or SAMPLE)
    right = str(given["answers"][0]) if right is None else right
    kept = copy.deepcopy({key: value for key, value in given.items() if key != "image"})
    found = {said: float(score(said, given)) for said in (right, *SAID)}
    for said, value in found.items():
        inside = math.isfinite(value) and 0 <= value <= 1
        require(inside, f"reward {name}: {value} for {said[:40]!r} is no number in [0, 1]")
        require(float(score(said, given)) == value, f"reward {name}: {said[:40]!r} is worth something else each time")
    best = max(found, key=lambda said: found[said])
    require(found[right] >= found[best], f"reward {name}: the right answer {right!r} is worth less than {best[:40]!r}")
    require(found[right] > 0, f"reward {name}: the right answer {right!r} is worth nothing")
    same = {key: value for key, value in given.items() if key != "image"} == kept
    require(same, f"reward {name} changes the sample it judges")
