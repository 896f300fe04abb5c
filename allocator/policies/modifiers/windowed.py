"""Sliding window and drift detection around any method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...checks import FloatArray, count, floats, number
from ...decision import Decision
from ...registry import register_policy
from ...trackers.drift import PageHinkley
from .base import Wrapped


@register_policy("windowed")
@dataclass(kw_only=True, eq=False)
class Windowed(Wrapped):
    """Learn from the most recent rewards only, and start over when the reward drops for good.

    The inner policy is rebuilt from the window whenever an old reward leaves it, so there is no downdate and no
    rounding left behind (SW-LinUCB: Cheung, Simchi-Levi & Zhu 2019). A Page-Hinkley test on the rewards
    (`allocator.trackers.drift`) empties the window when their mean has fallen. Smooth discounting is an option of
    the linear methods themselves (`forgetting`).

    By the formula there, rewards that do not drift are alarmed falsely once in about 10^5 of them at a standard
    deviation of .05 with drift .6 and slack .02, but once in 10 of 0/1 rewards with drift 1; those take drift 8 and
    slack .1 (10^4).

    Parameters
    ----------
    window : int
        Rewards remembered.
    drift : float, optional
        Threshold of the test in reward units: the accumulated shortfall that means drift. None: no test.
    slack : float
        Shortfall per round that the test forgives.
    keep : int
        Rewards kept at an alarm, the newest ones.
    **options
        See `Wrapped`.

    Attributes
    ----------
    alarms : int
        Drifts detected.
    """

    window: int = 500
    drift: float | None = None
    slack: float = 0.02
    keep: int = 5
    alarms: int = field(init=False, default=0)
    recent: list[tuple[Decision, FloatArray]] = field(init=False, repr=False)
    test: PageHinkley | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        count("window", self.window)
        count("keep", self.keep, low=0)
        number("slack", self.slack, low=0.0)
        if self.drift is not None:
            if number("drift", self.drift) <= 0:
                raise ValueError(f"drift must be positive, got {self.drift}")
            self.test = PageHinkley(self.drift, self.slack)
        self.recent = []

    def _learn(self, decisions: Sequence[Decision], rewards: list[FloatArray]) -> None:
        for decision, reward in zip(decisions, rewards, strict=True):
            self.recent.append((decision, reward))
            alarm = self.test is not None and self.test.update(float(reward.mean()))
            self.alarms += alarm
            if alarm or len(self.recent) > self.window:
                kept = self.keep if alarm else self.window
                self.recent = self.recent[len(self.recent) - min(kept, len(self.recent)) :]
                generator = self.policy.generator
                self.policy = self._build(self.inner, self.inner_options)
                self.policy.generator = generator
                self.policy.update_many([d for d, _ in self.recent], [r for _, r in self.recent])
            else:
                self.policy.update(decision, reward)

    def _extra(self) -> dict[str, Any]:
        recent = [[decision.to_dict(), reward.tolist()] for decision, reward in self.recent]
        test = None if self.test is None else [self.test.rounds, self.test.mean, self.test.statistic]
        return super()._extra() | {"alarms": self.alarms, "test": test, "recent": recent}

    def _load_extra(self, extra: dict[str, Any]) -> None:
        if not {"alarms", "test", "recent"} <= set(extra):
            raise ValueError(f"state of policy {self.name!r} needs alarms, test and recent, got {sorted(extra)}")
        recent = [
            (Decision.from_dict(decision), floats("reward", reward, (None,) * (self.feedback == "semi")))
            for decision, reward in extra["recent"]
        ]
        super()._load_extra({name: extra[name] for name in extra if name not in ("alarms", "test", "recent")})
        self.recent, self.alarms = recent, int(extra["alarms"])
        if self.drift is not None:
            rounds, mean, statistic = extra["test"]
            self.test = PageHinkley(self.drift, self.slack, int(rounds), float(mean), float(statistic))
