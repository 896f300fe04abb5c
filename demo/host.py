"""The model behind the demo: one instance, one question at a time, nothing kept between questions."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from arr_coc import reference
from arr_coc.asking.ask import ask, seen_pixels
from arr_coc.asking.models import REFERENCE, load_vlm, wrap_with
from arr_coc.attending.planners import PolicyPlanner, wrappable_policies
from arr_coc.config import nearest
from arr_coc.drawing import Box, draw_seen, patch_boxes, seen_grids, spread_views
from arr_coc.learning.runs import describe
from arr_coc.realizing import make_realizer

from .explain import Explanation, explain
from .study import StudyPlanner

if TYPE_CHECKING:
    from allocator import Decision
    from arr_coc.wrapping.record import Allocation
    from arr_coc.wrapping.wrapper import ArrCoc

LEARNED = "learned"
LONGEST_QUESTION = 500
MAX_NEW_TOKENS = 24
KEPT_SIDE = 1600
"""Pictures are scaled down to this side before anything else: the page can't show more, and the memory is shared."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one question is to be answered.

    Attributes
    ----------
    policy
        ``"learned"``, the name of a policy, or "uniform-64" and the like.
    price
        Reward units that a full-detail image costs; the policy's own by default.
    limit
        Share of full detail that may be spent at most.
    realizer
        How a patch is brought to its budget; "auto" leaves it to the model's family.
    budgets
        Budgets that may be chosen; all by default.
    """

    policy: str = LEARNED
    price: float | None = None
    limit: float | None = None
    realizer: str = "auto"
    budgets: tuple[int, ...] = ()


@dataclass
class Shown:
    """One question, answered: plain data that outlives the call.

    Attributes
    ----------
    image
        The picture; of a model that is given several views of it (tiles), all of them on one sheet.
    question, answer, allocation, grid
        As in `arr_coc.asking.ask.Asked`.
    settings
        How it was asked.
    explanation
        Why each patch got its budget.
    boxes
        Where the patches lie in the image.
    seen
        The picture at the resolution that each patch was given.
    seconds
        Of the whole call.
    decision
        The policy's, for learning from it.
    """

    image: Image.Image
    question: str
    answer: str
    allocation: Allocation
    grid: tuple[int, int] | None
    settings: Settings
    explanation: Explanation
    boxes: list[Box]
    seen: Image.Image
    seconds: float
    decision: Decision | None = field(default=None, repr=False)

    def record(self) -> dict[str, Any]:
        """The evaluator's record of this answer."""
        return {"answer": self.answer, "policy": self.settings.policy, "grid": self.grid, **self.allocation.to_dict()}


class Host:
    """Holds the model and answers.

    Every call wraps the model anew, under a lock, and leaves it as it was: two visitors can't meet in `arr.last`, and
    what one of them chooses changes nothing for the other. Saved policies are read from disk and never written.

    Parameters
    ----------
    model
        "reference", a local folder or a hub name.
    policy
        Folder of a learned policy; for the reference model the one that ships with it.
    device
        As of `arr_coc.asking.models.load_vlm`.

    Raises
    ------
    ValueError
        If the model or the policy can't be loaded.
    """

    def __init__(self, model: str = REFERENCE, policy: str | None = None, device: str | None = None) -> None:
        self.name, self.is_reference = model, model == REFERENCE
        self.folder = str(reference.policy_path()) if policy is None and self.is_reference else policy
        self.model, self.processor = load_vlm(model, device=device)
        self._lock = threading.Lock()
        with self.wrapped({"policy": self.folder} if self.folder else {}) as arr:
            self.budgets, self.price = (
                tuple(arr.config.budgets),
                float(getattr(arr.planner, "price", arr.config.price)),
            )
            self.tensions = tuple(arr.config.tensions)
            self._realizers = ["auto"] + [name for name in describe()["realizers"] if _fits(name, arr.family)]

    @property
    def default_policy(self) -> str:
        """The learned policy if there is one, else the heuristic that it would start from."""
        return LEARNED if self.folder else "heuristic"

    def policies(self) -> list[str]:
        """What `Settings.policy` may name."""
        looking = [name for name in wrappable_policies() if name not in ("uniform", "random", "heuristic")]
        uniform = [f"uniform-{budget}" for budget in self.budgets]
        return [*([LEARNED] if self.folder else []), "heuristic", *uniform[::-1], "random", *looking]

    def realizers(self) -> list[str]:
        """What `Settings.realizer` may name."""
        return self._realizers

    @contextmanager
    def wrapped(self, given: dict[str, Any]) -> Iterator[ArrCoc]:
        """The model, wrapped for one caller alone.

        Parameters
        ----------
        given
            As of `arr_coc.asking.models.wrap_with`.
        """
        with self._lock, wrap_with(self.model, self.processor, given) as arr:
            yield arr

    def given(self, settings: Settings) -> dict[str, Any]:
        """Configuration values of some settings.

        Raises
        ------
        ValueError
            If the policy is unknown.
        """
        if settings.policy not in self.policies():
            raise ValueError(
                f"policy {settings.policy!r} is unknown here. {nearest(settings.policy, self.policies())}"
            )
        given: dict[str, Any] = {"realizer": settings.realizer}
        if settings.limit is not None:
            given["limit"] = float(settings.limit)
        if settings.price is not None:
            given["price"] = float(settings.price)
        name, _, budget = settings.policy.partition("-")
        if settings.policy == LEARNED:
            given["policy"] = self.folder
        elif name == "uniform":
            given |= {"policy": name, "budget": int(budget)}
        else:
            given["policy"] = settings.policy
        if settings.policy != LEARNED:
            given["budgets"] = self.budgets
        if settings.budgets and name == "uniform" and int(budget) not in settings.budgets:
            raise ValueError(f"policy {settings.policy!r} needs the budget {budget}, which is not allowed; allow it")
        if settings.budgets and name == "random":
            given["budgets"] = settings.budgets
        return given

    def ask(
        self,
        image: Image.Image,
        question: str,
        settings: Settings | None = None,
        *,
        off: Collection[str] = (),
        tensions: Collection[str] | None = None,
        state: dict[str, Any] | None = None,
        explore: bool = False,
    ) -> Shown:
        """Answer one question about one picture.

        Parameters
        ----------
        image, question
            What to ask about, and what.
        settings
            How.
        off, tensions
            As of `StudyPlanner`.
        state
            State of a private copy of the policy, to choose with that.
        explore
            Whether the policy explores.

        Raises
        ------
        ValueError
            For an empty or endless question, settings that don't fit together or a limit that can't be kept.
        """
        settings = settings or Settings(policy=self.default_policy)
        if len(question) > LONGEST_QUESTION:
            raise ValueError(f"the question has {len(question):,} letters; at most {LONGEST_QUESTION} are read")
        image = _kept(image)
        began = time.perf_counter()
        with self.wrapped(self.given(settings)) as arr:
            planner = arr.planner
            if isinstance(planner, PolicyPlanner):
                if state is not None:
                    planner.policy.load_state_dict(state)
                planner.explore = explore
                arr.planner = StudyPlanner(planner, off, tensions, settings.budgets or None)
            asked = ask(arr, image, question, MAX_NEW_TOKENS)
            explanation = explain(asked, arr.planner, arr.config.budgets)
            if asked.several_views:
                image, boxes = spread_views(seen_pixels(arr, asked), asked.allocation.patches)
                seen = draw_seen(image, boxes, seen_grids(asked.allocation), _side(boxes, asked.allocation))
            else:
                boxes = patch_boxes(image.size, asked.allocation.patches, asked.grid)
                seen = self._seen(image, asked.allocation, asked.grid)
        return Shown(
            image, question, asked.answer, asked.allocation, asked.grid, settings, explanation, boxes, seen,
            time.perf_counter() - began, asked.plan.decision,
        )  # fmt: skip

    def _seen(self, image: Image.Image, allocation: Allocation, grid: tuple[int, int] | None) -> Image.Image:
        """The picture as the processor resized it, each patch at the resolution that its budget bought."""
        vision = self.model.config.vision_config
        cell = int(vision.patch_size) * int(getattr(vision, "spatial_merge_size", 1))
        patches = allocation.patches
        if grid is not None:
            rows, columns = (
                side * size for side, size in zip(grid, (patches[0].height, patches[0].width), strict=True)
            )
        else:
            rows, columns = max(p.bottom for p in patches), max(p.right for p in patches)
        size = (columns * cell, rows * cell)
        resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        return draw_seen(resized, patch_boxes(size, patches, grid), seen_grids(allocation), cell)


def _side(boxes: list[Box], allocation: Allocation) -> int:
    """Pixels along one side of a visual token on a sheet of views."""
    left, _, right, _ = boxes[0]
    return max(1, round((right - left) / allocation.patches[0].width))


def _kept(image: Image.Image) -> Image.Image:
    image = image.convert("RGB")
    if max(image.size) > KEPT_SIDE:
        scale = KEPT_SIDE / max(image.size)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    return image


def _fits(realizer: str, family: Any) -> bool:
    try:
        make_realizer(realizer).check(family)
    except (ValueError, TypeError, NotImplementedError):
        return False
    return True
