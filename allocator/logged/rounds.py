"""Rounds: decisions of the log joined with their rewards."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from .. import Policy
from ..problem import pose
from .explore import Taken
from .segments import Damage, read_rewards, read_segment, segments


@dataclass(frozen=True)
class Round(Taken):
    """One decision whose reward is known.

    Attributes
    ----------
    id, version, time
        Of the decision; its policy's version; seconds since the epoch.
    reward
        Of the answer, in [0, 1]; tokens are not charged in it.
    model
        Which model answered, or None where the log doesn't say.
    client
        Who gave the reward, or None where the log doesn't say.
    """

    id: str
    version: str
    time: float
    reward: float
    model: str | None = None
    client: str | None = None


@dataclass
class Joined:
    """A log, read.

    Attributes
    ----------
    rounds
        In the order of time.
    decisions
        How many there were in what was read, rewarded or not.
    orphans
        Rewards whose decision can't be read.
    damage
        Lines that are no records, decisions that make no sense, and second rewards for one decision.
    models
        How many rounds each model answered.
    """

    rounds: list[Round] = field(default_factory=list)
    decisions: int = 0
    orphans: int = 0
    damage: Damage = field(default_factory=Damage)
    models: Counter[str | None] = field(default_factory=Counter)


def read_rounds(folder: str | os.PathLike[str], last: int | None = None) -> Joined:
    """Join a log's decisions with their rewards, however late these came and from whichever replica.

    What can't be used is passed over and counted. Segment by segment, the one written last first; with `last` no more
    segments are read than it takes, so that memory and time don't grow with the log.

    Parameters
    ----------
    folder
        The decision log.
    last
        Only the most recent rounds.

    Raises
    ------
    ValueError
        If there is no log.
    """
    joined = Joined()
    for segment in reversed(segments(folder)):
        rewards = read_rewards(segment, joined.damage)
        for number, record in enumerate(read_segment(segment, "decision", joined.damage), 1):
            joined.decisions += 1
            reward = rewards.get(record["id"])
            if reward is None:
                continue
            if "fallback" in record:  # answered without a decision: there is nothing to learn from
                del rewards[record["id"]]
                continue
            try:
                joined.rounds.append(
                    Round.from_dict(
                        record,
                        id=record["id"],
                        version=str(record["version"]),
                        time=float(record["time"]),
                        reward=float(reward["reward"]),
                        model=_text(record.get("model")),
                        client=_text(reward.get("client")),
                    )  # fmt: skip
                )
                del rewards[record["id"]]
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                joined.damage.add(segment, number, f"the decision can't be used: {error}")
        joined.orphans += len(rewards)
        if last is not None and len(joined.rounds) >= last:
            break
    joined.rounds.sort(key=lambda r: r.time)
    if not joined.decisions:
        raise ValueError(f"{os.fspath(folder)} holds no decision; name the --log folder of arr-coc serve")
    if last is not None:
        del joined.rounds[:-last]
    joined.models.update(r.model for r in joined.rounds)
    return joined


def check_round(r: Round, policy: Policy) -> None:
    """Refuse a round that is sound as data and none of this policy's kind, or at odds with itself.

    Raises
    ------
    ValueError
        Which says why: sizes, a choice that costs something else, or a propensity that isn't that of its law.
    """
    d, n = r.decision, np.arange(len(r.decision.index))
    try:
        pose(policy, d.contexts, d.covariates, r.costs, r.limit, d.price, coverage=r.coverage)
        if d.values.shape != r.costs.shape or d.index.min() < 0 or d.index.max() >= r.costs.shape[1]:
            raise ValueError(f"index {d.index.tolist()} is none of {r.costs.shape[1]} arms")
        if (r.costs[n, d.index] != d.costs).any():
            raise ValueError("its costs are not those of what it chose")
        if d.probabilities is not None:
            rows = d.probabilities
            if rows.shape != d.values.shape or rows.min() < 0 or not np.allclose(rows.sum(axis=1), 1.0, atol=1e-6):
                raise ValueError("its probabilities are no distributions")
            if (rows[n, d.index] <= 0).any():
                raise ValueError("it chose what had no probability")
        known = 0.0 if r.law is None else r.law.log_probability(d.values, r.costs, d.index)
        if d.log_propensity is None or not abs(known - d.log_propensity) < 1e-6:
            raise ValueError(f"its log-propensity is {d.log_propensity}, its law says {known}")
    except (TypeError, IndexError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(str(error)) from error


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{value!r} is no name")
    return value
