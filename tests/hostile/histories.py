"""Histories of a served policy whose rewards or records somebody has spoilt, in a world whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from allocator.logged.explore import Exploration, Explorer, Taken
from allocator.logged.log import DecisionLog, segments
from allocator.logged.rounds import Joined, Round
from tests.retraining.world import COSTS, PRICE, mean, question

MODEL = "world@1"
PATCHES = 2  # 16 allocations, so that a log of ten thousand rounds can speak about each
Reward = Callable[[np.ndarray, np.ndarray, np.random.Generator], float]


@dataclass
class Served:
    """What a policy decided: questions and decisions."""

    version: str
    asked: list[tuple[np.ndarray, Taken]]


def serve(policy: Any, rounds: int, version: str, seed: int) -> Served:
    """Decisions of a policy that explores half of the questions, evenly; rewards come later."""
    rng = np.random.default_rng(seed)
    exploration = Exploration(share=0.5, tau=0.05, uniform=1.0, alpha=1.0, width=0.0)
    explorer = Explorer(policy, exploration, seed=seed)
    served = Served(version, [])
    for _ in range(rounds):
        x = question(rng, PATCHES)
        taken = explorer.take(x, np.zeros(0), COSTS[:PATCHES], None, PRICE)
        served.asked.append((x, taken))
    return served


def honest(x: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> float:
    return float(rng.random() < mean(x, index))


def inverse(x: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> float:
    return 1.0 - honest(x, index, rng)


def cheap(x: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> float:
    return float(index.sum() <= 1)


def dear(x: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> float:
    return float(index.sum() >= 4)


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
    picks
        Whether the client rewards explored answers only: it sees the budgets, and these weigh most.
    """

    lie: Reward = honest
    share: float = 0.0
    last: int = 0
    model: str = MODEL
    version: str | None = None
    records: bool = False
    clock: bool = False
    picks: bool = False


POISONS = {
    "none": Poison(),
    "30 zeros": Poison(nothing, last=30),
    "400 zeros": Poison(nothing, last=400),
    "a client of zeros": Poison(nothing, share=0.4),
    "a flood for cheap": Poison(cheap, share=0.6),
    "a flood for dear": Poison(dear, share=0.6),
    "a client that picks": Poison(dear, share=0.5, picks=True),
    "an inverse client": Poison(inverse, share=0.5),
    "another model": Poison(inverse, share=0.5, model="other@2"),
    "an old version that lies": Poison(inverse, share=0.5, version="0000"),
    "damaged records": Poison(records=True),
    "a wrong clock": Poison(nothing, last=100, clock=True),
}


def happened(served: Served, poison: Poison, seed: int) -> Iterator[tuple[Taken, dict[str, Any], float | None, str]]:
    """What was served, what the log says of it beside the decision, its reward or None, and its client.

    There are 30 clients, one of whom may be somebody else.
    """
    rng, total = np.random.default_rng([seed, 7]), len(served.asked)
    for t, (x, taken) in enumerate(served.asked):
        spoilt = rng.random() < poison.share or t >= total - poison.last
        lie = poison.lie if spoilt else honest
        client = "intruder" if spoilt and poison.share else f"client {rng.integers(30)}"
        says: dict[str, Any] = {"version": served.version, "model": MODEL}
        says |= {"model": poison.model, "version": poison.version or served.version} if spoilt else {}
        says |= {"time": float(rng.normal(1.7e9, 1e9))} if poison.clock else {"time": 1.7e9 + t}
        silent = spoilt and poison.picks and not taken.explored
        yield taken, says, None if silent else lie(x, taken.decision.index, rng), client


def write(folder: Path, served: Served, poison: Poison, seed: int) -> None:
    """The log of what happened."""
    ids = np.random.default_rng([seed, 8])
    log = DecisionLog(folder, token=lambda size: ids.bytes(size).hex())
    events = happened(served, poison, seed)
    while some := list(islice(events, 1000)):  # no more than the log lets wait for the disk
        waiting = [
            (log.append({"answer": "", **taken.to_dict(), **says}), value, client)
            for taken, says, value, client in some
        ]
        given = [log.reward(name.result(), value, client) for name, value, client in waiting if value is not None]
        for reward in given:
            reward.result()
    log.close()
    if poison.records:
        damage(folder, np.random.default_rng([seed, 9]))


def joined(served: Served, poison: Poison, seed: int) -> Joined:
    """As the log of what happened is read, without the disk."""
    ids = np.random.default_rng([seed, 8])
    found = Joined(decisions=len(served.asked))
    for taken, says, value, client in happened(served, poison, seed):
        if value is not None:
            decided = {item.name: getattr(taken, item.name) for item in fields(Taken)}
            name = f"x-{ids.bytes(8).hex()}"
            found.rounds.append(Round(**decided, **says, id=name, reward=value, client=client))
    found.rounds.sort(key=lambda r: r.time)
    found.models.update(r.model for r in found.rounds)
    return found


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
