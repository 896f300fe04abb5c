"""The engine: a wrapped model that answers batches, and whose policy can be replaced between two of them."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from allocator.logged.explore import Exploration, Explorer, Taken

from ..asking.ask import answers, prepare
from ..asking.models import model_identity
from ..attending.planners import PolicyPlanner
from ..wrapping.question import check_question
from ..wrapping.saving import load_planner
from .store import Served, resolve

if TYPE_CHECKING:
    from ..wrapping.record import Allocation

_FIXED = ("budgets", "patch_side", "realizer", "positions")
"""What the attachment to the model depends on, so that a reload may not change it."""


@dataclass(frozen=True)
class Question:
    """A picture (RGB) with a question, and when it came in (`time.perf_counter`)."""

    image: Image.Image
    text: str
    came: float


@dataclass(frozen=True)
class Answered:
    """What the model said, what it spent, and the decision behind it.

    Attributes
    ----------
    text
        The answer.
    allocation
        The wrapper's record.
    grid
        Rows and columns of patches, where the processor knows them.
    taken
        The decision.
    price
        Reward units per full-detail image.
    version
        Of the policy.
    waited
        Seconds between arrival and the batch's beginning.
    batch
        Questions in the batch.
    """

    text: str
    allocation: Allocation
    grid: tuple[int, int] | None
    taken: Taken
    price: float
    version: str
    waited: float
    batch: int


class Engine:
    """A model under a served policy.

    Parameters
    ----------
    model, processor
        As of :func:`arr_coc.wrap`.
    source
        Folder of a saved policy, or of a store of versions, whose current one is served.
    exploration
        See `allocator.logged.explore`.
    max_new_tokens
        Longest answer.
    allow
        As of :func:`arr_coc.wrapping.saving.load_planner`.

    Raises
    ------
    ValueError
        If there is no policy, or it can't be served or does not fit the model.
    """

    def __init__(
        self, model: Any, processor: Any, source: Path, exploration: Exploration, max_new_tokens: int | None = None,
        allow: Collection[str] = (),
    ) -> None:  # fmt: skip
        from ..wrapping.wrapper import wrap

        self.processor, self.source, self.exploration, self.allow = processor, source, exploration, allow
        self.lengths = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
        self.served = resolve(source)
        config, planner = load_planner(self.served.folder, model, processor, allow=allow)
        self._planner, self._explorer = self._prepare(planner)
        self.arr = wrap(model, processor, config, self._planner)
        self.identity = model_identity(model)

    def _prepare(self, planner: Any) -> tuple[PolicyPlanner, Explorer]:
        if not isinstance(planner, PolicyPlanner):
            raise ValueError(f"{self.source} holds no learned policy, so there is nothing to serve; see arr-coc learn")
        explorer = Explorer(planner.policy, self.exploration)
        budgets = planner.config.budgets
        explorer.rehearse(budgets, planner.price / (6 * budgets[-1]))
        served: Any = planner
        served.policy, served.explore = explorer, True  # the explorer stands where the planner expects its policy
        return planner, explorer

    @property
    def price(self) -> float:
        """Reward units per full-detail image."""
        return self._planner.price

    def check(self, text: str) -> None:
        """Refuse a question that would be no words to the model.

        Raises
        ------
        ValueError
            If it is empty, or spells one of the model's control tokens.
        """
        check_question(self.processor, text)

    def answer(self, batch: Sequence[Question]) -> list[Answered | Exception]:
        """Answer a batch in one generate call; a question that can't be answered gets its own error."""
        began = time.perf_counter()
        self._explorer.taken.clear()
        try:
            model = self.arr.model
            inputs = prepare(self.processor, [q.image for q in batch], [q.text for q in batch]).to(model.device)
            with torch.no_grad():
                sequences = model.generate(**inputs, do_sample=False, **self.lengths)
        except (ValueError, TypeError, IndexError) as error:
            if len(batch) == 1:
                return [ValueError(str(error))]
            # One of them is to blame; only alone can each be judged.
            return [self.answer([question])[0] for question in batch]
        texts = answers(self.processor, inputs["input_ids"], sequences)
        grid = getattr(self.processor, "patch_grid", None)
        return [
            Answered(
                text, allocation, tuple(grid(q.image)) if grid else None, taken, self.price, self.served.version,
                began - q.came, len(batch),
            )
            for q, text, allocation, taken in zip(batch, texts, self.arr.last, self._explorer.taken, strict=True)
        ]  # fmt: skip

    def load(self) -> tuple[Served, Any]:
        """Read the policy that should be served now; any thread may do it, nothing changes yet.

        Raises
        ------
        ValueError
            If it can't be served by this attachment.
        """
        served = resolve(self.source)
        config, planner = load_planner(served.folder, self.arr.model, self.processor, allow=self.allow)
        for name in _FIXED:
            mine, theirs = getattr(self.arr.config, name), getattr(config, name)
            if mine != theirs:
                raise ValueError(f"version {served.version} has {name}={theirs!r}, not {mine!r}: start a new server")
        return served, self._prepare(planner)

    def swap(self, loaded: tuple[Served, Any]) -> None:
        """Serve what `load` returned; called between two batches."""
        self.served, (self._planner, self._explorer) = loaded
        self.arr.planner = self._planner

    def close(self) -> None:
        """Leave the model as it was."""
        self.arr.detach()
