"""Judge a wrapped model on questions of one's own, beside baselines, from an installed package.

The evaluation in the repository (``python -m eval``) has more methods, run folders and figures; the rules are the
same, and so are the statistics: every method answers the same questions one at a time in turn, differences are paired
by question, and intervals resample images.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..asking.ask import answers, prepare
from ..attending.planners import make_planner
from ..config import nearest
from .rewards import make_reward
from .statistics import Difference, Estimate, mean_interval, paired_difference, verdict
from .tasks import Task

if TYPE_CHECKING:
    from ..wrapping.wrapper import ArrCoc

FULL = "full"
Reward = Callable[[str, Mapping[str, Any]], float]


@dataclass(frozen=True)
class Judged:
    """One method on all questions.

    Attributes
    ----------
    name
        ``"wrapped"`` for the model as it was wrapped, else the baseline's.
    score
        Mean reward with its 95 % interval.
    tokens, share
        Visual tokens per question (mean), and all of them as a share of full detail.
    seconds
        Median of the whole answer, picture preprocessing left out.
    difference
        The wrapped model minus this method, paired by question; ``None`` for itself.
    """

    name: str
    score: Estimate
    tokens: float
    share: float
    seconds: float
    difference: Difference | None


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found. Printing it shows the table and a verdict.

    Attributes
    ----------
    questions, images
        How many.
    reward
        Its name.
    methods
        The wrapped model first, then the baselines.
    records
        One per question and method: ``question_id, image_id, question, method, answer, score, tokens, full_tokens,
        seconds``.
    """

    questions: int
    images: int
    reward: str
    methods: list[Judged]
    records: list[dict[str, Any]] = field(repr=False)

    @property
    def verdict(self) -> str:
        """The comparison with the first baseline, in one sentence."""
        ours, base = self.methods[0], self.methods[1]
        assert base.difference is not None
        name = "full detail" if base.name == FULL else base.name
        said = verdict(base.difference, self.images, ours.tokens / base.tokens, name)
        return said[0].upper() + said[1:] + "."

    def __str__(self) -> str:
        lines = [
            self.verdict,
            f"{_counted(self.questions, 'question')} on {_counted(self.images, 'image')}, {self.reward}; "
            "95 % intervals, images resampled",
            f"{'':14} {'accuracy':>21} {'tokens':>7} {'share':>6} {'seconds':>8}   wrapped minus it, points",
        ]
        for method in self.methods:
            value, low, high = (f"{100 * x:.1f}" for x in method.score.to_list())
            found = method.difference
            minus = "" if found is None else (
                f"   {100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
            )  # fmt: skip
            lines.append(
                f"{method.name:14} {value:>6} {f'[{low}, {high}]':>14} {method.tokens:>7,.0f} "
                f"{100 * method.share:>4.0f} % {method.seconds:>8.2f}{minus}"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Verdict and table as plain data; the records are apart."""
        return {
            "verdict": self.verdict, "questions": self.questions, "images": self.images, "reward": self.reward,
            "methods": [dataclasses.asdict(method) for method in self.methods],
        }  # fmt: skip


def evaluate(
    arr: ArrCoc,
    rows: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    baselines: Sequence[str] = (FULL, "uniform-64"),
    *,
    reward: str | Reward = "vqa_accuracy",
    max_new_tokens: int = 32,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Answer questions with the wrapped model and with baselines, and say what the budgets cost or gain.

    Parameters
    ----------
    arr
        The wrapped model, attached; it is left as it was. Nothing is learned.
    rows
        The questions: a `Task`, or what `Task.of` takes: mappings with ``image``, ``question`` and ``answers`` or
        ``answer``, a ``.jsonl`` file, a dataset's name.
    baselines
        What to compare with, the first being that of the verdict: ``"full"`` (the untouched model), ``"uniform-B"``
        (every patch at budget B), or a policy's name, such as ``"heuristic"`` or ``"random"``.
    reward
        Name of a reward of ``arr_coc.learning.rewards``, or a function of (answer, row) to a finite number.
    max_new_tokens
        Longest answer.
    resamples, seed
        Of the bootstrap behind the intervals.
    progress
        Whether to show a bar.

    Raises
    ------
    ValueError
        For no rows, a row without picture, question or answer, an unknown baseline or reward, or a reward that is
        not finite; all but the last before anything is answered.
    """
    planners = {name: None if name == FULL else make_baseline(arr, name) for name in baselines}
    if not planners or len(planners) < len(baselines):
        raise ValueError(f"baselines={list(baselines)!r} must name at least one method, each once, such as 'full'")
    score = make_reward(reward) if isinstance(reward, str) else reward
    name = reward if isinstance(reward, str) else getattr(reward, "__name__", "reward")
    samples = read_rows(rows)
    own, records = arr.planner, []
    names = ["wrapped", *planners]
    count = samples.count()
    total = None if count is None else count * len(names)
    with tqdm(total=total, desc="evaluating", unit="answer", disable=not progress) as bar:
        try:
            for number, sample in enumerate(samples):
                turn = number % len(names)  # none always finds what another left in a cache
                for method in [*names[turn:], *names[:turn]]:
                    arr.planner = own if method == "wrapped" else planners[method] or own
                    records.append(_answer(arr, sample, number, method, score, max_new_tokens))
                    bar.update()
        finally:
            arr.planner = own
            arr.attach()
    return _summed(records, names, name, resamples, seed)


def make_baseline(arr: ArrCoc, name: str) -> Any:
    """The planner of a baseline's name, over the wrapped model's own configuration.

    Raises
    ------
    ValueError
        If there is no such policy or budget.
    """
    kind, _, budget = name.partition("-")
    if kind == "uniform":
        if not budget.isdigit() or int(budget) not in arr.config.budgets:
            known = [FULL, *(f"uniform-{b}" for b in arr.config.budgets), "heuristic", "random"]
            raise ValueError(f"the baseline {name!r} has no budget of the model. {nearest(name, known)}")
        config = dataclasses.replace(arr.config, policy="uniform", budget=int(budget), limit=None)
    else:
        config = dataclasses.replace(arr.config, policy=name, budget=None)
    return make_planner(config, arr.model, arr.processor)


def read_rows(rows: str | os.PathLike[str] | Iterable[Mapping[str, Any]]) -> Task:
    """The rows of :func:`evaluate`, none of which may be unreadable."""
    if isinstance(rows, Task):
        return rows
    kept = rows if isinstance(rows, str | os.PathLike) or hasattr(rows, "__len__") else list(rows)
    return Task.of(kept, max_unreadable=0.0)


def _answer(
    arr: ArrCoc, sample: Mapping[str, Any], number: int, method: str, score: Reward, max_new_tokens: int
) -> dict[str, Any]:
    inputs = prepare(arr.processor, [sample["image"]], [sample["question"]]).to(arr.model.device)
    if method == FULL:
        arr.detach()
    else:
        arr.attach()
    began = time.perf_counter()
    output = arr.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    text = answers(arr.processor, inputs["input_ids"], output)[0]  # waits for the device
    seconds = time.perf_counter() - began
    full = int((inputs["input_ids"] == arr.family.image_token(arr.model)).sum())
    value = float(score(text, sample))
    if not np.isfinite(value):
        raise ValueError(f"the reward of {text!r} for question {number} is {value}; rewards must be finite numbers")
    return {
        "question_id": sample["question_id"], "image_id": sample["image_id"],
        "question": sample["question"], "method": method, "answer": text, "score": value,
        "tokens": full if method == FULL else arr.last[0].tokens,
        "full_tokens": full if method == FULL else arr.last[0].full_tokens, "seconds": seconds,
    }  # fmt: skip


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _summed(
    records: Sequence[dict[str, Any]], names: Sequence[str], reward: str, resamples: int, seed: int
) -> Evaluation:
    table = {name: [record for record in records if record["method"] == name] for name in names}
    images = [record["image_id"] for record in table["wrapped"]]
    scores = {name: np.array([record["score"] for record in rows]) for name, rows in table.items()}
    options = {"resamples": resamples, "seed": seed}
    methods = [
        Judged(
            name, mean_interval(scores[name], images, **options),
            float(np.mean([r["tokens"] for r in rows])),
            sum(r["tokens"] for r in rows) / sum(r["full_tokens"] for r in rows),
            float(np.median([r["seconds"] for r in rows])),
            None if name == "wrapped" else paired_difference(scores["wrapped"], scores[name], images, **options),
        )
        for name, rows in table.items()
    ]  # fmt: skip
    return Evaluation(len(images), len(set(images)), reward, methods, list(records))
