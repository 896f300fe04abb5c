"""One process of a distributed run: `accelerate launch job.py FOLDER [eval|learn RANK LOOKS]`, the rest says who dies.

Evaluates and learns on the reference model; a run that was broken before goes on.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import arr_coc
from arr_coc.distributed import Workers
from arr_coc.terminal import clear_errors
from eval.config import EvalConfig, TaskConfig
from eval.run import run

EPISODES, BATCH = 14, 2  # the last round has a batch for one process only


def eval_config(folder: Path) -> EvalConfig:
    return EvalConfig(
        out=str(folder), task=TaskConfig(limit=10), batch_size=2, resamples=100, overlays=0,
        methods=["uniform-64", {"method": "random", "match": "uniform-64"}, "full"], baselines=["uniform-64"],
    )  # fmt: skip


def learn(folder: Path, arr: Any, workers: Workers | None, episodes: int = EPISODES) -> list[dict[str, Any]]:
    questions = list(arr_coc.reference.generate(episodes, seed=1, split="learn", grid=(2, 2)))
    return arr_coc.learn(
        arr, questions, episodes=episodes, batch_size=BATCH, out=folder, resume=True, checkpoint_every=1,
        progress=False, workers=workers,
    )  # fmt: skip


def wrapped(model: Any = None, processor: Any = None) -> Any:
    if model is None:
        model, processor = arr_coc.reference.load()
    return arr_coc.wrap(model, processor, arr_coc.ArrCocConfig(policy="thompson", seed=4, confidence=False))


def die(arr: Any, after: int) -> None:
    """kill -9 of this process in the middle of a batch, after it has looked at so many questions."""
    look, calls = arr.looker.look, [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return look(*args, **kwargs)

    arr.looker.look = counted


def main() -> None:
    folder, plan = Path(sys.argv[1]), sys.argv[2:]
    workers = Workers.start()
    assert workers.gather({"rank": workers.rank, "long": "x" * 10 ** (1 + workers.rank)}) == [
        {"rank": 0, "long": "x" * 10}, {"rank": 1, "long": "x" * 100},
    ]  # fmt: skip
    arr = wrapped()
    for stage in ("eval", "learn"):
        if plan and plan[0] == stage and int(plan[1]) == workers.rank:
            die(arr, int(plan[2]))
        if stage == "learn":
            learn(folder / "learn", arr, workers)
        elif not (folder / "eval" / "metrics.json").exists():
            run(eval_config(folder / "eval"), arr, progress=False, workers=workers)
    workers.stop()


if __name__ == "__main__":
    clear_errors(main)()  # as every command
