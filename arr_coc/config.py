"""The one source of defaults, and the rule that turns a limit into tokens."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import itertools
import math
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
POLICIES = (
    "boltzmann", "epsilon_greedy", "explore_then_commit", "heuristic", "neural_linear", "neural_linucb",
    "neural_mixture", "random",
    "thompson", "ucb", "uniform",
)  # fmt: skip
"""The shipped policies that a model can be wrapped with; named here, so that a wrong name is told without torch."""
SHARES = (0.16, 0.32, 0.64, 1.0)
"""The budgets of ``"auto"``, as shares of the family's own patch."""
POSITIONS = ("auto", "keep", "compact")
_MOST_TOKENS = 1_000_000  # of a patch; a saved policy is data from elsewhere
TENSIONS = ("price", "temperature", "coverage")
SLOTS = ("free", "gated")


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of an error message: the near match if there is one, then everything known.

    Parameters
    ----------
    name
        What the user wrote.
    known
        The names that exist.

    Returns
    -------
    str
        ``"Did you mean 'price'? Known: ..."`` or ``"Known: ..."``.
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    return (f"Did you mean {close[0]!r}? " if close else "") + "Known: " + ", ".join(names) + "."


def named_fields(cls: type[T]) -> type[T]:
    """Class decorator of a dataclass: an argument that is no field is refused with the nearest one."""
    made = cls.__init__
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]

    @functools.wraps(made)
    def __init__(self: Any, *args: Any, **values: Any) -> None:
        if args:
            raise TypeError(f"{cls.__name__} takes its fields by name, as in {cls.__name__}({known[0]}=...).")
        for key in values:
            if key not in known:
                raise TypeError(f"{cls.__name__} has no field {key!r}. {nearest(key, known)}")
        made(self, **values)

    cls.__init__ = __init__  # type: ignore[method-assign]
    return cls


@named_fields
@dataclass(kw_only=True)
class ArrCocConfig:
    """Everything that can be chosen when a model is wrapped.

    Parameters
    ----------
    budgets
        Visual tokens a patch may spend, in rising order; the first is the floor that every patch gets. ``"auto"``, the
        default, takes .16, .32, .64 and 1 of the family's own patch: 64, 128, 256 and 400 where it spans 20 x 20, and
        what fits elsewhere; smaller patches at the edges get the same shares of their own size (see ``scaled``).
    scaled
        Whether budgets are those of a patch of the family's own size, so that a smaller one gets its share of them.
        Otherwise a budget buys as many tokens on every patch. ``"auto"`` sets it.
    patch_side
        Side of a full-detail patch in visual tokens (20 gives 20 x 20 = 400).
    policy
        Registered name of the policy that chooses the budgets.
    budget
        The one budget of the ``"uniform"`` policy; must be one of ``budgets``.
    limit
        Upper bound on the tokens of one question: an ``int`` counts tokens and must lie between the sum of floors and
        full detail; a ``float`` in (0, 1] is a share of full detail, and means the floors where it is less than they
        need; ``None`` sets no bound (see :func:`resolve_limit`).
    direct
        Whether a question is answered at full detail without a glance where looking can't pay: a picture of one patch,
        or one so small that glance and look would cost more than the untouched model, counted beforehand.
    picture_cache
        Bytes in which ``generate`` keeps the last pictures (features, keys and values of their glance and of the last
        looks at them), so that another question about the same pixels reads only its words; 0 keeps none, and nothing
        is kept in training.
    answer_line
        Words put behind the question for the glance alone, for instance ``"Answer with a single word or phrase."``:
        attention tells where to look only where the answer starts, and a model that first says "The picture shows"
        starts it later. What is generated never sees them. Empty by default: nothing is added.
    price
        Reward units that a full-detail image costs: an allocation is charged ``price * tokens / full_tokens``.
    scorers
        The scorers, in the order in which they enter the context vector: names, or for options mappings such as
        ``{"name": "participatory", "layers": [13, 14]}``.
    confidence
        Whether the planner also reads how sure the model is of the answer that its glance gives (a full-depth pass
        over the glance tokens instead of one that stops at the last attention read).
    detail
        Whether the detail that each budget would destroy is measured on the picture; else every patch is taken to lose
        what is typical of the budget.
    slots
        What the context vectors hold: ``"free"``, slots from which the truth can be learned where relevance or doubt
        is wrong, beside the heuristic's; or ``"gated"``, the heuristic's alone (policies saved before there were
        others). See `arr_coc.attending.contexts`.
    trust
        What a calibration says of relevance and doubt, ``{"relevance_floor": number, "doubt": knots}``; ``None`` takes
        both as they are. See `arr_coc.calibrate`.
    caution
        Standard deviations by which a learned allocation must beat the prior's, on what was learned, to be played in
        its place; 0 plays what was learned. Under the default policy less is asked the more surely all questions
        together show the prior to be wrong.
    tensions
        Which tensions of :mod:`arr_coc.balancing` act: ``"price"`` (compress or particularise), ``"temperature"``
        (exploit or explore, while learning) and ``"coverage"`` (focus or diversify). None by default: in the ablation
        (``configs/ablation.yaml``) none gained anything beyond noise.
    realizer
        How a patch is brought to its budget: ``"rescale"`` before the vision tower, ``"pool"`` or ``"select"`` after.
        ``"auto"`` rescales where the tower was made for images of any size, and pools elsewhere.
    positions
        ``"keep"`` leaves every surviving token at its original position, ``"compact"`` closes the gaps. ``"auto"``
        compacts one-dimensional models, and keeps for M-RoPE models, save where an image is one patch that is
        rescaled: that is simply a smaller image, at the positions that the model gives one.
    seed
        Seed of every random choice.

    Raises
    ------
    TypeError, ValueError
        For a value of the wrong kind or outside its range; the message names the value, the rule and the remedy.
    """

    budgets: tuple[int, ...] = ()
    scaled: bool = False
    patch_side: int = 20
    policy: str = "neural_mixture"
    budget: int | None = None
    limit: int | float | None = None
    direct: bool = True
    picture_cache: int = 0
    answer_line: str = ""
    price: float = 0.05
    scorers: tuple[str | Mapping[str, Any], ...] = ("propositional", "perspectival", "participatory")
    confidence: bool = True
    detail: bool = True
    slots: str = "free"
    trust: Mapping[str, Any] | None = None
    caution: float = 1.0
    tensions: tuple[str, ...] = ()
    realizer: str = "auto"
    positions: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        self.budgets = _budgets(self.budgets)
        self.scorers = _scorers(self.scorers)
        self.tensions = _names("tensions", self.tensions)
        for tension in self.tensions:
            if tension not in TENSIONS:
                raise ValueError(f"tensions={self.tensions!r} holds {tension!r}. {nearest(tension, TENSIONS)}")
        if not _is_int(self.patch_side) or self.patch_side < 1:
            raise ValueError(f"patch_side={self.patch_side!r} must be a positive int, for example 20.")
        for name in ("policy", "realizer", "positions"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise TypeError(f"{name}={value!r} must be a name (a non-empty string).")
        for name in ("confidence", "detail", "scaled", "direct"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}={getattr(self, name)!r} must be True or False.")
        _check_policy(self.policy)
        if self.policy == "uniform" and self.budget is None:
            raise ValueError(f"policy='uniform' needs budget=, one of {self.budgets or 'the budgets'}")
        if self.budget is not None and self.budgets and self.budget not in self.budgets:
            raise ValueError(f"budget={self.budget!r} must be one of the budgets {self.budgets}.")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r} is unknown. {nearest(self.positions, POSITIONS)}")
        if self.slots not in SLOTS:
            raise ValueError(f"slots={self.slots!r} is unknown. {nearest(self.slots, SLOTS)}")
        check_trust(self.trust)
        if not _is_real(self.caution) or not math.isfinite(self.caution) or self.caution < 0:
            raise ValueError(f"caution={self.caution!r} must be a finite number >= 0 (standard deviations).")
        if not _is_real(self.price) or not math.isfinite(self.price) or self.price < 0:
            raise ValueError(
                f"price={self.price!r} must be a finite number >= 0 (reward units per full-detail image)."
            )
        if not isinstance(self.answer_line, str):
            raise TypeError(f"answer_line={self.answer_line!r} must be text; leave it empty to add nothing.")
        if not _is_int(self.picture_cache) or self.picture_cache < 0:
            raise ValueError(f"picture_cache={self.picture_cache!r} must be a number of bytes, an int >= 0.")
        if not _is_int(self.seed) or self.seed < 0:
            raise ValueError(f"seed={self.seed!r} must be an int >= 0.")
        check_limit(self.limit)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ArrCocConfig:
        """Build a configuration from plain data, for instance a YAML or JSON file.

        Raises
        ------
        ValueError
            For a key that is not a field; the message names the nearest field.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise ValueError(f"Unknown configuration key {key!r}. {nearest(key, known)}")
        return cls(**values)

    def resolved(self, sizes: Iterable[int] | None = None) -> ArrCocConfig:
        """The configuration with its budgets in numbers.

        Parameters
        ----------
        sizes
            Tokens that a budget can buy on the family's own patch, full detail last; those of ``patch_side`` squared
            by default.

        Returns
        -------
        ArrCocConfig
            This one where it names budgets; else a copy with those nearest to `SHARES` of full detail, ``scaled``.

        Raises
        ------
        ValueError
            If ``budget`` is none of them.
        """
        if self.budgets:
            return self
        known = sorted(set(sizes or range(1, self.patch_side**2 + 1)))
        nearest_to = [min(known, key=lambda size: (abs(size - share * known[-1]), size)) for share in SHARES]
        return dataclasses.replace(self, budgets=tuple(sorted(set(nearest_to))), scaled=True)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON-able data; ``from_dict`` reads it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


def check_limit(limit: float | None) -> None:
    """Refuse a limit that could not hold for any image.

    Raises
    ------
    TypeError
        If it is neither ``int``, ``float`` nor ``None``.
    ValueError
        If an ``int`` is not positive, or a ``float`` is outside (0, 1].
    """
    if limit is None:
        return
    if not _is_real(limit):
        raise TypeError(
            f"limit={limit!r} must be an int (tokens), a float in (0, 1] (share of full detail) or None (no limit)."
        )
    if isinstance(limit, int):
        if limit < 1:
            raise ValueError(f"limit={limit} must be a positive number of tokens, or None for no limit.")
    elif not 0.0 < limit <= 1.0:
        raise ValueError(
            f"limit={limit} must be a share of full detail in (0, 1]; write an int, without a point, for tokens."
        )


def check_trust(trust: object) -> None:
    """Refuse what no calibration says of relevance and doubt.

    Raises
    ------
    ValueError
        If it is neither None nor a mapping of ``relevance_floor``, a number in [0, 1], and ``doubt``, None or two
        rising lists of as many numbers in [0, 1].
    """
    if trust is None:
        return
    if not isinstance(trust, Mapping) or not set(trust) <= {"relevance_floor", "doubt"}:
        raise ValueError(f"trust={trust!r} may hold relevance_floor and doubt; take it from a calibration.")
    floor, knots = trust.get("relevance_floor"), trust.get("doubt")
    if floor is not None and not (_is_real(floor) and 0 <= floor <= 1):
        raise ValueError(f"relevance_floor={floor!r} must be a number in [0, 1]; take it from a calibration.")
    if knots is None:
        return
    fits = isinstance(knots, list | tuple) and len(knots) == 2 and all(isinstance(k, list | tuple) for k in knots)
    if not fits or not 1 <= len(knots[0]) == len(knots[1]) or not all(_rising(numbers) for numbers in knots):
        raise ValueError(
            f"doubt={str(knots)[:80]} must be two lists of as many numbers that rise in [0, 1]; take them from a "
            "calibration."
        )


def _rising(numbers: Iterable[object]) -> bool:
    known = [number for number in numbers if isinstance(number, int | float) and _is_real(number) and 0 <= number <= 1]
    return known == list(numbers) == sorted(known)


def resolve_limit(limit: float | None, costs: torch.Tensor) -> int:
    """The limit of one question in tokens.

    Parameters
    ----------
    limit
        As in :class:`ArrCocConfig`.
    costs
        ``[N, K]`` tokens that each patch really spends at each budget, rising along K.

    Returns
    -------
    int
        Tokens; full detail when ``limit`` is ``None``. A share is rounded down, and means the floors where those
        need more.

    Raises
    ------
    ValueError
        If a number of tokens is below the sum of the floors or above full detail.

    Warns
    -----
    UserWarning
        If a share is below the floors: the floors are its answer.
    """
    check_limit(limit)
    floors, full = int(costs[:, 0].sum()), int(costs[:, -1].sum())
    if limit is None:
        return full
    tokens = limit if isinstance(limit, int) else math.floor(limit * full + 1e-9)
    if below_floors(limit, costs):
        # The same words from the same place each time, so that Python says them once.
        warnings.warn(
            f"limit={limit} is less than the floors of a picture's patches need; such a picture gets its floors, and "
            "arr.last says which did. A smaller first budget would allow less.",
            stacklevel=1,
        )
        return floors
    if tokens < floors:
        share = math.ceil(1000 * floors / full) / 1000
        patches = "1 patch needs" if costs.shape[0] == 1 else f"{costs.shape[0]} patches need"
        raise ValueError(
            f"limit={limit} allows {tokens} tokens, but {patches} {floors} at the floor; use at least {floors} "
            f"(or the share {share})."
        )
    if tokens > full:
        raise ValueError(
            f"limit={limit} is above full detail, which is {full} tokens for {costs.shape[0]} patches; "
            f"use at most {full}, a share in (0, 1], or None for no limit."
        )
    return tokens


def below_floors(limit: float | None, costs: torch.Tensor) -> bool:
    """Whether a limit is a share of full detail that the floors alone exceed; as in :func:`resolve_limit`."""
    if limit is None or isinstance(limit, int):
        return False
    return math.floor(limit * int(costs[:, -1].sum()) + 1e-9) < int(costs[:, 0].sum())


def _check_policy(name: str) -> None:
    if name in POLICIES:
        return
    # One that is not ours is known if somebody registered it, and who did has the registry loaded.
    if entry_points(group="arr_coc.plugins"):
        importlib.import_module("allocator.registry").load_installed_plugins()
    registry: Any = sys.modules.get("allocator.registry")
    others = registry.policy_names() if registry is not None else []
    feedback = registry.policy_class(name).feedback if name in others else None
    if feedback == "full":
        return
    if feedback == "semi":
        raise ValueError(
            f"policy={name!r} learns from one reward per patch, but an answer gives one for all patches; use one that "
            f"learns from the whole. {nearest('neural_mixture', POLICIES)}"
        )
    raise ValueError(
        f"policy={name!r} can't plan; a given allocation goes to generate(allocation=...). {nearest(name, POLICIES)}"
    )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _budgets(values: object) -> tuple[int, ...]:
    if values == "auto" or values == () or values == []:
        return ()
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(
            f"budgets={values!r} must be 'auto' or a sequence of positive ints, for example (64, 128, 256, 400)."
        )
    budgets = tuple(values)
    if not budgets or not all(_is_int(b) and b > 0 for b in budgets):
        raise ValueError(f"budgets={budgets!r} must be positive ints, for example (64, 128, 256, 400).")
    if any(b >= c for b, c in itertools.pairwise(budgets)):
        raise ValueError(f"budgets={budgets!r} must rise without repeats; use {tuple(sorted(set(budgets)))}.")
    if budgets[-1] > _MOST_TOKENS:
        raise ValueError(f"budgets={budgets!r} must be at most {_MOST_TOKENS:,} tokens a patch.")
    return budgets


def _names(field: str, values: object) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{field}={values!r} must be a sequence of names, for example ({values!r},).")
    names = tuple(values)
    if not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"{field}={names!r} must hold names only.")
    if len(set(names)) != len(names):
        raise ValueError(f"{field}={names!r} names one twice; name each once.")
    return names


def _scorers(values: object) -> tuple[str | Mapping[str, Any], ...]:
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"scorers={values!r} must be a sequence of names or mappings, for example ({values!r},).")
    entries = tuple(values)
    for entry in entries:
        if isinstance(entry, Mapping) and not isinstance(entry.get("name"), str):
            raise ValueError(
                f"scorers={entries!r} holds {entry!r}; a scorer with options needs its name among them, for example "
                "{'name': 'participatory', 'layers': [-1]}."
            )
    _names("scorers", tuple(entry["name"] if isinstance(entry, Mapping) else entry for entry in entries))
    return entries
