"""Whose turn it is: a lock that keeps the order in which people came, and in which lessons wait longest."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PASSED = 4
"""How many later comers a patient one lets pass."""


class Turns:
    """One at a time, first come first served.

    A plain ``threading.Lock`` knows no order: who lets go of it and asks again at once gets it again, and two lessons
    keep everybody else waiting. Here a *patient* caller (a step of a lesson, a measurement that nobody waits for) lets
    the next `PASSED` comers go first, and no more than these, so that it is not put off for ever either.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: list[tuple[int, bool, int]] = []
        self._busy = False

    @contextmanager
    def take(self, patient: bool = False) -> Iterator[None]:
        """Wait for one's turn; it ends with the block."""
        with self._changed:
            number = next(self._numbers)
            mine = (number + (PASSED if patient else 0), patient, number)
            self._waiting.append(mine)
            try:
                self._changed.wait_for(lambda: not self._busy and min(self._waiting) == mine)
                self._busy = True
            finally:
                self._waiting.remove(mine)
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
