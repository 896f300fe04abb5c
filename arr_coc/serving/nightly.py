"""The nightly loop: learn from the decision log, judge off-policy, promote or keep; a report either way.

What is learned from and what is judged on never meet. Rounds served by the incumbent were decided after it was made,
so half of them, picked by their ids, judge both policies; the other half and all older rounds teach the new one. The
policy that was judged is the one that is promoted, and its held-out half teaches the next one.

A new policy starts from the first version's statistics, not from the incumbent's, and learns the log anew: no round is
ever counted twice.

Rewards come from strangers, and from programs that break. So rounds are used only if `allocator.logged.trust` believes
them and the same model answered; nothing is judged on rewards that are all the same; and the new policy must hold not
only against the incumbent but against the first version and full detail, so that many small losses can't add up. An
alarm of drift makes what came before it weigh no more than what came after; it deletes nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from allocator import Policy
from allocator.checks import IntArray, count, number
from allocator.logged.estimators import Estimate
from allocator.logged.judge import by_model, greedy, judge
from allocator.logged.log import secret_of
from allocator.logged.rounds import Joined, Round, check_round, read_rounds
from allocator.logged.shift import PSI_ALARM, WINDOW, ContextReference, describe, reward_test
from allocator.logged.trust import Bounded, bounded, without_constant
from allocator.policies.valued import Valued
from allocator.storage import replace_file

from ..wrapping.saving import CONFIG, POLICY, read_record, write_folder
from .report import to_markdown
from .store import Moved, Store, digest

logger = logging.getLogger(__name__)

_OF_ONE_MODEL = 0.9  # share of the rounds that says which model a log is of, where nobody does


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
        Only the most recent rounds of the log, at about 1 kB of memory each; None for all.
    reference_margin
        Net reward by which the lower bound against the first version, and against full detail, may fall below zero. By
        `allocator.logged.judge.by_model`, since the log seldom played them.
    client_share
        Largest share of the rounds that one client may give; see `allocator.logged.trust`.
    model
        Only rounds that this model answered, as the log names it. By default the one that the incumbent was learned
        on, else the one that answered nine of ten.
    seed
        Of the bootstrap.
    """

    margin: float = 0.01
    confidence: float = 0.95
    additive: bool = False
    held_out: float = 0.5
    fewest: int = 200
    last: int | None = 200_000
    reference_margin: float = 0.05
    client_share: float = 0.1
    model: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        number("margin", self.margin, low=0.0)
        number("reference_margin", self.reference_margin, low=0.0)
        number("client_share", self.client_share, low=0.001, high=1.0)
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
    name, first = store.current, store.versions[0]
    facts, incumbent, prior, new = store.facts(name), _load(store, name), _load(store, first), _load(store, first)
    joined = read_rounds(log, config.last)
    model, answered = _of_one_model(joined, config.model or facts.get("model"))
    answered = _sound(answered, incumbent, joined)
    looking = without_constant(answered)
    believed = bounded(looking, config.client_share)
    start, drift = _drift(believed.rounds, facts.get("contexts"), config.fewest)
    usable, names = believed.rounds[start:], {name, digest(store.folder(name))}
    secret = secret_of(log)
    judges = [r.version in names and _held_out(r.id, name, config.held_out, secret) for r in usable]
    # Once more by themselves: a client with little of the log may have all rewards of the version that is judged.
    judged = bounded([r for r, held in zip(usable, judges, strict=True) if held], config.client_share)
    judging = judged.rounds
    teaching = bounded([r for r, held in zip(usable, judges, strict=True) if not held], config.client_share).rounds
    if start and new.rounds > len(teaching):  # what the first version knew was true before the fall
        new.forget(len(teaching) / new.rounds)
    new.update_many([r.decision for r in teaching], [r.reward for r in teaching])
    report: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "incumbent": name,
        "promoted": None,
        "reason": "",
        "margin": config.margin,
        "confidence": config.confidence,
        "model": model,
        "log": {
            **_counts(joined, model, believed.rounds),
            "of a source that says the same for ever": len(answered) - len(looking),
            "beyond a client's share": len(looking) - start - len(teaching) - len(judging),
            "clients": believed.clients,
            "left out by drift": start,
            "learned from": len(teaching),
            "judged on": len(judging),
        },
        "passed over": joined.damage.places,
        "bounded clients": believed.left_out,
        "drift": drift,
        "judgement": None,
        "references": {},
    }
    report["reason"] = _unfit(judged, len(answered) - len(looking), believed, config)
    if not report["reason"]:
        chosen, before = greedy(new, judging), greedy(incumbent, judging)
        judgement = judge(
            judging, before, chosen, new, confidence=config.confidence, seed=config.seed, fewest=config.fewest
        )
        difference = judgement.slate if config.additive and judgement.slate is not None else judgement.difference
        references = _references(
            judging, first, prior, before if name == first else prior, chosen, config
        )
        report["judgement"] = judgement.to_dict()
        report["references"] = {against: asdict(found) for against, found in references.items()}
        checks = [("the incumbent", difference, config.margin)]
        checks += [(against, found, config.reference_margin) for against, found in references.items()]
        held = [found.low >= -margin for _, found, margin in checks]
        # The first that fails, else the incumbent's.
        against, found, margin = checks[held.index(False) if False in held else 0]
        report["reason"] = (
            f"by {found.method}, the lower bound of the difference to {against} is {found.low:+.4f}, "
            f"{'not below' if all(held) else 'below'} {-margin:+.4f}"
        )
        if all(held):
            try:
                report["promoted"] = _promote(store, name, new, teaching, difference, model)
            except Moved as error:
                report["reason"] = f"{error}; nothing was promoted"
    _write(report, out or store.path / "reports")
    return report


def _of_one_model(joined: Joined, wanted: str | None) -> tuple[str | None, list[Round]]:
    """The model whose answers count, and its rounds: another model's rewards teach nothing about this one's policy."""
    if wanted is None:
        ((most, count),) = joined.models.most_common(1) or [(None, 0)]
        if count < _OF_ONE_MODEL * len(joined.rounds):
            counts = ", ".join(f"{name or 'not named'}: {n:,} rounds" for name, n in joined.models.most_common())
            raise ValueError(
                f"the log holds answers of several models ({counts}); say which one the policy is for by --for-model"
            )
        wanted = most
    return wanted, [r for r in joined.rounds if r.model == wanted]


def _sound(rounds: Sequence[Round], policy: Valued, joined: Joined) -> list[Round]:
    """Without the rounds that make no sense to this policy, which are counted."""
    found = []
    for r in rounds:
        try:
            check_round(r, policy)
        except ValueError as error:
            joined.damage.count(f"decision {r.id}: {error}")
            continue
        found.append(r)
    return found


def _unfit(judged: Bounded, constant: int, believed: Bounded, config: RetrainConfig) -> str:
    """Why nothing can be judged, or nothing."""
    judging = judged.rounds
    if len(judging) < config.fewest:
        why = f"{len(judging)} rounds to judge on, fewer than {config.fewest}"
        if constant:
            why += f"; {constant} were left out, because the source of their rewards says the same for ever"
        if left := sum(believed.left_out.values()) + sum(judged.left_out.values()):
            why += f"; {left} were left out, because one client may give at most {100 * config.client_share:g} %"
        return why
    rewards = {r.reward for r in judging}
    if len(rewards) == 1:
        return f"every reward to judge on is {rewards.pop():g}: who says the same of every answer says nothing"
    return ""


def _references(
    judging: Sequence[Round],
    first: str,
    prior: Valued,
    before: Valued | list[IntArray],
    chosen: list[IntArray],
    config: RetrainConfig,
) -> dict[str, Estimate]:
    """The difference to the first version and to full detail, this where enough rounds had no binding limit."""
    level: dict[str, Any] = {"confidence": config.confidence, "fewest": config.fewest}
    found = {f"the first version ({first})": by_model(judging, before, chosen, prior, **level)}
    free = [t for t, r in enumerate(judging) if r.limit is None]
    if len(free) >= config.fewest:
        rounds = [judging[t] for t in free]
        found["full detail"] = by_model(rounds, None, [chosen[t] for t in free], prior, **level)
    return found


def _load(store: Store, version: str) -> Valued:
    policy = Policy.load(store.folder(version) / POLICY)
    if not isinstance(policy, Valued):
        raise ValueError(
            f"version {version} of {store.path} is a {policy.name!r} policy; a log retrains those that model the "
            "reward of the whole allocation (neural_mixture, thompson, ucb, boltzmann, epsilon_greedy)"
        )
    return policy


def _held_out(name: str, version: str, share: float, secret: bytes = b"") -> bool:
    """Whether a round judges: by its id, so that repeating a night changes nothing, and anew for each version.

    The random end of the id alone decides: where and when a record was written is no chance. With the log's secret,
    since whoever gets an answer knows its id and version, and could otherwise be honest where it only teaches.
    """
    digest = hashlib.blake2b(f"{version}/{name.rpartition('-')[2]}".encode(), key=secret, digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _drift(rounds: Sequence[Round], known: dict[str, Any] | None, fewest: int) -> tuple[int, dict[str, Any]]:
    """The first round to use, and what the detectors say: rounds before the last fall of the reward are left out, if
    enough came after it to learn from and to judge on."""
    test, start, alarms = reward_test(), 0, []
    for t, r in enumerate(rounds):
        if test.update(r.reward):
            alarms.append({"round": t, "time": r.time})
            start = t + 1 if len(rounds) - t > 2 * fewest else start
    psi = None
    if known is not None and len(rounds) >= WINDOW:
        recent = np.stack([describe(r.decision) for r in rounds[-WINDOW:]])
        try:
            psi = float(ContextReference.from_dict(known).psi(recent).max())
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("the incumbent's reference of contexts is damaged and not used: %s", error)
    return start, {"alarms": alarms, "psi": psi, "shifted": psi is not None and psi > PSI_ALARM, "first round": start}


def _counts(joined: Joined, model: str | None, rounds: Sequence[Round]) -> dict[str, Any]:
    return {
        "decisions": joined.decisions,
        "rounds": len(joined.rounds),
        "damaged lines": joined.damage.lines,
        "orphaned rewards": joined.orphans,
        "of other models": sum(joined.models.values()) - joined.models[model],
        "explored": sum(r.explored for r in rounds),
        "mean reward": float(np.mean([r.reward for r in rounds])) if rounds else None,
    }


def _promote(
    store: Store, incumbent: str, policy: Valued, teaching: Sequence[Round], gain: Estimate, model: str | None
) -> str:
    record = read_record(store.folder(incumbent) / CONFIG)
    record["rounds"] = policy.rounds
    record["results"] = {
        f"net reward against version {incumbent}, off-policy": f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    }
    rows = [describe(r.decision) for r in teaching[-20 * WINDOW :]]
    facts: dict[str, Any] = {"before": incumbent, "learned from": len(teaching), "model": model}
    if len(rows) >= WINDOW:
        facts["contexts"] = ContextReference.of(np.stack(rows)).to_dict()
    version = store.add(lambda folder: write_folder(folder, policy, record), facts)
    store.point_to(version, expected=incumbent)
    return version


def _write(report: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"retrain-{report['time'].replace(':', '').replace('+0000', 'Z')}"
    replace_file(folder / f"{name}.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    replace_file(folder / f"{name}.md", to_markdown(report))
