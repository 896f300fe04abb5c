"""The learning loop: ask, answer with the chosen budgets, reward, update; batched, logged and resumable to the bit."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from allocator import PriceTracker
from allocator.locks import FolderLock
from allocator.storage import replace_file

from ..asking.ask import answers, prepare
from ..attending.planners import PolicyPlanner, Recorder
from .agreement import agreement
from .counterfactual import alternatives, chosen, compare
from .gold import gold_answer, gold_probability
from .rewards import AGREEMENT, ASK_AGAIN, make_reward
from .workers import Workers, update_together

if TYPE_CHECKING:
    from ..wrapping.wrapper import ArrCoc

Reward = Callable[[str, Mapping[str, Any]], float]

PRICE_STEP = 0.02
"""Step of the price tracker: reward units per full-detail image and per share of tokens too many, for each batch."""


def learn(
    arr: ArrCoc,
    dataset: Iterable[Mapping[str, Any]],
    reward: str | Reward = "vqa_accuracy",
    episodes: int = 2000,
    *,
    batch_size: int = 8,
    max_new_tokens: int | None = None,
    target: float | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_every: int = 10,
    counterfactuals: float = 0.0,
    progress: bool = True,
    workers: Workers | None = None,
) -> list[dict[str, Any]]:
    """Learn the allocation policy of a wrapped model from the rewards of its own answers.

    One episode is one question: the policy explores an allocation, the model answers with exactly those tokens, and
    the reward of that answer updates the posterior. A batch shares one posterior; its questions explore
    independently.

    Parameters
    ----------
    arr
        The wrapped model; its planner must be a learning policy such as "neural_mixture".
    dataset
        Mappings with ``image`` (PIL), ``question`` and what the reward reads (``answers`` for VQA accuracy), or a
        `Task`. What can be read again (a list, a Hugging Face dataset, a task) is repeated if it is shorter than
        ``episodes``; a generator must be long enough.
    reward
        Name of a reward of ``arr_coc.learning.rewards``, or a function of (answer, sample) to a finite number; or
        "gold_probability", see `arr_coc.learning.gold`, or "agreement" (with full detail's answer; no labels are
        needed), see `arr_coc.learning.agreement`.
    episodes
        Questions to learn from, in all: a resumed run counts those before the break.
    batch_size
        Questions answered together.
    max_new_tokens
        Length of an answer; the model's own by default.
    target
        Mean share of full detail to hold, in (0, 1]: the price then follows the spending (dual ascent). None keeps
        the price.
    out
        Folder for ``log.jsonl`` (one line per episode, with the decision and its propensity where one exists) and the
        checkpoint.
    resume
        Go on from the checkpoint in ``out``; the result is that of an unbroken run on the same data.
    checkpoint_every
        Batches between checkpoints.
    counterfactuals
        Share of the questions, in [0, 1], that are also answered at the floor, at full detail, and with the patch
        raised that each reading puts first, or any patch; rewards and their differences from the chosen allocation's
        go on the log (``counterfactuals``). Nothing is learned from them. See `arr_coc.learning.counterfactual`.
    progress
        Whether to show a progress bar.
    workers
        The processes that learn together, each with a model of its own: in every round each answers a batch of its
        own, under the same posterior, and their statistics are added. The first one writes ``out``.

    Returns
    -------
    list of dict
        The log: ``episode, question, prediction, reward, tokens, full_tokens, budgets, price`` and, if the sample has
        them, ``question_id, image_id, kind, level``.

    Raises
    ------
    TypeError, ValueError
        For a planner that can't learn, a folder in which another process learns, malformed samples, an unknown
        reward, a reward that is not finite (the posterior is left as it was), too short an iterable, or a checkpoint
        of another run.
    """
    planner = arr.planner
    if not isinstance(planner, PolicyPlanner) or planner.policy.feedback != "full":
        raise ValueError(
            f"policy {arr.config.policy!r} learns nothing from rewards; wrap the model with a learning one, "
            "such as 'neural_mixture'"
        )
    for name, value in (("episodes", episodes), ("batch_size", batch_size), ("checkpoint_every", checkpoint_every)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be an int of at least 1")
    if target is not None and not 0 < target <= 1:
        raise ValueError(f"target={target!r} must be a share of full detail in (0, 1], or None to keep the price")
    if not isinstance(counterfactuals, (int, float)) or not 0 <= counterfactuals <= 1:
        raise ValueError(f"counterfactuals={counterfactuals!r} must be a share of the questions, in [0, 1]")
    score = make_reward(reward) if isinstance(reward, str) and reward not in ASK_AGAIN else reward
    tracker = None if target is None else PriceTracker(target=target, eta=PRICE_STEP, price=planner.price)
    workers = workers or Workers()
    if workers.size > 1:  # or all would draw the same
        planner.policy.generator = np.random.default_rng([arr.config.seed, workers.rank])
    store = None if out is None else _Store(Path(out), resume, workers)
    try:
        log = [] if store is None else store.load(planner, tracker)
    except BaseException:
        if store is not None:
            store.close()
        raise
    samples = _samples(dataset, len(log), episodes)
    length = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    recorder, explored = Recorder(planner), planner.explore
    arr.planner, planner.explore = recorder, True
    shown = progress and workers.first
    bar = tqdm(total=episodes, initial=len(log), desc="learning", unit="episode", disable=not shown)
    try:
        for number in itertools.count(1):
            batches = [list(itertools.islice(samples, batch_size)) for _ in range(workers.size)]
            if not batches[0]:
                break
            first = len(log) + sum(map(len, batches[: workers.rank]))
            batch = batches[workers.rank]
            records = _episode(arr, recorder, score, batch, first, planner.price, length)
            if counterfactuals:
                _compare(arr, score, batch, records, counterfactuals, length)
            decisions = [plan.decision for plan in recorder.plans if plan.decision is not None]
            update_together(planner.policy, decisions, [record["reward"] for record in records], workers)
            lines = [{**r, "decision": d.to_dict()} for r, d in zip(records, decisions, strict=True)]
            lines = [line for part in workers.gather(lines) for line in part] if workers.size > 1 else lines
            records = [{k: v for k, v in line.items() if k != "decision"} for line in lines]
            log += records
            if tracker is not None:
                share = sum(r["tokens"] / r["full_tokens"] for r in records) / len(records)
                planner.price = tracker.update(share)
            if store is not None:
                store.append(lines)
                if number % checkpoint_every == 0:
                    store.save(planner, tracker, len(log))
            recorder.plans.clear()
            bar.update(len(records))
            recent = log[-200:]
            bar.set_postfix(
                reward=f"{sum(r['reward'] for r in recent) / len(recent):.3f}",
                tokens=f"{sum(r['tokens'] / r['full_tokens'] for r in recent) / len(recent):.0%}",
            )
        if store is not None:
            store.save(planner, tracker, len(log))
    finally:
        bar.close()
        arr.planner, planner.explore = planner, explored
        if store is not None:
            store.close()
    return log


def _episode(
    arr: ArrCoc,
    recorder: Recorder,
    score: Reward | str,
    batch: list[Mapping[str, Any]],
    first: int,
    price: float,
    length: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Answer one batch with explored allocations and reward the answers; a name is a reward that asks again."""
    if not batch:  # the last round may not have one for every process
        return []
    inputs = prepare(arr.processor, [s["image"] for s in batch], [s["question"] for s in batch]).to(arr.model.device)
    with torch.no_grad():
        sequences = arr.model.generate(**inputs, do_sample=False, **length)
    allocations = arr.last
    predictions = answers(arr.processor, inputs["input_ids"], sequences)
    budgets = [allocation.budgets for allocation in allocations]
    values = _values(arr, score, batch, inputs, predictions, budgets, length)
    records = []
    for i, (sample, prediction, allocation, value) in enumerate(
        zip(batch, predictions, allocations, values, strict=True)
    ):
        if not math.isfinite(value):
            raise ValueError(
                f"the reward of episode {first + i} (question {sample['question']!r}, answer {prediction!r}) is "
                f"{value}; rewards must be finite numbers: mend the reward function"
            )
        records.append(
            {
                "episode": first + i,
                **{k: sample[k] for k in ("question_id", "image_id", "kind", "level") if k in sample},
                "question": sample["question"],
                "prediction": prediction,
                "reward": value,
                "tokens": allocation.tokens,
                "full_tokens": allocation.full_tokens,
                "budgets": allocation.budgets,
                "price": price,
            }
        )
    return records


def _values(
    arr: ArrCoc,
    score: Reward | str,
    batch: Sequence[Mapping[str, Any]],
    inputs: Any,
    predictions: Sequence[str],
    budgets: list[list[int]],
    length: Mapping[str, int],
) -> list[float]:
    if score == AGREEMENT:
        return agreement(arr, inputs, predictions, budgets, **length)
    if isinstance(score, str):
        return gold_probability(arr, inputs, [gold_answer(sample) for sample in batch], budgets)
    return [float(score(p, sample)) for p, sample in zip(predictions, batch, strict=True)]


def _compare(
    arr: ArrCoc,
    score: Reward | str,
    batch: Sequence[Mapping[str, Any]],
    records: list[dict[str, Any]],
    share: float,
    length: Mapping[str, int],
) -> None:
    """Put counterfactual sets into the records of a share of the questions."""
    seed, budgets = arr.config.seed, arr.config.budgets
    for sample, record, allocation in zip(batch, records, list(arr.last), strict=True):
        if not chosen(share, seed, record["episode"]):
            continue
        others = alternatives(allocation.scores, len(allocation.budgets), budgets, seed, record["episode"])

        def value(inputs: Any, texts: list[str], given: list[list[int]], sample: Any = sample) -> list[float]:
            return _values(arr, score, [sample] * len(texts), inputs, texts, given, length)

        record["counterfactuals"] = compare(arr, sample, others, value, record["reward"], **length)


def _samples(dataset: Iterable[Mapping[str, Any]], skip: int, episodes: int) -> Iterator[Mapping[str, Any]]:
    """Samples ``skip`` to ``episodes``; what can be read again is repeated, what can't must be long enough."""
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        items: Any = dataset
        if not len(items):
            raise ValueError("the dataset is empty; learning needs at least one question")
        source: Iterator[Mapping[str, Any]] = (items[i % len(items)] for i in range(skip, episodes))
    else:
        source = itertools.islice(_again_and_again(dataset), skip, episodes)
    count = skip
    for sample in source:
        for key in ("image", "question"):
            if key not in sample:
                raise ValueError(
                    f"sample {count} has no {key!r}, only {sorted(sample)}; map your columns to image and question"
                )
        yield sample
        count += 1
    if count < episodes:
        raise ValueError(
            f"the dataset ended after {count} of {episodes} episodes; ask for at most {count}, or give a sequence, "
            "which is repeated"
        )


def _again_and_again(dataset: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    while True:
        samples, count = iter(dataset), 0
        for sample in samples:
            yield sample
            count += 1
        if samples is dataset:  # a generator
            return
        if not count:
            raise ValueError("the dataset is empty; learning needs at least one question")


class _Store:
    """The run folder. ``state.json`` is the commit point: it names the policy file and how much log it covers."""

    def __init__(self, folder: Path, resume: bool, workers: Workers):
        self.folder, self.log, self.state = folder, folder / "log.jsonl", folder / "state.json"
        self.workers = workers
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = FolderLock(folder) if workers.first else None
        if self.state.exists() and not resume:
            self.close()
            raise ValueError(f"{folder} holds a run already; resume it, or choose another folder")
        if not self.state.exists() and workers.first:
            self.log.unlink(missing_ok=True)  # episodes before the first checkpoint are simply run again
        workers.wait()

    def load(self, planner: PolicyPlanner, tracker: PriceTracker | None) -> list[dict[str, Any]]:
        """Restore policy and price; returns the log up to the checkpoint and cuts off what came after it."""
        if not self.state.exists():
            return []
        try:
            state = json.loads(self.state.read_text())
            lines = self.log.read_text().splitlines()[: state["episodes"]]
            records = [json.loads(line) for line in lines]
            policy = type(planner.policy).load(self.folder / Path(state["policy"]).name)
            tracked, price = state["tracker"], float(state["price"])
            if not all(isinstance(record, dict) for record in records) or not 0 <= price < math.inf:
                raise ValueError("its log holds other lines, or its price is none")
        except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{self.folder} holds no readable checkpoint ({error}); choose another folder") from error
        if len(records) < state["episodes"] or (tracker is None) != (tracked is None):
            raise ValueError(f"{self.state} does not fit its log or this run's target; choose another folder")
        generators = state.get("generators") or [policy.generator.bit_generator.state]
        if len(generators) != self.workers.size:
            raise ValueError(
                f"{self.folder} was learned by {len(generators)} processes, not {self.workers.size}; "
                "go on with as many, or choose another folder"
            )
        try:
            policy.generator.bit_generator.state = generators[self.workers.rank]
            if tracker is not None:
                tracker.load_state_dict(tracked)
            planner.policy.load_state_dict(policy.state_dict())
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"{self.state} does not fit this run ({error}); choose another folder") from error
        planner.price = price
        if self.workers.first:
            replace_file(self.log, "".join(line + "\n" for line in lines))
        self.workers.wait()
        for record in records:
            record.pop("decision", None)
        return records

    def close(self) -> None:
        if self.lock is not None:
            self.lock.close()

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        if not self.workers.first:
            return
        with self.log.open("a") as file:
            for line in lines:
                file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def save(self, planner: PolicyPlanner, tracker: PriceTracker | None, episodes: int) -> None:
        generators = self.workers.gather(planner.policy.generator.bit_generator.state)
        if not self.workers.first:
            return
        name = f"policy-{episodes:06d}.safetensors"
        planner.policy.save(self.folder / name)
        state = {
            "episodes": episodes,
            "policy": name,
            "price": planner.price,
            "generators": generators,
            "tracker": None if tracker is None else tracker.state_dict(),
        }
        replace_file(self.state, json.dumps(state, indent=1))
        for old in self.folder.glob("policy-*.safetensors"):
            if old.name != name:
                old.unlink()
