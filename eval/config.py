"""What an evaluation is: a dataclass owns the defaults, a YAML file and then ``key=value`` from the command line
overlay it."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from arr_coc.asking.models import load_vlm
from arr_coc.config import ArrCocConfig
from arr_coc.learning.settings import check_types, read_settings
from arr_coc.learning.task_config import TaskConfig


@dataclass(kw_only=True)
class EvalConfig:
    """One evaluation run.

    Parameters
    ----------
    out
        Run folder. An unfinished run in it is continued, a finished one is never overwritten.
    policy
        Folder of a learned policy (``ArrCoc.save_pretrained``), which the method "learned" needs.
    allow
        Names of models that the policy's scorers may load.
    model
        Arguments of `arr_coc.asking.models.load_vlm`: name, device, dtype.
    wrap
        Fields of `arr_coc.ArrCocConfig` that differ from its defaults; with a policy, its own configuration counts.
    task
        See `TaskConfig`.
    methods
        Names, e.g. "uniform-128", or mappings such as ``{method: random, match: learned, seed: 1}``.
    baselines
        Methods every other one is compared with, paired by question.
    batch_size
        Questions answered in one call of generate.
    max_new_tokens
        Length of an answer, in tokens.
    price
        Reward units of full detail in the ``utility`` of a method, score less price times share of full detail.
    resamples
        Bootstrap resamples behind each interval.
    overlays
        Pictures on the page of patch budgets; 0 for none.
    shared
        Let methods share what was seen, encoded and answered of a question: an allocation that one method had
        answered is not answered again for another. Answers are the same, the run is several times cheaper, and times
        come from ``timed`` questions alone.
    timed
        Time so many questions, spread over the task, once more when all are answered: one at a time, by every method
        in turn, with nothing shared, and with the peak of memory. 0 takes times from the answers themselves.
    seed
        Seed of every random choice of the run.
    """

    out: str = "runs/eval"
    policy: str | None = None
    allow: list[str] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    wrap: dict[str, Any] = field(default_factory=dict)
    task: TaskConfig = field(default_factory=TaskConfig)
    methods: list[Any] = field(
        default_factory=lambda: ["full", "blind", "uniform-64", "uniform-128", "uniform-256", "uniform-400", "oracle"]
    )
    baselines: list[str] = field(default_factory=lambda: ["uniform-400"])
    batch_size: int = 8
    max_new_tokens: int = 8
    price: float = 0.05
    resamples: int = 2000
    overlays: int = 9
    shared: bool = False
    timed: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        for name, least in (
            ("batch_size", 1),
            ("max_new_tokens", 1),
            ("resamples", 100),
            ("overlays", 0),
            ("timed", 0),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be an int >= {least}.")
        if not 0 <= self.price < float("inf"):
            raise ValueError(f"price={self.price} must be a finite number >= 0 (reward units of full detail).")
        if not self.methods:
            raise ValueError("methods is empty; list at least one, for instance [full, uniform-64].")
        ArrCocConfig.from_dict(self.wrap)
        if self.policy is not None and self.wrap:
            raise ValueError(
                "wrap: a learned policy brings its own configuration; leave the section empty with run.policy."
            )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The configuration as the sections that `read_config` reads."""
        run = dataclasses.asdict(self)
        return {section: run.pop(section) for section in _SECTIONS} | {"run": run}


_SECTIONS = {
    "model": tuple(inspect.signature(load_vlm).parameters),
    "wrap": tuple(item.name for item in dataclasses.fields(ArrCocConfig)),
    "task": tuple(item.name for item in dataclasses.fields(TaskConfig)),
}


def read_config(
    path: str | os.PathLike[str], overrides: Iterable[str] = (), overlays: Iterable[str | os.PathLike[str]] = ()
) -> EvalConfig:
    """Read an evaluation's configuration: the sections ``model``, ``wrap``, ``task`` and ``run`` of a YAML file.

    Parameters
    ----------
    path
        The file.
    overrides
        ``section.key=value``, e.g. ``task.limit=50`` or ``run.methods=[full,blind]``. ``model=pages`` (or another
        model of ours) names the model and, as source of the questions, the world that it was trained on.
    overlays
        Files of the same form, laid over the first one key by key, in their order and before the overrides.

    Raises
    ------
    ValueError, TypeError
        For a missing or malformed file, an unknown key (naming the nearest one) or a value out of its range.
    """
    run = tuple(item.name for item in dataclasses.fields(EvalConfig) if item.name not in _SECTIONS)
    settings = read_settings(path, {**_SECTIONS, "run": run}, overrides, overlays)
    task = TaskConfig(**settings.pop("task"))
    return EvalConfig(task=task, **settings.pop("run"), **settings)
