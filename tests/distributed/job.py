"""One process of a distributed run: `accelerate launch job.py FOLDER [eval|learn RANK LOOKS]`, the rest says who dies.

Evaluates and learns on the reference model; a run that was broken before goes on.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

import arr_coc
from arr_coc.asking.ask import answers, prepare
from arr_coc.commands.terminal import clear_errors
from arr_coc.learning.workers import Workers
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
    build, calls = arr.builder.build, [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return build(*args, **kwargs)

    arr.builder.build = counted


def check_sharded_vlm(workers: Workers) -> None:
    """A VLM sharded by FSDP, layer by layer, is wrapped like any other: same answers, same budgets."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def ask(model: Any, processor: Any) -> list[tuple[str, list[int]]]:
        questions = list(arr_coc.reference.generate(2, seed=5, split="eval", grid=(2, 2)))
        with arr_coc.ArrCoc.from_pretrained(arr_coc.reference.policy_path(), model, processor) as arr:
            return [answer(arr, q) for q in questions]

    def answer(arr: Any, q: dict[str, Any]) -> tuple[str, list[int]]:
        inputs = prepare(arr.processor, [q["image"]], [q["question"]])
        with torch.no_grad():
            sequences = arr.model.generate(**inputs, do_sample=False)
        return answers(arr.processor, inputs["input_ids"], sequences)[0], arr.last[0].budgets

    model, processor = arr_coc.reference.load()
    expected, whole = ask(model, processor), sum(p.numel() for p in model.parameters())
    mesh = init_device_mesh("cpu", (workers.size,))
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):  # the blocks of transformers' towers and language models
            fully_shard(module, mesh=mesh)
    held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in model.parameters())
    assert held < 0.6 * whole, (held, whole)
    assert ask(model, processor) == expected and len({tuple(budgets) for _, budgets in expected}) > 1, expected


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
    if not plan:
        check_sharded_vlm(workers)
    workers.stop()


if __name__ == "__main__":
    clear_errors(main)()  # as every command
