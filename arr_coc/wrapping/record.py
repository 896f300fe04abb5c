"""What one question was given and what it took: plain data that says, draws and saves itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from allocator.decision import plain

from ..scene.patches import Patch

if TYPE_CHECKING:
    from PIL import Image

LOOKING = ("glance", "read", "knowing", "balancing", "attending")
"""The stages of `Allocation.timings` that an untouched model does not have."""


@dataclass(repr=False)
class Allocation:
    """The record of one question; plain data that outlives the call.

    Attributes
    ----------
    question
        The question in words.
    patches
        N patches.
    budgets
        N nominal budgets.
    realised
        N tokens really spent.
    tokens, full_tokens
        Their sum, and the sum at full detail.
    newlines
        Newline features that the model sees beside these tokens (any-resolution layouts); they are not budgeted.
    scores
        Per scorer N numbers.
    tension
        What balancing set.
    decision
        Summary of the policy's decision (policy, spent, propensity), empty where there was none.
    timings
        Seconds by stage, no second in two of them: glance, read (the language model's pass over it), knowing,
        balancing, attending, encode, splice, generate; and after ``generate`` the total. ``encode``, ``splice``,
        ``generate`` and ``total`` are those of the whole call, shared by all questions of the batch.
    way
        How the question was answered: "glance" (by the glance: nothing was raised), "look" (glance, then look),
        "direct" (at full detail, as looking could not pay), "blind" (by a planner that looks at nothing), "given" (by
        the caller's allocation), or "" where there was no image.
    why
        What led to it, in words, where there is something to say: why no glance was taken, or that a limit was below
        the floors.
    shared
        Tokens of the prompt, words and images, that were taken over from the glance instead of being read again.
    """

    question: str
    patches: list[Patch]
    budgets: list[int]
    realised: list[int]
    tokens: int
    full_tokens: int
    scores: dict[str, list[float]] = field(default_factory=dict)
    tension: dict[str, float] = field(default_factory=dict)
    decision: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    newlines: int = 0
    way: str = ""
    why: str = ""
    shared: int = 0

    def __repr__(self) -> str:
        return f"<Allocation: {self.summary()}>"

    def summary(self) -> str:
        """What was spent, in one line: "448 of 1,230 visual tokens, 36 %; 0.61 s, of which looking 0.12"."""
        share = 100 * self.tokens / self.full_tokens if self.full_tokens else 0.0
        said = f"{self.tokens:,} of {self.full_tokens:,} visual tokens, {share:.0f} %"
        if "total" not in self.timings:
            return said
        looking = sum(self.timings.get(stage, 0.0) for stage in LOOKING)
        return f"{said}; {self.timings['total']:.2f} s, of which looking {looking:.2f}"

    def plot(
        self, image: Image.Image | None = None, *, grid: tuple[int, int] | None = None, answer: str | None = None
    ) -> Image.Image:
        """A picture of the budgets; a notebook shows it, ``.save("overlay.png")`` keeps it.

        Parameters
        ----------
        image
            The picture that was asked about, which this record does not hold; a blank page by default.
        grid
            Rows and columns where every patch is an image entry of its own, as with the reference processor.
        answer
            For the caption.

        Raises
        ------
        ValueError
            For an image where the model was given several views of it: use :meth:`arr_coc.asking.ask.Asked.plot`.
        """
        from ..drawing import draw_allocation, draw_plain

        if image is None:
            return draw_plain(self, grid, answer)
        return draw_allocation(image, self, grid, answer)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-able data (not-a-number becomes ``None``)."""
        data: dict[str, Any] = plain(asdict(self), finite=True)
        return data


@dataclass(repr=False, kw_only=True)
class Answered:
    """One answered question: what every way of asking keeps, and what each extends by what it needs besides.

    Attributes
    ----------
    answer
        The model's words.
    allocation
        What it was given and what it took; the question is in it.
    grid
        Rows and columns of patches, where every patch is an image entry of its own; else ``None``.
    """

    answer: str
    allocation: Allocation
    grid: tuple[int, int] | None = None

    @property
    def question(self) -> str:
        """The question in words."""
        return self.allocation.question

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.answer!r}, {self.allocation.summary()}>"

    def to_dict(self) -> dict[str, Any]:
        """Answer, grid and the allocation's record as JSON-able data."""
        return {"answer": self.answer, "grid": self.grid, **self.allocation.to_dict()}
