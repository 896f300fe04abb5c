"""Rounds: decisions of the log joined with their rewards."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from .explore import Taken
from .log import read_records


@dataclass(frozen=True)
class Round(Taken):
    """One decision whose reward is known.

    Attributes
    ----------
    id, version, time
        Of the decision; its policy's version; seconds since the epoch.
    reward
        Of the answer, in [0, 1]; tokens are not charged in it.
    """

    id: str
    version: str
    time: float
    reward: float


@dataclass
class Joined:
    """A log, read.

    Attributes
    ----------
    rounds
        In the order of time.
    decisions
        How many there were, rewarded or not.
    orphans
        Rewards whose decision is not on the log (any more).
    repeated
        Rewards beyond a decision's first.
    """

    rounds: list[Round] = field(default_factory=list)
    decisions: int = 0
    orphans: int = 0
    repeated: int = 0


def read_rounds(folder: str | os.PathLike[str], last: int | None = None) -> Joined:
    """Join a log's decisions with their rewards, however late these came and from whichever replica.

    Parameters
    ----------
    folder
        The decision log.
    last
        Only the most recent rounds.

    Raises
    ------
    ValueError
        If there is no log, or a record is damaged.
    """
    joined = Joined()
    rewards: dict[str, float] = {}
    for record in sorted(read_records(folder, "reward"), key=lambda record: float(record["time"])):
        joined.repeated += record["decision"] in rewards
        rewards.setdefault(record["decision"], float(record["reward"]))
    for record in read_records(folder, "decision"):
        joined.decisions += 1
        reward = rewards.pop(record["id"], None)
        if reward is None:
            continue
        try:
            when = float(record["time"])
            found = Round.from_dict(record, id=record["id"], version=record["version"], time=when, reward=reward)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"decision {record['id']} can't be used: {error}") from error
        joined.rounds.append(found)
        if last is not None and len(joined.rounds) >= 2 * last:  # the log may be larger than the memory
            joined.rounds.sort(key=lambda r: r.time)
            del joined.rounds[:-last]
    joined.orphans = len(rewards)
    joined.rounds.sort(key=lambda r: r.time)
    if not joined.decisions:
        raise ValueError(f"{os.fspath(folder)} holds no decision; name the --log folder of arr-coc serve")
    if last is not None:
        del joined.rounds[:-last]
    return joined
