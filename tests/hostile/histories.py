"""Histories of a served policy whose rewards or records somebody has spoilt, in a world whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allocator.logged.explore import Exploration, Explorer
from allocator.logged.log import DecisionLog, segments
from tests.retraining.world import COSTS, PRICE, mean, question

MODEL = "world@1"
Reward = Callable[[np.ndarray, np.ndarray, np.random.Generator], float]


@dataclass
class Served:
    """What a policy decided: records for the log, questions and choices."""

    version: str
    records: list[dict[str, Any]]
    asked: list[tuple[np.ndarray, np.ndarray]]


def serve(policy: Any, rounds: int, version: str, seed: int) -> Served:
    """Decisions of a policy that explores half of the questions; rewards come later."""
    rng = np.random.default_rng(seed)
    explorer = Explorer(policy, Exploration(share=0.5, tau=0.05, alpha=1.0, width=0.0), seed=seed)
    served = Served(version, [], [])
    for _ in range(rounds):
        x = question(rng)
        taken = explorer.take(x, np.zeros(0), COSTS, None, PRICE)
        record = {"version": version, "model": MODEL, "answer": "", **taken.to_dict()}
        served.records.append(record)
        served.asked.append((x, taken.decision.index))
    return served


def honest(x: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> float:
    return float(rng.random() < mean(x, index))


def inverse(x: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> float:
    return 1.0 - honest(x, index, rng)


def cheap(x: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> float:
    return float(index.sum() <= 2)


def dear(x: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> float:
    return float(index.sum() >= 5)


def nothing(x: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> float:
    return 0.0


@dataclass(frozen=True)
class Poison:
    """How a history is spoilt.

    Attributes
    ----------
    lie
        The reward in the place of the honest one.
    share
        Of the rounds, by one client; 0 for none.
    last
        So many rounds at the end, whoever asked.
    model
        What the log calls the model that answered the spoilt rounds.
    version
        Under which version they stand.
    records
        Whether lines are damaged too.
    clock
        Whether times are wrong.
    """

    lie: Reward = honest
    share: float = 0.0
    last: int = 0
    model: str = MODEL
    version: str | None = None
    records: bool = False
    clock: bool = False


POISONS = {
    "none": Poison(),
    "30 zeros": Poison(nothing, last=30),
    "400 zeros": Poison(nothing, last=400),
    "a client of zeros": Poison(nothing, share=0.4),
    "a flood for cheap": Poison(cheap, share=0.6),
    "a flood for dear": Poison(dear, share=0.6),
    "an inverse client": Poison(inverse, share=0.5),
    "another model": Poison(inverse, share=0.5, model="other@2"),
    "an old version that lies": Poison(inverse, share=0.5, version="0000"),
    "damaged records": Poison(records=True),
    "a wrong clock": Poison(nothing, last=100, clock=True),
}


def write(folder: Path, served: Served, poison: Poison, seed: int) -> None:
    """The log of what was served, rewarded by 30 clients, one of whom may be somebody else."""
    rng, ids = np.random.default_rng([seed, 7]), np.random.default_rng([seed, 8])
    log = DecisionLog(folder, token=lambda size: ids.bytes(size).hex())
    waiting = []
    total = len(served.records)
    for t, (record, (x, index)) in enumerate(zip(served.records, served.asked, strict=True)):
        spoilt = rng.random() < poison.share or t >= total - poison.last
        lie = poison.lie if spoilt else honest
        client = "intruder" if spoilt and poison.share else f"client {rng.integers(30)}"
        changed = {"model": poison.model, "version": poison.version or served.version} if spoilt else {}
        changed |= {"time": float(rng.normal(1.7e9, 1e9))} if poison.clock else {"time": 1.7e9 + t}
        waiting.append((log.append({**record, **changed}), lie(x, index, rng), client))
    given = [log.reward(name.result(), value, client) for name, value, client in waiting]
    for reward in given:
        reward.result()
    log.close()
    if poison.records:
        damage(folder, rng)


def damage(folder: Path, rng: np.random.Generator) -> None:
    """Spoil every tenth line of a log in a way of its own."""
    for path in [*segments(folder), *folder.glob("*.rewards")]:
        lines = path.read_bytes().splitlines(keepends=True)
        for k in range(0, len(lines), 10):
            lines[k] = mutate_line(lines[k], rng)
        path.write_bytes(b"".join(lines))


def mutate_line(line: bytes, rng: np.random.Generator) -> bytes:
    """A line with bytes or values changed; what is sound JSON afterwards makes less sense than before."""
    broken = bytearray(line)
    match int(rng.integers(4)):
        case 0:
            broken[int(rng.integers(len(broken)))] = int(rng.integers(256))
        case 1:
            del broken[int(rng.integers(len(broken))) :]
            broken += b"\n"
        case 2:
            return rng.bytes(int(rng.integers(1, 300))) + b"\n"
        case _:
            try:
                record = json.loads(line)
                paths = [(record, key) for key in record] + [
                    (record["decision"], key)
                    for key in record.get("decision", {})
                    if isinstance(record["decision"], dict)
                ]
                where, key = paths[int(rng.integers(len(paths)))]
                where[key] = [None, -1, 1e308, [], {}, "x", [[1e9]], True][int(rng.integers(8))]
                return json.dumps(record).encode() + b"\n"
            except (ValueError, TypeError):
                pass
    return bytes(broken)
