"""Command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allocator.registry import make_policy
from allocator.simulation.environments import Trace, simulate
from allocator.simulation.streams import Classification
from allocator.storage import replace_file

from . import modifiers, off_policy, speed
from .peers import PEERS
from .report import machine, markdown, plot
from .tasks import SLOW, TASKS, noise_floor

POINTS = 60  # of a stored regret curve
MODIFIERS = "modifiers"  # a task of another kind: each modifier by what it is for


def _play_peer(build: Any, world: Classification, rounds: int, seed: int) -> Trace:
    peer = build(world.arms, world.dim, seed)
    rewards = np.zeros(rounds)
    for t in range(rounds):
        question = world.draw()
        arm = peer.choose(question.contexts[0])
        rewards[t] = world.reward(question, np.array([arm]))
        peer.learn(question.contexts[0], arm, rewards[t])
    return Trace(regret=1.0 - rewards, reward=rewards, cost=np.zeros(rounds, dtype=np.int64))


def _run(arguments: argparse.Namespace, record: dict[str, Any], out: Path) -> None:
    for name in arguments.tasks:
        if name == MODIFIERS:
            if MODIFIERS not in record and not arguments.methods:
                record[MODIFIERS] = modifiers.compare(arguments.seeds, min(300, arguments.rounds or 300))
            continue
        task = TASKS[name]
        rounds = min(task.rounds, arguments.rounds or task.rounds)
        methods: list[tuple[str, Any, Any]] = list(task.methods)
        if arguments.peers and task.labelled:
            methods += [(label, build, None) for label, build in PEERS.items()]
        at = np.unique(np.linspace(0, rounds - 1, min(POINTS, rounds)).astype(int))
        done = record["tasks"].get(name, {})
        for label, method, options in methods:
            if arguments.methods and label not in arguments.methods:
                continue
            fields = ("regret", "reward", "cpu_seconds", "curves")
            empty: dict[str, Any] = {"rounds": rounds, "at": at.tolist(), **{field: [] for field in fields}}
            found = done.get(label, empty)
            if found["rounds"] != rounds:
                raise ValueError(
                    f"the record holds {found['rounds']} rounds of {label!r} on {name}, not {rounds}; resume with the "
                    "same --rounds, or choose a new folder"
                )
            seeds = arguments.seeds if arguments.all_seeds else min(arguments.seeds, SLOW.get((name, label), 10**9))
            for seed in range(len(found["regret"]), seeds):
                world, began = task.build(seed), time.process_time()
                if options is None and isinstance(world, Classification):
                    trace = _play_peer(method, world, rounds, seed)
                else:
                    shape = {"dim": world.dim, "arms": world.arms, "seed": 1000 + seed}
                    make = partial(make_policy, method) if isinstance(method, str) else method
                    trace = simulate(make(**shape, **options), world, rounds)
                found["cpu_seconds"].append(time.process_time() - began)
                found["regret"].append(float(trace.regret.sum()))
                found["reward"].append(float(trace.reward.sum()))
                found["curves"].append(np.cumsum(trace.regret)[at].round(4).tolist())
                regret, spent = found["regret"][-1], found["cpu_seconds"][-1]
                line = f"{name:15s} {label:30s} seed {seed + 1}/{seeds} regret {regret:9.2f} {spent:6.1f} s"
                print(line, file=sys.stderr, flush=True)
                done[label] = found
                record["tasks"][name] = done
                replace_file(out / "results.json", json.dumps(record))
        if name.startswith("cn-") and done and name not in record["noise_floor"]:
            record["noise_floor"][name] = [noise_floor(name, seed, rounds) for seed in range(arguments.seeds)]


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the folder it wrote."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.bandits",
        description="Regret of every method on streams with known optimum, and speed beside the bare GEMM and milp. "
        "Writes results.json, results.md and a picture of the regret per kind of task. With peers, one seed of all "
        "tasks takes about a minute and a half of one core.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; must not exist yet")
    parser.add_argument(
        "--tasks",
        nargs="*",
        default=[*TASKS, MODIFIERS],
        choices=[*TASKS, MODIFIERS],
        metavar="TASK",
        help=f"which of {', '.join(TASKS)}, {MODIFIERS} (default all; none: only the timings)",
    )
    parser.add_argument("--methods", nargs="*", metavar="LABEL", help="play only the methods with these labels")
    parser.add_argument("--resume", action="store_true", help="add to a record what it still lacks, seeds too")
    parser.add_argument("--seeds", type=int, default=10, help="independent repetitions (default 10)")
    parser.add_argument("--all-seeds", action="store_true", help="spare the slow methods on long streams no seed")
    parser.add_argument("--rounds", type=int, help="play fewer rounds than the task defines")
    parser.add_argument("--peers", action="store_true", help="beside the peer libraries, which must be installed")
    parser.add_argument("--no-speed", action="store_true", help="skip the timings")
    arguments = parser.parse_args(argv)
    if arguments.out.exists() and not arguments.resume:
        parser.error(
            f"{arguments.out} exists; a benchmark never overwrites a record: choose a new folder, or --resume"
        )
    if arguments.seeds < 1:
        parser.error("--seeds must be at least 1")
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = "python -m eval.bandits " + shlex.join(sys.argv[1:] if argv is None else argv)
    record: dict[str, Any] = {"commands": [], "machine": machine(), "tasks": {}, "noise_floor": {}}
    if (arguments.out / "results.json").exists():
        record = json.loads((arguments.out / "results.json").read_text(encoding="utf-8"))
    record["commands"].append(command)
    _run(arguments, record, arguments.out)
    if not arguments.no_speed:
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        record["speed"] = {
            "Scoring 10,000 contexts x 4 arms": [row for device in devices for row in speed.scoring(device=device)],
            "The oracle": speed.oracle(),
            "Decisions of the default method": speed.decisions(),
        }
        if arguments.peers:
            record["speed"]["Off-policy values beside obp"] = off_policy.compare()
    replace_file(arguments.out / "results.json", json.dumps(record) + "\n")
    replace_file(arguments.out / "results.md", markdown(record))
    plot(record, arguments.out)
    return arguments.out


if __name__ == "__main__":
    main()
