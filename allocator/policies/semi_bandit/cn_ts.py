"""CN-TS: combinatorial neural Thompson sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...checks import FloatArray, count
from ...registry import register_policy
from .cn_ucb import CNUCB


@register_policy("cn_ts")
@dataclass(kw_only=True, eq=False)
class CNTS(CNUCB):
    """Hwang, Chai & Oh 2023, algorithm 2: the largest of M draws N(f, nu^2 lambda s^2) per base arm, then the oracle.

    Keeping the best of M draws makes the scores optimistic with constant probability for a whole super-arm at once.
    The standard deviation is nu sqrt(lambda) s (not its square), lambda being the `ridge`.

    Parameters
    ----------
    samples : int
        M.
    **options
        See `CNUCB`.
    """

    randomised: ClassVar[bool] = True

    samples: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        count("samples", self.samples)

    def _explore(self, mean: FloatArray, deviation: FloatArray) -> FloatArray:
        best = self.generator.standard_normal((self.samples, *mean.shape)).max(axis=0)
        return mean + self.ridge**0.5 * deviation * best
