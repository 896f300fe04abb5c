"""The contract of a method, and the registry."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from allocator.registry import load_installed_plugins
from arr_coc.config import nearest
from arr_coc.scene.contract import Planner

if TYPE_CHECKING:
    from arr_coc.learning.tasks import Sample

    from ..model.bench import Answer, Bench

M = TypeVar("M", bound="type[Method]")

_methods: dict[str, type[Method]] = {}


class NotApplicable(ValueError):
    """A method that this model, task or run cannot carry; the report says so with the reason, and the run goes on."""


@dataclass(kw_only=True)
class Method:
    """One way to answer questions. A subclass states its settings as fields and writes `planner`, or `answer` itself.

    Attributes
    ----------
    label
        What the run calls it; unique in a run, and given by its settings if empty.
    match
        Label of the method whose measured share of full detail this one must spend; it then runs after that one.
    questions
        Answer only so many of the task's first questions, for methods that cost much; all by default. Comparisons are
        then made on the questions that both sides answered.
    curve
        Methods of one curve trace accuracy against tokens together, e.g. one policy at several prices.
    short
        The field that a number behind the name sets: "uniform-128".
    """

    label: str = ""
    match: str | None = None
    questions: int | None = None
    curve: str = ""
    short: ClassVar[str] = ""

    @property
    def about(self) -> str:
        """The method in a line: the first sentence of its docstring, and the settings that are not its defaults."""
        text = re.split(r"(?<=\.) ", " ".join((type(self).__doc__ or "").split()), maxsplit=1)[0]
        told = {"label", "match", "questions", "curve", "seed", self.short}
        changed = [
            f"{item.name}={getattr(self, item.name)!r}"
            for item in dataclasses.fields(self)
            if item.name not in told and getattr(self, item.name) != item.default
        ]
        return f"{text} ({', '.join(changed)})" if changed else text

    def prepare(self, bench: Bench) -> None:
        """Called once before the first question; raises `NotApplicable` if it cannot run here."""

    def planner(self, bench: Bench, sample: Sample) -> Planner:
        """The planner of one question."""
        raise TypeError(f"{type(self).__name__} must define planner() or answer()")

    def answer(self, bench: Bench, samples: Sequence[Sample]) -> list[Answer]:
        """Answer a batch of questions; one answer each, in order."""
        return bench(samples, [self.planner(bench, sample) for sample in samples])


def wanted_share(method: Any, bench: Bench) -> float:
    """The share of full detail that a method must spend: its ``share``, or the one measured for what it matches."""
    if (method.share is None) == (method.match is None):
        raise ValueError(f"method {method.label!r} needs either share= (of full detail) or match= (a method's label)")
    if method.match is not None:
        return bench.share(method.match)
    if not 0 < method.share <= 1:
        raise ValueError(f"method {method.label!r}: share={method.share!r} must lie in (0, 1]")
    return float(method.share)


def register_method(name: str) -> Callable[[M], M]:
    """Class decorator: make a method known by name; one that is taken is refused."""

    def register(cls: M) -> M:
        if _methods.get(name, cls) is not cls:
            raise ValueError(f"a method named {name!r} exists already; register yours under another name")
        _methods[name] = cls
        return cls

    return register


def method_names() -> list[str]:
    """The registered names."""
    return sorted(_methods)


def at_prices(spec: str | Mapping[str, Any]) -> list[str | Mapping[str, Any]]:
    """An entry with ``prices`` stands for a curve: the method itself, and the same, or what it learned, at each.

    Raises
    ------
    ValueError
        If such an entry has no label, or its prices are no list.
    """
    if not isinstance(spec, Mapping) or "prices" not in spec:
        return [spec]
    own = {key: value for key, value in spec.items() if key != "prices"}
    label, prices = own.get("label"), spec["prices"]
    if not label or not isinstance(prices, list):
        raise ValueError(f"method {spec!r}: prices= needs a label= for its curve, and a list such as [0.2, 0.01]")
    own = {"curve": label, **own}
    again = {"method": "learned", "of": label, "curve": own["curve"]} if own.get("method") == "learner" else own
    return [own, *({**again, "label": f"{label} at {price:g}", "price": price} for price in prices)]


def curve_members(methods: Sequence[Method]) -> dict[str, list[str]]:
    """The labels of each curve's methods, by the curve's name."""
    members: dict[str, list[str]] = {}
    for method in methods:
        if method.curve:
            members.setdefault(method.curve, []).append(method.label)
    return members


def make_method(spec: str | Mapping[str, Any]) -> Method:
    """Build a method from its entry in a configuration.

    Parameters
    ----------
    spec
        A name ("full"), a name with a number ("uniform-128"), or a mapping with the key ``method`` and settings.

    Raises
    ------
    TypeError, ValueError
        For an entry of another form, an unknown name or an unknown setting, with the nearest known one.
    """
    if isinstance(spec, str):
        spec = {"method": spec}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("method"), str):
        raise TypeError(f"method {spec!r} must be a name or a mapping such as {{method: uniform, budget: 64}}")
    settings = {str(key): value for key, value in spec.items() if key != "method"}
    name = spec["method"]
    numbered = re.fullmatch(r"(.+)-(\d+)", name)
    if name not in _methods and numbered and numbered[1] in _methods and _methods[numbered[1]].short:
        name = numbered[1]
        settings = {_methods[name].short: int(numbered[2]), **settings}
    if name not in _methods:
        load_installed_plugins()
    if name not in _methods:
        raise ValueError(f"unknown method {name!r}. {nearest(name, method_names())}")
    known = {item.name for item in dataclasses.fields(_methods[name])}
    for key in settings:
        if key not in known:
            raise ValueError(f"method {name!r} has no setting {key!r}. {nearest(key, known)}")
    method = _methods[name](**settings)
    if method.questions is not None and method.questions < 1:
        raise ValueError(f"method {name!r}: questions={method.questions} must be at least 1, or null for all")
    if not method.label:
        parts = [str(value) for key, value in settings.items() if key not in ("match", "questions", "curve")]
        method.label = "-".join([name, *parts, *([f"at-{method.match}"] if method.match else [])])
    return method


def make_methods(specs: Sequence[str | Mapping[str, Any]], baselines: Sequence[str] = ()) -> list[Method]:
    """The methods of a configuration; labels must be unique and what they match must be among them."""
    methods = [make_method(spec) for entry in specs for spec in at_prices(entry)]
    labels = [method.label for method in methods]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"run.methods lists {label!r} twice; give one of them another label")
    for named in [*(m.match for m in methods if m.match is not None), *baselines]:
        if named not in labels:
            raise ValueError(
                f"{named!r}, named by match or run.baselines, is none of the methods {labels}; add it to run.methods"
            )
    return methods
