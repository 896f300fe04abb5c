"""Whose turn it is: the order of coming, and who lets others pass."""

from __future__ import annotations

import threading
import time

import pytest

from demo.turns import PASSED, Turns


def served(comers: list[tuple[str, bool]]) -> list[str]:
    """In which order comers get their turn who all arrive, one by one, while somebody else has it."""
    turns, order = Turns(), list[str]()

    def come(name: str, patient: bool) -> None:
        with turns.take(patient):
            order.append(name)

    threads = [threading.Thread(target=come, args=comer) for comer in comers]
    with turns.take():
        for number, thread in enumerate(threads, start=1):
            thread.start()
            while len(turns._waiting) < number:
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    return order


def test_first_come_first_served() -> None:
    names = [str(n) for n in range(8)]
    assert served([(name, False) for name in names]) == names
    assert served([(name, True) for name in names]) == names


def test_the_patient_let_a_few_pass_and_no_more() -> None:
    lessons, others = [("a", True), ("b", True)], [(str(n), False) for n in range(PASSED + 3)]
    order = served([*lessons, *others])
    assert order[0] == "0" and order[:3] == ["0", "1", "2"]  # who came later goes first ...
    assert order.index("a") <= PASSED and order.index("b") > order.index("a")  # ... but not for ever
    assert sorted(order) == sorted(name for name, _ in [*lessons, *others])


def test_an_error_ends_the_turn() -> None:
    turns = Turns()
    with pytest.raises(RuntimeError), turns.take():
        raise RuntimeError
    assert not turns._busy and not turns._waiting
    with turns.take():
        pass
