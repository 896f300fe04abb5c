"""Which rewards of a log may be believed.

Whoever may send rewards may send wrong ones, and a source of rewards that broke sends the same one for ever. Two
rules, neither of which looks at what was decided:

*A source that has stopped looking.* Rewards that are all the same, one after the other, for so long that the rate of
that reward before, after and elsewhere would bring it about less than once in 10^9 times. They are left out: not one
of them says anything about an answer. Rewards are looked at as they come, and client by client.

*A client's weight.* Where the log says who gave a reward, nobody gives more than a share of what is learned from, nor
of what is judged on. It needs as many clients as the share allows for: among fewer than 1 / share, somebody must have
more. `allocator.logged.judge` asks besides that what it finds holds without any one client.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .rounds import Round

_CHANCE = math.log(1e-9)
_SHORTEST = 30  # rewards of a run that may be left out: 29 in a row are more likely even at even odds
_NEAR = 200  # rewards before and after a run: what they are worth changes with time


@dataclass(frozen=True)
class Bounded:
    """Rounds of which no client gives more than a share.

    Attributes
    ----------
    rounds
        What is left, in the order of time.
    left_out
        How many were left out, of each client that gave more.
    clients
        How many gave rewards.
    bound
        Whether no known client has more than its share of what is left.
    """

    rounds: list[Round]
    left_out: dict[str, int]
    clients: int
    bound: bool


def without_constant(rounds: Sequence[Round]) -> list[Round]:
    """Without the rounds whose source says the same of every answer.

    Parameters
    ----------
    rounds
        In the order of time.
    """
    streams: dict[str, list[int]] = defaultdict(list)
    for t, r in enumerate(rounds):
        if r.client is not None:
            streams[r.client].append(t)
    rewards = np.array([r.reward for r in rounds])
    everybody = Counter(rewards.tolist())
    constant = _constant(rewards, Counter())
    for rows in streams.values():
        if len(rows) >= _SHORTEST:
            own = rewards[rows]
            constant[rows] |= _constant(own, everybody - Counter(own.tolist()))
    return [r for r, same in zip(rounds, constant, strict=True) if not same]


def bounded(rounds: Sequence[Round], share: float) -> Bounded:
    """Bound what one client weighs; which of its rounds stay is decided by their ids, so twice the same stay.

    Parameters
    ----------
    rounds
        In the order of time.
    share
        Largest share of one client, in (0, 1]; 1 bounds nobody.
    """
    counts = Counter(r.client for r in rounds if r.client is not None)
    most = _most(list(counts.values()), len(rounds) - counts.total(), share)
    chosen = list(rounds) if most is None else _drawn(rounds, most)
    left = {client: n - most for client, n in counts.items() if most is not None and n > most}
    largest = max(Counter(r.client for r in chosen if r.client is not None).values(), default=0)
    return Bounded(chosen, left, len(counts), largest <= share * len(chosen))


def _constant(rewards: np.ndarray, others: Counter[float]) -> np.ndarray:
    """Which of a stream's rewards [n] belong to a run that can't be chance, also beside others' rewards; [n] bool."""
    found = np.zeros(len(rewards), bool)
    edges = np.flatnonzero(np.diff(rewards)) + 1
    for start, end in zip([0, *edges], [*edges, len(rewards)], strict=True):
        if end - start < _SHORTEST:
            continue
        said = rewards[start]
        around = [rewards[max(0, start - _NEAR) : start], rewards[end : end + _NEAR]]
        around.append(np.concatenate([rewards[:start], rewards[end:]]))
        seen = [(int((part == said).sum()), len(part)) for part in around]
        seen = [part for part in (*seen, (others[float(said)], others.total())) if part[1]] or [(0, 0)]
        # By what came before, after and everywhere, and by others, the one in whose light it surprises least.
        if max(_log_chance(end - start, *part) for part in seen) < _CHANCE:
            found[start:end] = True
    return found


def _log_chance(length: int, hits: int, seen: int) -> float:
    """Log-probability of so many hits in a row after `hits` of `seen`: beta-binomial, from an even prior.

    A rate that is known from a few rewards only is not known, so a short honest log whose answers are nearly all right
    is believed. Where nothing else was seen, the rate is taken to be 1/2, which makes 30 in a row too many.
    """
    if not seen:
        return -length * math.log(2)
    yes, total = hits + 1, seen + 2
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


def _drawn(rounds: Sequence[Round], most: int) -> list[Round]:
    by_client: dict[str, list[str]] = defaultdict(list)
    for r in rounds:
        if r.client is not None:
            by_client[r.client].append(r.id)
    stay = {name for ids in by_client.values() for name in sorted(ids, key=_lot)[:most]}
    return [r for r in rounds if r.client is None or r.id in stay]


def _lot(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
