"""The registry of methods."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .policy import Policy

PolicyType = TypeVar("PolicyType", bound="type[Policy]")
_REGISTRY: dict[str, type[Policy]] = {}


def register_policy(name: str) -> Callable[[PolicyType], PolicyType]:
    """Class decorator that makes a method available to `make_policy` under `name`.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def register(cls: PolicyType) -> PolicyType:
        if name in _REGISTRY:
            raise ValueError(f"a policy named {name!r} is already registered ({_REGISTRY[name].__name__})")
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return register


def make_policy(name: str, **options: Any) -> Policy:
    """Build a registered policy.

    Raises
    ------
    ValueError
        If no policy has that name.
    TypeError
        If the policy has no such option.
    """
    cls = policy_class(name)
    known = [item.name for item in fields(cls) if item.init]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"policy {name!r} has no option {unknown[0]!r}; it takes {', '.join(known)}")
    return cls(**options)


def policy_class(name: str) -> type[Policy]:
    """The registered class, e.g. to read its `feedback` before building it.

    Raises
    ------
    ValueError
        If no policy has that name.
    """
    if name not in _REGISTRY:
        near = difflib.get_close_matches(str(name), _REGISTRY, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"no policy named {name!r}{hint} Known: {', '.join(policy_names())}")
    return _REGISTRY[name]


def policy_names() -> list[str]:
    """Names of all registered policies, sorted."""
    return sorted(_REGISTRY)
