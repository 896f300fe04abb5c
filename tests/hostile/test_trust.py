"""Which rewards are believed: what is honest stays, what says the same for ever goes, and nobody weighs too much."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.logged.intervals import without_one
from allocator.logged.trust import bounded, without_constant


@dataclass(frozen=True)
class Round:
    """What is looked at of one."""

    id: str
    reward: float
    client: str | None


def rounds(rewards: np.ndarray, clients: np.ndarray | None = None) -> list[Round]:
    names = [None] * len(rewards) if clients is None else [f"client {c}" for c in clients]
    return [Round(f"x-{t}", float(y), c) for t, (y, c) in enumerate(zip(rewards, names, strict=True))]


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.9, 0.97, 0.99, 0.999])
def test_honest_rewards_are_believed(rate: float) -> None:
    """Of 300 logs, of few or many rewards and clients, however often answers are right, not one reward is left out.

    Rewards that are all the same are another matter: nothing can be judged on them.
    """
    rng = np.random.default_rng(int(1000 * rate))
    for _ in range(300):
        n, clients = int(10 ** rng.uniform(1, 3.5)), int(10 ** rng.uniform(0, 2))
        rewards = (rng.random(n) < rate).astype(float)
        if len(set(rewards)) == 2:
            log = rounds(rewards, rng.integers(clients, size=n))
            assert without_constant(log) == log, (n, clients)


def test_an_honest_client_whose_answers_were_all_right_is_believed() -> None:
    """31 right answers of 97 % are nothing special (39 in 100 clients have them): they were left out."""
    rng = np.random.default_rng(0)
    others = (rng.random(2000) < 0.97).astype(float)
    log = rounds(np.r_[others, np.ones(60)], np.r_[rng.integers(1, 20, size=2000), np.zeros(60, int)])
    assert without_constant(log) == log


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(0.2, 0.8), zeros=st.integers(150, 600), before=st.integers(0, 2000), after=st.integers(0, 2000),
    alone=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_source_that_says_the_same_for_ever_is_left_out(
    rate: float, zeros: int, before: int, after: int, alone: bool, seed: int
) -> None:
    """As all that comes for a while, or as one client among others; what came before and after stays."""
    rng = np.random.default_rng(seed)
    honest = (rng.random(before + after + 500) < rate).astype(float)
    kinds = np.r_[rng.integers(1, 20, size=before), np.zeros(zeros, int), rng.integers(1, 20, size=after + 500)]
    rewards = np.r_[honest[:before], np.zeros(zeros), honest[before:]]
    if alone:  # spread over the others' rewards
        order = rng.permutation(len(kinds))
        rewards, kinds = rewards[order], kinds[order]
    left = Counter(r.client for r in without_constant(rounds(rewards, kinds)))
    assert not left["client 0"]
    # A run that meets others of its kind takes them with it: a few on either side.
    assert len(honest) - sum(left.values()) <= 60


@settings(max_examples=200, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=40), unknown=st.integers(0, 50),
    share=st.floats(0.01, 1.0), seed=st.integers(0, 99),
)  # fmt: skip
def test_one_clients_weight_is_bounded_and_no_more_is_lost_than_must_be(
    counts: list[int], unknown: int, share: float, seed: int
) -> None:
    """Against every bound there is, tried one by one."""
    names = [f"client {k}" for k, n in enumerate(counts) for _ in range(n)] + [None] * unknown
    order = np.random.default_rng(seed).permutation(len(names))
    log = [Round(f"x-{t}", 1.0, names[k]) for t, k in enumerate(order)]
    found = bounded(log, share)
    left = Counter(r.client for r in found.rounds if r.client is not None)

    def holds(most: int) -> bool:
        return most <= share * (unknown + sum(min(n, most) for n in counts))

    possible = [most for most in range(1, max(counts) + 1) if holds(most)]
    if holds(max(counts)) or not possible:
        assert found.rounds == log and not found.left_out and found.bound == holds(max(counts))
    else:
        assert max(left.values()) == min(max(possible), max(counts)) and found.bound
    assert all(left[f"client {k}"] + found.left_out.get(f"client {k}", 0) == n for k, n in enumerate(counts))
    assert [r for r in log if r in set(found.rounds)] == found.rounds  # in their order
    assert found.clients == len(counts)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=12), unknown=st.integers(0, 20),
    fewest=st.integers(0, 100), seed=st.integers(0, 999),
)  # fmt: skip
def test_the_lowest_bound_without_one_client_is_that_of_trying_each(
    sizes: list[int], unknown: int, fewest: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    clients = [f"client {k}" for k, n in enumerate(sizes) for _ in range(n)] + [None] * unknown
    terms, width = rng.normal(size=len(clients)), float(rng.random())
    low = float(terms.mean()) - width
    expected = low
    for client in set(clients) - {None}:
        rest = terms[[c != client for c in clients]]
        if len(rest) >= max(fewest, 1):
            expected = min(expected, rest.mean() - width * np.sqrt(len(terms) / len(rest)))
    assert without_one(terms, low, clients, fewest) == pytest.approx(expected, abs=1e-9)
    assert without_one(terms, low, clients, None) == low


def test_whatever_one_client_says_the_lowest_bound_is_no_better_than_without_it() -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=900)
    for lie in (-1000.0, 0.0, 1000.0):
        terms = np.r_[honest, np.full(100, lie)]
        clients = [f"client {k % 30}" for k in range(900)] + ["liar"] * 100
        alone, width = float(honest.mean()), 0.1
        low = without_one(terms, float(terms.mean()) - width, clients, 200)
        assert low <= alone - width * np.sqrt(1000 / 900) + 1e-9
