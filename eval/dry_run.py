"""What a run would do and cost, found out without its model."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from arr_coc.learning.rewards import check_reward, make_reward
from arr_coc.learning.tasks import Task
from arr_coc.reference import MODELS

from .config import EvalConfig
from .methods import Method, make_methods
from .methods.fixed import Uniform
from .methods.unmodified import Blind
from .run import passes

OVERHEAD, FLOPS = 0.3, 1e14
"""Seconds of an answer on a GPU besides prefill (preprocessing, a dozen decoded tokens), and what a data-centre GPU
does per second at 16 bits in practice: guesses, for a figure that is right within a factor of three."""


@dataclass
class Rehearsal:
    """A run that was not made.

    Attributes
    ----------
    methods
        (pass, label, answers) of each method.
    notes
        What was found, good or bad, in sentences.
    answers, full
        All answers, and how many answers at full detail cost as much prefill; methods whose tokens are not known
        before count as full detail.
    """

    methods: list[tuple[int, str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    answers: int = 0
    full: float = 0.0

    def hours(self, parameters: float, tokens: float) -> float:
        """Estimated hours on one data-centre GPU, for a model of so many parameters at so many tokens an image."""
        return (self.answers * OVERHEAD + self.full * 2 * parameters * tokens / FLOPS) / 3600


def rehearse(config: EvalConfig) -> Rehearsal:
    """Check everything that can be checked without loading the model: settings, methods and what they match, the
    policy's folder, the first questions, and the model's configuration and processor where they can be had.

    Raises
    ------
    ValueError, TypeError
        As a run would.
    """
    found = Rehearsal()
    methods = make_methods(config.methods, config.baselines)
    make_reward(config.task.reward)
    for method in methods:
        check_reward(getattr(method, "reward", None))
    task, image = Task(config.task), None
    limit = config.task.limit or 1000
    try:
        first = list(itertools.islice(task, 2))
        image = first[0]["image"]
        limit = task.count() or limit
        found.notes.append(f"data: {task.name}, for instance {first[0]['question']!r} on {image.size[0]} x "
                           f"{image.size[1]} pixels, answer {first[0]['answers'][0]!r}")  # fmt: skip
    except Exception as error:  # whatever a hub or a foreign file provokes
        found.notes.append(f"data: could not be read here ({_line(error)})")
    found.notes.append(_model(config, image))
    for number, ready in enumerate(passes(methods), start=1):
        for method in ready:
            count = min(limit, method.questions or limit)
            count += min(config.timed, count)
            found.methods.append((number, method.label, count))
            found.answers += count
            found.full += count * _share(method, config)
    return found


def _share(method: Method, config: EvalConfig) -> float:
    """Share of full detail that is known before the run."""
    budgets = config.wrap.get("budgets") or (64, 128, 256, 400)
    if isinstance(method, Uniform):
        return min(1.0, method.budget / budgets[-1])
    if isinstance(method, Blind):
        return float(budgets[0] / budgets[-1])
    return float(getattr(method, "share", None) or 1.0)


def _model(config: EvalConfig, image: Any) -> str:
    """What can be said of the model without its weights."""
    from transformers import AutoConfig, AutoProcessor

    from arr_coc.asking.ask import prepare
    from arr_coc.families import known_families

    name = config.model.get("name", "reference")
    if name in MODELS:
        return f"model: {name}, which comes with this package"
    try:
        kind = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
        if kind not in known_families():
            raise ValueError(f"{name} is a {kind!r} model, which is no supported family")
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        if image is None:
            return f"model: {name}, family {kind}"
        inputs = prepare(processor, [image], ["what is this ?"])
        length = inputs["input_ids"].shape[1]
        return f"model: {name}, family {kind}; the first picture makes a prompt of {length:,} tokens"
    except ValueError:
        raise
    except Exception as error:  # no network, no such repository
        return f"model: {name} could not be looked up here ({_line(error)})"


def _line(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}" if str(error) else type(error).__name__
    )
