"""One evaluation from its configuration to its run folder."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from arr_coc.learning.rewards import make_reward
from arr_coc.learning.tasks import Sample, Task
from arr_coc.learning.workers import Workers
from arr_coc.wrapping.question import check_question

from .config import EvalConfig
from .methods import Method, NotApplicable, curve_members, make_methods
from .methods.fixed import Uniform
from .methods.learner import Learner, learn_side_by_side
from .model.bench import Answer, Bench
from .model.clock import Memory
from .records import Record, RunFolder, read_journal
from .reporting.summary import summarise

if TYPE_CHECKING:
    from arr_coc.wrapping.wrapper import ArrCoc


def run(
    config: EvalConfig, arr: ArrCoc | None = None, progress: bool = True, workers: Workers | None = None
) -> dict[str, Any]:
    """Run an evaluation, or continue it, and write its folder.

    Every method answers the same questions in the same batches, side by side, so that what slows the machine slows
    all of them. Methods that match the tokens of others answer in a second pass.

    Parameters
    ----------
    config
        See `EvalConfig`.
    arr
        A wrapped model to evaluate, its planner being "learned"; made from the configuration by default.
    progress
        Whether to show a bar.
    workers
        The processes that share the run, each with a model of its own: batches go around among them, so every batch is
        the one that a single process would answer. The first one puts their records together and writes the folder.

    Returns
    -------
    dict
        The metrics, as in ``metrics.json``.

    Raises
    ------
    ValueError
        For a folder with a finished or another run, methods with equal labels or that match an unknown one, or
        unreadable data.
    """
    from .reporting import page as report

    methods = make_methods(config.methods, config.baselines)
    task, reward = Task(config.task), make_reward(config.task.reward)
    workers, own = workers or Workers(), arr is None
    folder = RunFolder(config.out, config.to_dict()) if workers.first else None
    workers.wait()  # a folder that can't be used ends all of them here
    shard = folder if folder is not None else RunFolder(_shard(config, workers), config.to_dict())
    if workers.size > 1 and workers.first:
        shard = RunFolder(_shard(config, workers), config.to_dict())
    shard.note("running", seed=config.seed)
    began = time.perf_counter()
    try:
        arr = load(config) if arr is None else arr
        task.check = partial(check_question, arr.processor)
        learned = config.policy is not None or not own
        bench = Bench(
            arr, reward, config.max_new_tokens, config.seed, learned, folder=shard.path, shared=config.shared
        )
        skipped, order = _answer_all(bench, methods, task, shard, config, progress and workers.first, workers)
        if workers.first and config.timed:
            _time_all(bench, [m for m in methods if m.label not in skipped], task, shard, order, config, progress)
        if folder is None:
            workers.wait()
            return {}
        if workers.size > 1:
            folder.note("running", seed=config.seed, workers=workers.size)
            folder.records = _merged(config, workers, methods, order, skipped)
            if (shard.path / "learning").is_dir():  # every process learned the same
                shutil.copytree(shard.path / "learning", folder.path / "learning", dirs_exist_ok=True)
        folder.records = _with_times(folder.records)
        uniform = [method.label for method in methods if isinstance(method, Uniform)]
        metrics = summarise(folder.records, config, [m.label for m in methods], uniform, curve_members(methods)) | {
            "uniform": uniform,
            "budgets": list(bench.budgets),
            "skipped": skipped,
            "about": {method.label: method.about for method in methods},
            "data": {"task": task.name, "rows read": task.read, "unreadable": task.unreadable},
        }
        report.write(folder.path, metrics, folder.records, config.to_dict(), task)
        folder.finish(metrics)
        if workers.size > 1:
            shutil.rmtree(Path(config.out) / "workers")
            workers.wait()
    except BaseException as error:
        (folder or shard).note("failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        if own and arr is not None:
            arr.detach()
        for held in filter(None, (folder, shard)):
            held.close()
    folder.note("finished", seconds=time.perf_counter() - began)
    return metrics


def load(config: EvalConfig) -> ArrCoc:
    """The model of a configuration, wrapped: with its learned policy if it names one."""
    from arr_coc import ArrCoc, ArrCocConfig, wrap
    from arr_coc.asking.models import load_vlm

    model, processor = load_vlm(**config.model)
    if config.policy is not None:
        arr = ArrCoc.from_pretrained(config.policy, model, processor, allow=config.allow)
    else:
        arr = wrap(model, processor, ArrCocConfig.from_dict(config.wrap))
    arr.synchronize = True
    return arr


def passes(methods: Sequence[Method]) -> Iterator[list[Method]]:
    """Methods in passes: each one after the method that it matches."""
    done: set[str] = set()
    waiting = list(methods)
    while waiting:
        ready = [method for method in waiting if method.match is None or method.match in done]
        if not ready:
            raise ValueError(f"methods match one another in a circle: {[method.label for method in waiting]}")
        yield ready
        done |= {method.label for method in ready}
        waiting = [method for method in waiting if method not in ready]


def _shard(config: EvalConfig, workers: Workers, rank: int | None = None) -> Path:
    """The folder of one process's part of a run."""
    return Path(config.out) / "workers" / f"{workers.rank if rank is None else rank}-of-{workers.size}"


def _merged(
    config: EvalConfig,
    workers: Workers,
    methods: Sequence[Method],
    order: Mapping[str, int],
    skipped: Mapping[str, str],
) -> list[Record]:
    """All parts in the order in which one process would have written them."""
    records = [
        record
        for rank in range(workers.size)
        for record in read_journal(_shard(config, workers, rank) / "journal.jsonl")
        if record["method"] not in skipped
    ]
    records = _with_times(records)
    turn = {method.label: number for number, ready in enumerate(passes(methods)) for method in ready}
    places = {method.label: place for place, method in enumerate(methods)}

    def key(record: Record) -> tuple[int, int, int, int]:
        label, question = record["method"], order[record["question_id"]]
        return turn[label], question // config.batch_size, places[label], question

    return sorted(records, key=key)


def _answer_all(
    bench: Bench,
    methods: Sequence[Method],
    task: Task,
    folder: RunFolder,
    config: EvalConfig,
    progress: bool,
    workers: Workers,
) -> tuple[dict[str, str], dict[str, int]]:
    """Let every method answer this process's part of the questions, but for those that the journal holds.

    Returns the methods that could not, with the reason, and the place of every question in the task.
    """
    skipped: dict[str, str] = {}
    order: dict[str, int] = {}
    done = {(record["method"], record["question_id"]) for record in folder.records if "timed" not in record}
    total = None
    if config.task.limit is not None:
        total = sum(min(config.task.limit, method.questions or config.task.limit) for method in methods)
    with tqdm(total=total, initial=len(done), unit="answer", desc="evaluating", disable=not progress) as bar:
        for ready in passes(methods):
            if bench.shared:
                learners = [method for method in ready if isinstance(method, Learner)]
                learn_side_by_side(bench, learners, progress and workers.first)
            for method in ready:
                _prepare(method, bench, folder, skipped, workers)
            for number, batch in enumerate(_batches(task, config.batch_size)):
                for sample in batch:
                    order.setdefault(sample["question_id"], len(order))
                if number % workers.size != workers.rank:
                    continue
                records: list[Record] = []
                for method in ready:
                    todo = [
                        sample
                        for sample in batch
                        if (method.label, sample["question_id"]) not in done
                        and (method.questions is None or order[sample["question_id"]] < method.questions)
                    ]
                    if not todo or method.label in skipped:
                        continue
                    bar.set_postfix_str(method.label)
                    try:
                        answers = method.answer(bench, todo)
                    except NotApplicable as reason:
                        skipped[method.label] = str(reason)
                        continue
                    records += [_record(method, s, a, bench) for s, a in zip(todo, answers, strict=True)]
                    bar.update(len(todo))
                bench.forget()
                if records:
                    folder.append(records)
            for part in workers.gather(skipped):
                skipped.update(part)
    return skipped, order


def _time_all(
    bench: Bench,
    methods: Sequence[Method],
    task: Task,
    folder: RunFolder,
    order: Mapping[str, int],
    config: EvalConfig,
    progress: bool,
) -> None:
    """Time some questions, spread over the task: one at a time, by every method in turn, with nothing shared.

    The order of the methods turns from question to question, so that none always finds what another left in a cache.
    """
    done = {(record["method"], record["question_id"]) for record in folder.records if "timed" in record}
    reach = min([len(order), *(method.questions for method in methods if method.questions is not None)])
    count = min(config.timed, reach)
    chosen = {number * reach // count for number in range(count)}
    shared, bench.shared = bench.shared, False
    samples = (sample for sample in task if order.get(sample["question_id"], -1) in chosen)
    try:
        with tqdm(total=count * len(methods), unit="answer", desc="timing", disable=not progress) as bar:
            for number, sample in enumerate(samples):
                records = []
                for method in [*methods[number % len(methods) :], *methods[: number % len(methods)]]:
                    bar.update()
                    if (method.label, sample["question_id"]) in done:
                        continue
                    if number == 0 and not done:
                        method.answer(bench, [sample])  # what is slow only once is no property of the method
                    with Memory(bench.arr.model.device) as memory:
                        (answer,) = method.answer(bench, [sample])
                    times = {"seconds": answer.seconds, "first": answer.first, "timings": answer.timings}
                    records.append(
                        {"method": method.label, "question_id": sample["question_id"],
                         "timed": {**times, "memory": memory.peak, "memory of": memory.kind}}
                    )  # fmt: skip
                folder.append(records)
    finally:
        bench.shared = shared


def _with_times(records: Sequence[Record]) -> list[Record]:
    """The records of answers, with what was timed of them."""
    timed = {(r["method"], r["question_id"]): r["timed"] for r in records if "timed" in r and "answer" not in r}
    whole = []
    for record in records:
        key = record["method"], record["question_id"]
        if "answer" in record:
            whole.append({**record, "timed": timed[key]} if key in timed else record)
    return whole


def _prepare(method: Method, bench: Bench, folder: RunFolder, skipped: dict[str, str], workers: Workers) -> None:
    if method.match in skipped:
        skipped[method.label] = f"it matches {method.match}, which could not run"
        return
    if method.match is not None:
        theirs = [r for r in folder.records if r["method"] == method.match and "timed" not in r]
        own = [sum(r[name] for r in theirs) for name in ("tokens", "full_tokens")]
        spent, full = (sum(part) for part in zip(*workers.gather(own), strict=True))
        bench.shares[method.match] = spent / full
    try:
        method.prepare(bench)
    except NotApplicable as reason:
        skipped[method.label] = str(reason)


def _batches(task: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    samples = iter(task)
    while batch := list(itertools.islice(samples, size)):
        yield batch


def _record(method: Method, sample: Sample, answer: Answer, bench: Bench) -> Record:
    known = ("question_id", "image_id", "kind", "level", "evidence", "question")
    return {
        "method": method.label,
        **{key: sample[key] for key in known if key in sample},
        "answers": sorted(set(sample["answers"])),
        "answer": answer.text,
        "score": bench.reward(answer.text, sample),
        "tokens": answer.tokens,
        "full_tokens": answer.full_tokens,
        "budgets": answer.budgets,
        "realised": answer.realised,
        "boxes": answer.boxes,
        "seconds": round(answer.seconds, 6),
        "first": round(answer.first, 6),
        "timings": {stage: round(value, 6) for stage, value in answer.timings.items()},
    }
