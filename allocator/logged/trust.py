"""Which rewards of a log may be believed.

Whoever may send rewards may send wrong ones, and a source of rewards that broke sends the same one for ever. Two
rules, neither of which looks at what was decided:

*A source that has stopped looking.* Rewards that are all the same, one after the other, for so long that the rate of
that reward before, after and elsewhere would bring it about less than once in 10^9 times. They are left out: not one
of them says anything about an answer. Rewards are looked at as they come, and client by client.

*A client's weight.* Where the log says who gave a reward, nobody gives more than a share of what is learned from and
judged on. Which rounds of a client stay is decided by their ids, so that nobody can choose them. It needs as many
clients as the share allows for: among fewer than 1 / share, somebody must have more.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .rounds import Round

_CHANCE = 1e-9
_NEAR = 200  # rewards before and after a run: what they are worth changes with time


@dataclass(frozen=True)
class Believed:
    """The rounds that are used, and why others are not.

    Attributes
    ----------
    rounds
        In the order of time.
    constant
        Rounds left out because their source said the same of every answer.
    bounded
        Rounds left out of each client that gave more than its share.
    clients
        How many gave rewards.
    bound
        Whether no known client has more than its share of what is left.
    """

    rounds: list[Round]
    constant: int
    bounded: dict[str, int]
    clients: int
    bound: bool


def believe(rounds: Sequence[Round], share: float) -> Believed:
    """Apply both rules.

    Parameters
    ----------
    rounds
        In the order of time.
    share
        Largest share of the rounds of one client, in (0, 1]; 1 bounds nobody.
    """
    streams: dict[str | None, list[int]] = defaultdict(list)
    for t, r in enumerate(rounds):
        streams[r.client].append(t)
    constant = np.zeros(len(rounds), bool)
    for rows in [list(range(len(rounds))), *(rows for client, rows in streams.items() if client is not None)]:
        rewards = np.array([rounds[t].reward for t in rows])
        constant[np.array(rows, dtype=int)[_constant(rewards)]] = True
    kept = [r for r, same in zip(rounds, constant, strict=True) if not same]
    counts = Counter(r.client for r in kept if r.client is not None)
    unknown = sum(r.client is None for r in kept)
    most = _most(list(counts.values()), unknown, share)
    chosen = kept if most is None else _bounded(kept, most)
    left = {client: n - most for client, n in counts.items() if most is not None and n > most}
    largest = max(Counter(r.client for r in chosen if r.client is not None).values(), default=0)
    return Believed(chosen, int(constant.sum()), left, len(counts), largest <= share * len(chosen))


def _constant(rewards: np.ndarray) -> np.ndarray:
    """Which of a stream's rewards [n] belong to a run that can't be chance, [n] bool."""
    found = np.zeros(len(rewards), bool)
    if not len(rewards):
        return found
    edges = np.flatnonzero(np.diff(rewards)) + 1
    for start, end in zip([0, *edges], [*edges, len(rewards)], strict=True):
        around = [rewards[max(0, start - _NEAR) : start], rewards[end : end + _NEAR]]
        around.append(np.concatenate([rewards[:start], rewards[end:]]))
        # By what came before, after and everywhere, the one in whose light it surprises least.
        seen = [part for part in around if len(part)] or around
        chance = max(_log_chance(end - start, part == rewards[start]) for part in seen)
        if chance < math.log(_CHANCE):
            found[start:end] = True
    return found


def _log_chance(length: int, hits: np.ndarray) -> float:
    """Log-probability of so many hits in a row after the hits [m] seen: beta-binomial, from an even prior.

    A rate that is known from a few rewards only is not known, so a short honest log whose answers are nearly all right
    is believed. Where nothing else was seen, the rate is taken to be 1/2, which makes 30 in a row too many.
    """
    if not len(hits):
        return -length * math.log(2)
    yes, no = int(hits.sum()) + 1, int((~hits).sum()) + 1
    total = yes + no
    return math.lgamma(yes + length) - math.lgamma(yes) + math.lgamma(total) - math.lgamma(total + length)


def _most(counts: list[int], unknown: int, share: float) -> int | None:
    """Rounds that a client may have at most, the largest m with m <= share * (unknown + sum min(n, m)); None if none
    needs to be bounded, or can be."""
    if not counts or max(counts) <= share * (unknown + sum(counts)):
        return None
    low, high = 0, max(counts)
    while low < high:
        m = (low + high + 1) // 2
        low, high = (m, high) if m <= share * (unknown + sum(min(n, m) for n in counts)) else (low, m - 1)
    return low or None


def _bounded(rounds: list[Round], most: int) -> list[Round]:
    by_client: dict[str, list[str]] = defaultdict(list)
    for r in rounds:
        if r.client is not None:
            by_client[r.client].append(r.id)
    stay = {name for ids in by_client.values() for name in sorted(ids, key=_lot)[:most]}
    return [r for r in rounds if r.client is None or r.id in stay]


def _lot(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
