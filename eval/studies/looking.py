"""What looking costs in time: the same questions, the same tokens, side by side in one run.

Each question is answered by the untouched model, by glance and look as they are (`once`), by glance and look where
everything is read again (`twice`), by the allocation that `once` chose if nobody had to look (`given`), by the default
policy, which reads all scores (`default`), and by the heuristic where doubt is not known, so that the glance need not
be read to its end (`undoubting`), in turns. Seconds of processor time of one thread, because other jobs on the machine
do not count in them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import arr_coc
from arr_coc.asking.ask import answers, prepare
from arr_coc.attending.planners import make_planner
from arr_coc.config import ArrCocConfig

from .scaled import peak

if TYPE_CHECKING:
    from arr_coc.wrapping.wrapper import ArrCoc

WAYS = ("untouched", "once", "twice", "given", "default", "undoubting")
ROOM = 256 * 2**20


class _First:
    """A stopping criterion that notes when the first token is there."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.began, self.tick = clock, clock(), 0.0

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.tick = self.tick or self.clock() - self.began
        return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)


def measure(questions: int = 40, seeds: Sequence[int] = (0, 1, 2), pictures: int = 6, max_new_tokens: int = 4) -> Any:
    """Time the reference model.

    Parameters
    ----------
    questions
        Per seed, each about a picture of its own.
    seeds
        Of the questions.
    pictures
        Pictures that are asked about ten times.
    max_new_tokens
        Length of an answer.
    """
    model, processor = arr_coc.reference.load()
    samples = [s for seed in seeds for s in arr_coc.reference.generate(questions, seed=seed, split="eval")]
    arr = arr_coc.wrap(model, processor, ArrCocConfig(policy="heuristic"))
    planner = arr.planner
    others = {
        "default": make_planner(ArrCocConfig(), model, processor),
        "undoubting": make_planner(ArrCocConfig(policy="heuristic", confidence=False), model, processor),
    }
    timed: dict[str, list[float]] = {way: [] for way in WAYS}
    right: dict[str, list[bool]] = {way: [] for way in WAYS}
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    ways: list[str] = []
    different = 0
    for turn, sample in enumerate([samples[0], *samples]):  # the first one warms up
        inputs = prepare(processor, [sample["image"]], [sample["question"]])
        said: dict[str, str] = {}

        def ask(way: str, inputs: Any = inputs, said: dict[str, str] = said, **extra: Any) -> float:
            seconds, said[way] = _timed(arr, inputs, max_new_tokens, **extra)
            spent[way].append(1.0 if way == "untouched" else arr.last[0].tokens / arr.last[0].full_tokens)
            return seconds

        seconds = {"once": ask("once")}
        record = arr.last[0]
        with _reading_twice(arr):
            seconds["twice"] = ask("twice")
        seconds["given"] = ask("given", allocation=[record.budgets])
        for way, other in others.items():
            arr.planner = other
            seconds[way] = ask(way)
        arr.planner = planner
        arr.detach()
        seconds["untouched"] = ask("untouched")
        arr.attach()
        for way in WAYS:
            timed[way].append(seconds[way])
            right[way].append(said[way].strip() in sample["answers"])
        ways.append(record.way)
        different += turn > 0 and said["once"] != said["twice"]
    found = {
        "questions": len(samples),
        "seeds": list(seeds),
        "answers that differ between once and twice": different,
        "answered by the glance": float(np.mean([way == "glance" for way in ways[1:]])),
        "mean share of tokens": float(np.mean(spent["once"][1:])),
        "first token": {way: _ratio(timed[way][1:], timed["untouched"][1:]) for way in WAYS},
        "once over given": _ratio(timed["once"][1:], timed["given"][1:]),
        "median seconds": {way: float(np.median(timed[way][1:])) for way in WAYS},
        "right": {way: float(np.mean(right[way][1:])) for way in WAYS},
        "tokens": {way: float(np.mean(spent[way][1:])) for way in WAYS},
    }
    found["memory"] = _memory(arr, samples[:: max(1, len(samples) // 12)], max_new_tokens)
    found["ten questions about one picture"] = _ten(arr, samples, pictures, max_new_tokens)
    found["batches of 8"] = _batches(arr, samples, max_new_tokens)
    return found


def _memory(arr: ArrCoc, samples: Sequence[Any], length: int) -> dict[str, float]:
    """The most that is held at once beyond the weights, over the untouched model's."""
    shares = []
    for sample in samples:
        inputs = prepare(arr.processor, [sample["image"]], [sample["question"]])

        def call(inputs: Any = inputs) -> None:
            arr.model.generate(**inputs, do_sample=False, max_new_tokens=length)

        held = peak(call)
        arr.detach()
        shares.append(held / peak(call))
        arr.attach()
    return {"questions": len(shares), "median": float(np.median(shares)), "largest": max(shares)}


def _ten(arr: ArrCoc, samples: Sequence[Any], pictures: int, length: int) -> dict[str, Any]:
    """Ten questions about each of some pictures, with their cache and without."""
    questions = [sample["question"] for sample in samples[:10]]
    kept, single, least = [], [], []
    for sample in samples[:: max(1, len(samples) // pictures)][:pictures]:
        made = [prepare(arr.processor, [sample["image"]], [question]) for question in questions]
        seconds = []
        for room in (0, ROOM):
            arr.builder.pictures.limit = room
            arr.builder.pictures.clear()
            began = time.process_time()
            for inputs in made:
                arr.model.generate(**inputs, do_sample=False, max_new_tokens=length)
            seconds.append(time.process_time() - began)
        arr.builder.pictures.limit = 0
        single.append(seconds[0])
        kept.append(seconds[1])
        arr.detach()
        began = time.process_time()
        for inputs in made:
            arr.model.generate(**inputs, do_sample=False, max_new_tokens=length)
        least.append(time.process_time() - began)
        arr.attach()
    return {
        "over ten single ones": _ratio(kept, single, np.sum),
        "over ten of the untouched model": _ratio(kept, least, np.sum),
        "pictures": len(kept),
    }


def _batches(arr: ArrCoc, samples: Sequence[Any], length: int) -> dict[str, Any]:
    """Seconds per answer in batches of 8: prompt by prompt, padded, and one question at a time."""
    seconds: dict[str, list[float]] = {"each prompt alone": [], "padded": [], "single": []}
    for start in range(0, min(len(samples), 48) - 7, 8):
        batch = samples[start : start + 8]
        inputs = prepare(arr.processor, [s["image"] for s in batch], [s["question"] for s in batch])
        for name in ("each prompt alone", "padded"):
            arr.look_once = name != "padded"
            began = time.process_time()
            arr.model.generate(**inputs, do_sample=False, max_new_tokens=length)
            seconds[name].append((time.process_time() - began) / 8)
        arr.look_once = True
        began = time.process_time()
        for sample in batch:
            arr.model.generate(
                **prepare(arr.processor, [sample["image"]], [sample["question"]]),
                do_sample=False, max_new_tokens=length,
            )  # fmt: skip
        seconds["single"].append((time.process_time() - began) / 8)
    found: dict[str, Any] = {name: float(np.median(values)) for name, values in seconds.items()}
    found["answers per second, over padded"] = found["padded"] / found["each prompt alone"]
    return found


@contextmanager
def _reading_twice(arr: ArrCoc) -> Iterator[None]:
    arr.look_once = False
    try:
        yield
    finally:
        arr.look_once = True


def _timed(arr: ArrCoc, inputs: Any, length: int, **extra: Any) -> tuple[float, str]:
    """Processor seconds to the first token, and the answer."""
    first = _First(time.process_time)
    ids = arr.model.generate(**inputs, do_sample=False, max_new_tokens=length, stopping_criteria=[first], **extra)
    return first.tick, answers(arr.processor, inputs["input_ids"], ids)[0]


def _ratio(
    above: Sequence[float], below: Sequence[float], of: Callable[..., Any] = np.median, resamples: int = 2000
) -> list[float]:
    """Ratio of medians (or sums), with a 95 % interval over questions or pictures (bootstrap, paired)."""
    a, b = np.array(above), np.array(below)
    chosen = np.random.default_rng(0).integers(len(a), size=(resamples, len(a)))
    drawn = of(a[chosen], axis=1) / of(b[chosen], axis=1)
    return [float(of(a) / of(b)), *(float(q) for q in np.quantile(drawn, [0.025, 0.975]))]


def markdown(found: dict[str, Any]) -> str:
    """The figures in words and a table."""
    first, ten, batches = found["first token"], found["ten questions about one picture"], found["batches of 8"]
    memory = found["memory"]
    lines = [
        "# What looking costs in time", "",
        f"Written by `python -m eval looking`: the reference model, {found['questions']} questions (seeds "
        f"{', '.join(map(str, found['seeds']))}), heuristic policy, default configuration, one at a time; processor "
        "seconds of one thread, all ways in turns on each question; medians, their ratios and 95 % intervals.", "",
        f"{found['mean share of tokens']:.0%} of the visual tokens; {found['answered by the glance']:.0%} of the "
        f"questions were answered by the glance; {found['answers that differ between once and twice']} answers differ "
        "between once and twice.", "",
        "| way | median seconds to the first token | share of the untouched model's | right | tokens |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {way} | {found['median seconds'][way]:.4f} | {_shown(first[way])} | {found['right'][way]:.0%} | "
            f"{found['tokens'][way]:.0%} |"
            for way in WAYS
        ), "",
        "`once`, `twice`, `given`: the heuristic; `default`: the default policy, which reads all scores; "
        "`undoubting`: the heuristic without doubt.", "",
        f"Once over given: {_shown(found['once over given'])}.", "",
        f"Ten questions about one picture, with the cache of pictures: {_shown(ten['over ten single ones'])} of the "
        f"time of ten single ones, {_shown(ten['over ten of the untouched model'])} of the untouched model's "
        f"({ten['pictures']} pictures).", "",
        f"The most that is held at once beyond the weights is {memory['median']:.2f} of the untouched model's in the "
        f"median of {memory['questions']} questions, at most {memory['largest']:.2f}.", "",
        f"Batches of 8: {batches['each prompt alone']:.3f} s per answer where each prompt is read alone, "
        f"{batches['padded']:.3f} padded, {batches['single']:.3f} one question at a time: "
        f"{batches['answers per second, over padded']:.2f} times the answers per second of the padded way.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _shown(ratio: Sequence[float]) -> str:
    return f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]"


def write(found: dict[str, Any], folder: Path) -> str:
    """Write ``looking.md`` and ``looking.json``; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "looking.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "looking.md").write_text(markdown(found), encoding="utf-8")
    return markdown(found)
