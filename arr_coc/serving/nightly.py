"""The nightly loop: learn from the decision log, judge off-policy, promote or keep; a report either way.

What is learned from and what is judged on never meet. Rounds served by the incumbent were decided after it was made,
so half of them, picked by their ids, judge both policies; the other half and all older rounds teach the new one. The
policy that was judged is the one that is promoted, and its held-out half teaches the next one.

A new policy starts from the first version's statistics, not from the incumbent's, and learns the log anew: no round is
ever counted twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from allocator import Policy
from allocator.checks import count, number
from allocator.logged.estimators import Estimate
from allocator.logged.judge import judge
from allocator.logged.rounds import Joined, Round, read_rounds
from allocator.logged.shift import PSI_ALARM, WINDOW, ContextReference, describe, reward_test
from allocator.policies.full_bandit.base import Aggregated
from allocator.storage import replace_file

from ..wrapping.saving import CONFIG, POLICY, read_record, write_folder
from .report import to_markdown
from .store import Store


@dataclass(kw_only=True, frozen=True)
class RetrainConfig:
    """How a new policy is judged.

    Parameters
    ----------
    margin
        Net reward by which the lower bound of the difference may fall below zero.
    confidence
        Two-sided level of its interval.
    additive
        Whether to go by the slate estimator, which needs rewards that add up over patches and far fewer rounds.
    held_out
        Share of the incumbent's rounds that judge.
    fewest
        Rounds that must judge; with fewer nothing is promoted.
    last
        Only the most recent rounds of the log; None for all.
    seed
        Of the bootstrap.
    """

    margin: float = 0.01
    confidence: float = 0.95
    additive: bool = False
    held_out: float = 0.5
    fewest: int = 200
    last: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        number("margin", self.margin, low=0.0)
        number("confidence", self.confidence, low=0.5, high=0.9999)
        number("held_out", self.held_out, low=0.05, high=0.95)
        count("fewest", self.fewest, low=2)
        if self.last is not None:
            count("last", self.last)


def retrain(
    log: str | os.PathLike[str], store: Store, config: RetrainConfig, out: Path | None = None
) -> dict[str, Any]:
    """Make a new policy from a decision log, judge it, and promote it or keep the incumbent.

    Parameters
    ----------
    log
        Folder of the decision log.
    store
        Its current version is the incumbent; a promoted policy becomes a new version and the current one.
    config
        See `RetrainConfig`.
    out
        Folder of the report, ``STORE/reports`` by default.

    Returns
    -------
    dict
        The report, as in ``retrain-TIME.json``; ``promoted`` is the new version or None.

    Raises
    ------
    ValueError
        If log or store can't be used.
    """
    name = store.current
    facts, incumbent, new = store.facts(name), _load(store, name), _load(store, store.versions[0])
    joined = read_rounds(log, config.last)
    start, drift = _drift(joined.rounds, facts.get("contexts"))
    usable, names = joined.rounds[start:], {name, facts["policy"]}
    judges = [r.version in names and _held_out(r.id, name, config.held_out) for r in usable]
    judging = [r for r, held in zip(usable, judges, strict=True) if held]
    teaching = [r for r, held in zip(usable, judges, strict=True) if not held]
    if drift["alarms"]:
        new.posterior.reset()  # what the first version knew was true before the fall
    new.update_many([r.decision for r in teaching], [r.reward for r in teaching])
    report: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "incumbent": name,
        "promoted": None,
        "reason": f"{len(judging)} rounds to judge on, fewer than {config.fewest}",
        "margin": config.margin,
        "confidence": config.confidence,
        "log": _counts(joined, start, teaching, judging),
        "drift": drift,
        "judgement": None,
    }
    if len(judging) >= config.fewest:
        judgement = judge(judging, incumbent, new, new, confidence=config.confidence, seed=config.seed)
        difference = judgement.slate if config.additive and judgement.slate is not None else judgement.difference
        low, least = difference.low, -config.margin
        says = "not below" if low >= least else "below"
        report["judgement"] = judgement.to_dict()
        report["reason"] = (
            f"by {difference.method}, the lower bound of the difference is {low:+.4f}, {says} {least:+.4f}"
        )
        if low >= least:
            report["promoted"] = _promote(store, name, new, teaching, difference)
    _write(report, out or store.path / "reports")
    return report


def _load(store: Store, version: str) -> Aggregated:
    policy = Policy.load(store.folder(version) / POLICY)
    if not isinstance(policy, Aggregated) or type(policy)._encode is not Aggregated._encode:
        raise ValueError(
            f"version {version} of {store.path} is a {policy.name!r} policy; a log retrains linear aggregated ones "
            "(thompson, ucb, boltzmann, epsilon_greedy)"
        )
    return policy


def _held_out(name: str, version: str, share: float) -> bool:
    """Whether a round judges: by its id, so that repeating a night changes nothing, and anew for each version.

    The random end of the id alone decides: where and when a record was written is no chance.
    """
    digest = hashlib.blake2b(f"{version}/{name.rpartition('-')[2]}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _drift(rounds: Sequence[Round], known: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
    """The first round to use, and what the detectors say: rounds before the last fall of the reward are left out."""
    test, start, alarms = reward_test(), 0, []
    for t, r in enumerate(rounds):
        if test.update(r.reward):
            alarms.append({"round": t, "time": r.time})
            start = t + 1
    psi = None
    if known is not None and len(rounds) >= WINDOW:
        recent = np.stack([describe(r.decision) for r in rounds[-WINDOW:]])
        psi = float(ContextReference.from_dict(known).psi(recent).max())
    return start, {"alarms": alarms, "psi": psi, "shifted": psi is not None and psi > PSI_ALARM, "first round": start}


def _counts(joined: Joined, start: int, teaching: Sequence[Round], judging: Sequence[Round]) -> dict[str, Any]:
    rounds = joined.rounds
    return {
        "decisions": joined.decisions,
        "rounds": len(rounds),
        "explored": sum(r.explored for r in rounds),
        "mean reward": float(np.mean([r.reward for r in rounds])) if rounds else None,
        "repeated rewards": joined.repeated,
        "orphaned rewards": joined.orphans,
        "left out by drift": start,
        "learned from": len(teaching),
        "judged on": len(judging),
    }


def _promote(store: Store, incumbent: str, policy: Aggregated, teaching: Sequence[Round], gain: Estimate) -> str:
    record = read_record(store.folder(incumbent) / CONFIG)
    record["rounds"] = policy.rounds
    record["results"] = {
        f"net reward against version {incumbent}, off-policy": f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    }
    rows = [describe(r.decision) for r in teaching[-20 * WINDOW :]]
    facts: dict[str, Any] = {"before": incumbent, "learned from": len(teaching)}
    if len(rows) >= WINDOW:
        facts["contexts"] = ContextReference.of(np.stack(rows)).to_dict()
    version = store.add(lambda folder: write_folder(folder, policy, record), facts)
    store.point_to(version)
    return version


def _write(report: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"retrain-{report['time'].replace(':', '').replace('+0000', 'Z')}"
    replace_file(folder / f"{name}.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    replace_file(folder / f"{name}.md", to_markdown(report))
