"""A model behind the demo: one instance, one question at a time, nothing kept between questions."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from arr_coc import reference
from arr_coc.asking.ask import ask, seen_pixels
from arr_coc.asking.models import FREE, REFERENCE, is_saved_policy, load_vlm, wrap_with
from arr_coc.attending.planners import PolicyPlanner, wrappable_policies
from arr_coc.config import nearest
from arr_coc.drawing import Box, draw_seen, patch_boxes, seen_grids, spread_views
from arr_coc.learning.runs import describe
from arr_coc.realizing import make_realizer

from .explain import Explanation, explain
from .gallery import PAGES, SIGNS, Entry, gallery
from .study import StudyPlanner
from .turns import Turns

if TYPE_CHECKING:
    from allocator import Decision
    from arr_coc.wrapping.record import Allocation
    from arr_coc.wrapping.wrapper import ArrCoc

LEARNED, TAUGHT = "learned", "taught"
"""The saved policy of a model, and a visitor's own copy of it."""
LONGEST_QUESTION = 500
MAX_NEW_TOKENS = 24
KEPT_PIXELS = 1600 * 1600
"""Pictures are scaled down to this area before anything else: the memory is shared."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one question is to be answered.

    Attributes
    ----------
    policy
        ``"learned"``, ``"taught"``, the name of a policy, or "uniform-64" and the like.
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


@dataclass(frozen=True)
class Taught:
    """A visitor's own copy of a policy.

    Attributes
    ----------
    start
        The policy of `Settings` that it started from.
    price
        Reward units that a full-detail image costs, as it was taught.
    state
        Of the policy.
    """

    start: str
    price: float
    state: dict[str, Any] = field(repr=False)


@dataclass
class Answered:
    """One question, answered: plain data that outlives the call.

    Attributes
    ----------
    source
        The picture as it was given.
    image
        The picture as it is drawn; of a model that is given several views of it (tiles), all of them on one sheet.
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
        From question and picture to the answer's words; neither waiting for one's turn nor drawing is in it.
    decision
        The policy's, for learning from it.
    """

    source: Image.Image
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
    base
        Configuration values that hold where a visitor chose none; of a saved policy those of `FREE` alone.

    Raises
    ------
    ValueError
        If the model or the policy can't be loaded.
    """

    def __init__(
        self,
        model: str = REFERENCE,
        policy: str | None = None,
        device: str | None = None,
        base: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.is_reference = model, model == REFERENCE
        self.base = dict(base or {})
        self.folder = str(reference.policy_path()) if policy is None and self.is_reference else policy
        self.model, self.processor = load_vlm(model, device=device)
        self.world = {REFERENCE: SIGNS, PAGES: PAGES}.get(model)
        self.pictures: list[Entry] = gallery(self.world)
        self._turns = Turns()
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
        return [*([LEARNED] if self.folder else []), TAUGHT, "heuristic", *uniform[::-1], "random", *looking]

    def realizers(self) -> list[str]:
        """What `Settings.realizer` may name."""
        return self._realizers

    @contextmanager
    def wrapped(self, given: dict[str, Any], patient: bool = False) -> Iterator[ArrCoc]:
        """The model, wrapped for one caller alone.

        Parameters
        ----------
        given
            As of `arr_coc.asking.models.wrap_with`.
        patient
            Whether others may go first, see `demo.turns.Turns`.
        """
        base = {k: v for k, v in self.base.items() if k in FREE or not is_saved_policy(given.get("policy"))}
        with self._turns.take(patient), wrap_with(self.model, self.processor, {**base, **given}) as arr:
            yield arr

    def full(self, settings: Settings) -> Settings:
        """The same terms at full detail, where nothing is chosen and nothing limited."""
        return replace(settings, policy=f"uniform-{self.budgets[-1]}", price=None, limit=None, budgets=())

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
        taught: Taught | None = None,
        explore: bool = False,
        patient: bool = False,
    ) -> Answered:
        """Answer one question about one picture.

        Parameters
        ----------
        image, question
            What to ask about, and what.
        settings
            How.
        off, tensions
            As of `StudyPlanner`.
        taught
            Whom the policy "taught" stands for.
        explore
            Whether the policy explores.
        patient
            As of `wrapped`.

        Raises
        ------
        ValueError
            For an empty or endless question, settings that don't fit together or a limit that can't be kept.
        """
        settings = settings or Settings(policy=self.default_policy)
        if len(question) > LONGEST_QUESTION:
            raise ValueError(f"the question has {len(question):,} letters; at most {LONGEST_QUESTION} are read")
        source, image = image, _kept(image)
        with self.wrapped(self.given(_concrete(settings, taught)), patient) as arr:
            planner = arr.planner
            if isinstance(planner, PolicyPlanner):
                if settings.policy == TAUGHT and taught is not None:
                    planner.policy.load_state_dict(taught.state)
                planner.explore = explore
                arr.planner = StudyPlanner(planner, off, tensions, settings.budgets or None)
            began = time.perf_counter()
            asked = ask(arr, image, question, MAX_NEW_TOKENS)
            seconds = time.perf_counter() - began
            explanation = explain(asked, arr.planner, arr.config.budgets)
            if asked.several_views:
                image, boxes = spread_views(seen_pixels(arr, asked), asked.allocation.patches)
                seen = draw_seen(image, boxes, seen_grids(asked.allocation), _side(boxes, asked.allocation))
            else:
                boxes = patch_boxes(image.size, asked.allocation.patches, asked.grid)
                seen = self._seen(image, asked.allocation, asked.grid)
        return Answered(
            source, image, question, asked.answer, asked.allocation, asked.grid, settings, explanation, boxes, seen,
            seconds, asked.plan.decision,
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


def _concrete(settings: Settings, taught: Taught | None) -> Settings:
    """Settings that name a policy of the library.

    Raises
    ------
    ValueError
        If nothing was taught yet.
    """
    if settings.policy != TAUGHT:
        return settings
    if taught is None:
        raise ValueError("your own copy has learned nothing yet; teach it on the Learning tab first")
    return replace(settings, policy=taught.start, price=taught.price if settings.price is None else settings.price)


def _kept(image: Image.Image) -> Image.Image:
    image = image.convert("RGB")
    if image.width * image.height > KEPT_PIXELS:
        scale = math.sqrt(KEPT_PIXELS / (image.width * image.height))
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    return image


def _fits(realizer: str, family: Any) -> bool:
    try:
        make_realizer(realizer).check(family)
    except (ValueError, TypeError, NotImplementedError):
        return False
    return True
