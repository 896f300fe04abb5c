"""Every public name of the library says what it is: the API reference has no blank entry."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import allocator
import arr_coc

# They need an environment of their own; `tests/lmms` and `tests/engines` import them there.
ELSEWHERE = ("arr_coc.asking.lmms", "arr_coc.engines")


def modules() -> Iterator[str]:
    for package in (allocator, arr_coc):
        yield package.__name__
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.startswith(ELSEWHERE):
                yield found.name


@pytest.mark.parametrize("name", list(modules()))
def test_public_names_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    blank = [] if inspect.getdoc(module) else [name]
    for title, thing in vars(module).items():
        if title.startswith("_") or getattr(thing, "__module__", None) != name or not callable(thing):
            continue
        if not inspect.getdoc(thing):
            blank.append(title)
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                # An override is documented by what it overrides.
                shown = inspect.isfunction(function) or isinstance(function, property | classmethod | staticmethod)
                if shown and not method.startswith("_") and not inspect.getdoc(getattr(thing, method)):
                    blank.append(f"{title}.{method}")
    assert not blank, blank
