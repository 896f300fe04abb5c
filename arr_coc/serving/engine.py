"""What a service asks of an engine, and what it gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from allocator.logged.explore import Taken

from .policy import Policies


class Busy(RuntimeError):
    """There is no place inside.

    Attributes
    ----------
    retry_after
        Seconds after which to try again.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Answered:
    """What a model said, what it spent, and the decision behind it.

    Attributes
    ----------
    text
        The answer; None where it is still being streamed.
    budgets
        One per patch.
    tokens, full_tokens
        Visual tokens spent, and at full detail.
    taken
        The decision; None where none was made.
    price
        Reward units per full-detail image.
    version
        Of the policy.
    grid
        Rows and columns of patches, where the processor knows them.
    timings
        Seconds by stage.
    fallback
        Why no decision was made and full detail was given; empty where one was.
    """

    text: str | None
    budgets: list[int]
    tokens: int
    full_tokens: int
    taken: Taken | None
    price: float
    version: str
    grid: tuple[int, int] | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    fallback: str = ""


class Engine(Protocol):
    """Whatever answers a question under a served policy.

    Attributes
    ----------
    policies
        The policy in use, and how it is replaced.
    identity
        What the log calls the model.
    inside
        Questions that it works on or keeps waiting now.
    """

    policies: Policies
    identity: str

    @property
    def inside(self) -> int:
        """Questions that are being answered or wait for it."""
        ...

    def check(self, text: str) -> None:
        """Refuse a question that would be no words to the model, with ValueError."""

    async def answer(self, image: Image.Image, text: str) -> Answered:
        """Answer a question about a picture (RGB).

        Raises
        ------
        Busy, TimeoutError
            If there is no place, or the answer takes too long.
        ValueError
            For a picture or question that can't be used.
        """

    async def adopt(self, loaded: Any) -> None:
        """Serve what `Policies.load` returned, from the next question on."""

    async def stop(self) -> None:
        """Finish what is inside, and leave the model as it was."""
