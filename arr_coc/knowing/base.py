"""The contract of a scorer and the registry."""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from allocator.registry import load_installed_plugins

from ..config import nearest

if TYPE_CHECKING:
    from ..scene.contract import Scene

Factory = Callable[..., "Scorer"]

# Built-in scorers are named, not imported: a scorer nobody asks for costs nothing.
_BUILT_IN = {
    "propositional": "propositional:Propositional",
    "perspectival": "perspectival:Perspectival",
    "participatory": "participatory:Participatory",
}
_registered: dict[str, Factory] = {}


class Scorer(ABC):
    """One way of knowing: a scene of N patches goes in, N scores in [0, 1] come out.

    A subclass writes :meth:`score` and nothing else. It sees one question at a time, so another image in the batch
    can't change a bit of its result.

    Attributes
    ----------
    name
        What the score is called in logs and context vectors.
    needs
        What the scene must hold: a subset of {"pixels", "glance"}.
    reads_question
        Whether the scores say where *this question* looks. Such a scorer has the role of relevance: the value of
        detail is a multiple of it (see `arr_coc.knowing.relevance`). The others describe patches whatever is asked.
    more_readings
        Names of what `readings` returns beside the score; none by default.
    """

    name: str = "scorer"
    needs: frozenset[str] = frozenset()
    reads_question: bool = False
    more_readings: tuple[str, ...] = ()

    @abstractmethod
    def score(self, scene: Scene) -> Tensor:
        """``[N]`` scores in [0, 1]."""

    def readings(self, scene: Scene) -> dict[str, Tensor]:
        """Other readings of where to look that this scorer has to offer, by name, each ``[N]`` and not negative."""
        return {}

    @torch.no_grad()
    def __call__(self, scene: Scene) -> Tensor:
        """Score one scene and hold the scorer to the contract.

        Returns
        -------
        Tensor
            ``[N]`` float32 in [0, 1], on the device on which the scorer worked.

        Raises
        ------
        ValueError
            If the result has another shape, is not finite or leaves [0, 1], or the scene lacks what is needed.
        """
        scores = self.score(scene).float()
        expected = (len(scene.patches),)
        if tuple(scores.shape) != expected:
            raise ValueError(
                f"Scorer {self.name!r} returned shape {tuple(scores.shape)} for {expected[0]} patches; "
                f"score(scene) must return one number per patch, shape {expected}."
            )
        # One comparison covers both rules: a NaN is inside no interval.
        if not bool(((scores >= -1e-6) & (scores <= 1 + 1e-6)).all()):
            raise ValueError(
                f"Scorer {self.name!r} returned {scores.tolist()}; scores must be finite and lie in [0, 1]. "
                "Calibrate them per image, for instance with x / (x + constant)."
            )
        return scores.clamp(0.0, 1.0)

    def cell_map(self, scene: Scene) -> list[Tensor]:
        """Where inside of its patches a score comes from: per patch ``[g_i]`` numbers >= 0 in the raster order of its
        glance grid. By default each patch's score is spread evenly over its cells."""
        return spread(self(scene), scene)


def spread(scores: Tensor, scene: Scene) -> list[Tensor]:
    """Scores ``[N]`` spread evenly over the glance cells of each patch: N tensors ``[g_i]``."""
    sizes = [rows * columns for rows, columns in scene.glance_grids]
    return [score.expand(size) / size for score, size in zip(scores, sizes, strict=True)]


def register_scorer(name: str, factory: Factory) -> None:
    """Make a scorer known by name; one call, for instance ``register_scorer("mine", MyScorer)``.

    Parameters
    ----------
    name
        The name used in ``ArrCocConfig(scorers=...)`` and :func:`make_scorer`.
    factory
        A :class:`Scorer` class, or anything that returns a :class:`Scorer` when called with the scorer's options.

    Raises
    ------
    TypeError
        If the name is not a non-empty string or the factory can't be called.
    ValueError
        If the name is taken by something else.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"name={name!r} must be a non-empty string, for example 'mine'.")
    if not callable(factory):
        raise TypeError(f"factory={factory!r} must be a Scorer class or a function that returns a Scorer.")
    if name in _BUILT_IN or _registered.get(name, factory) is not factory:
        raise ValueError(f"A scorer named {name!r} exists already; register yours under another name.")
    _registered[name] = factory


def scorer_names() -> tuple[str, ...]:
    """Names of all scorers that :func:`make_scorer` knows, sorted."""
    return tuple(sorted({**_BUILT_IN, **_registered}))


def make_scorer(name: str | Mapping[str, Any], **options: Any) -> Scorer:
    """Build a scorer by name.

    Parameters
    ----------
    name
        One of :func:`scorer_names`; ``"name:variant"`` is short for the option ``variant``. Or a mapping with the key
        ``name`` and options, as in a configuration.
    options
        The scorer's own options, for instance ``make_scorer("participatory", variant="embedding")``.

    Raises
    ------
    ValueError
        For an unknown name or option; the message names the near match.
    TypeError
        If a registered factory returns something that is not a :class:`Scorer`.
    """
    if not isinstance(name, str):
        options = {**{key: value for key, value in name.items() if key != "name"}, **options}
        name = str(name["name"])
    if name.split(":")[0] not in {**_BUILT_IN, **_registered}:
        load_installed_plugins()
    if ":" in name and name not in _registered:
        name, options["variant"] = name.split(":", 1)
    if name in _BUILT_IN:
        module, cls = _BUILT_IN[name].split(":")
        factory: Factory = getattr(importlib.import_module(f"{__package__}.{module}"), cls)
    elif name in _registered:
        factory = _registered[name]
    else:
        raise ValueError(f"Unknown scorer {name!r}. {nearest(name, scorer_names())}")
    parameters = inspect.signature(factory).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise ValueError(f"Scorer {name!r} has no option {option!r}. {nearest(option, parameters)}")
    scorer = factory(**options)
    if not isinstance(scorer, Scorer):
        raise TypeError(f"The factory of scorer {name!r} returned {type(scorer).__name__}; it must return a Scorer.")
    return scorer
