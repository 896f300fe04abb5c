"""A test for drift of a stream of rewards."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import number


@dataclass
class PageHinkley:
    """One-sided Page-Hinkley test (Page 1954): has the mean of a stream fallen?

    Learning raises rewards, so only a fall is drift. Alarmed when the sum of (mean - value - slack) has risen by more
    than the threshold since its lowest point.

    A stationary stream of standard deviation s is alarmed falsely once in about (exp(2 k h) - 2 k h - 1) / (2 k^2)
    values, k = slack / s, h = threshold / s + 1.17 (Siegmund 1985). A fall by f is seen after about
    threshold / (f - slack) values.

    Parameters
    ----------
    threshold
        Accumulated fall that raises the alarm, in units of the stream.
    slack
        Fall per value that is forgiven.
    rounds, mean, statistic
        Its state: values since the last alarm, their mean, and the fall accumulated.

    Raises
    ------
    ValueError
        If the threshold is not positive, or the slack negative.
    """

    threshold: float
    slack: float
    rounds: int = 0
    mean: float = 0.0
    statistic: float = 0.0

    def __post_init__(self) -> None:
        number("slack", self.slack, low=0.0)
        if number("threshold", self.threshold) <= 0:
            raise ValueError(f"threshold must be positive, got {self.threshold}")

    def update(self, value: float) -> bool:
        """Take the next value; True on an alarm, after which the test starts anew."""
        self.rounds += 1
        self.mean += (value - self.mean) / self.rounds
        self.statistic = max(0.0, self.statistic + self.mean - value - self.slack)
        if self.statistic <= self.threshold:
            return False
        self.rounds, self.mean, self.statistic = 0, 0.0, 0.0
        return True
