"""The registry of methods, and plugins: modules of others that register what is theirs."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .policy import Policy

PolicyType = TypeVar("PolicyType", bound="type[Policy]")
_REGISTRY: dict[str, type[Policy]] = {}
PLUGINS = "arr_coc.plugins"
"""The group of entry points under which an installed package names its modules."""


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
        load_installed_plugins()
    if name not in _REGISTRY:
        near = difflib.get_close_matches(str(name), _REGISTRY, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"no policy named {name!r}{hint} Known: {', '.join(policy_names())}")
    return _REGISTRY[name]


def policy_names() -> list[str]:
    """Names of all registered policies, sorted."""
    return sorted(_REGISTRY)


def load_plugins(modules: Iterable[str]) -> None:
    """Import modules that register policies, scorers, rewards and the like when they are imported.

    Parameters
    ----------
    modules
        Names as of ``import``, looked for in the working directory too, or paths that end in ``.py``.

    Raises
    ------
    TypeError
        If it is one text instead of a list.
    ValueError
        If a module can't be imported; the message says why.
    """
    if isinstance(modules, str) or not all(isinstance(module, str) for module in modules):
        raise TypeError(f"plugins={modules!r} must be a list of modules, for example [my_module] or [my_scorer.py]")
    for module in modules:
        try:
            if module.endswith(".py"):
                _load_file(Path(module))
            else:
                _import(module)
        except Exception as error:  # whatever foreign code provokes
            raise ValueError(
                f"plugin {module!r} can't be loaded ({type(error).__name__}: {error}); it must be a module that "
                "Python finds, or a path that ends in .py"
            ) from error


@functools.cache
def load_installed_plugins() -> None:
    """Load, once, what installed packages name in the entry-point group `PLUGINS`: a module, or a function to call.

    One that fails is told in a warning and passed over: a broken package must not stop everything else.
    """
    for found in entry_points(group=PLUGINS):
        try:
            loaded = found.load()
            if callable(loaded):
                loaded()
        except Exception as error:  # whatever foreign code provokes
            why = f"{type(error).__name__}: {error}"
            warnings.warn(f"the plugin {found.name!r} ({found.value}) can't be loaded: {why}", stacklevel=2)


def _import(module: str) -> None:
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:  # the script of a command doesn't look in the working directory, `python -m` does
        sys.path.append(here)
    try:
        importlib.import_module(module)
    finally:
        if added:
            sys.path.remove(here)


def _load_file(file: Path) -> None:
    name = file.stem
    loaded = sys.modules.get(name)
    if loaded is not None and Path(getattr(loaded, "__file__", None) or "").absolute() == file.absolute():
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if loaded is not None or spec is None or spec.loader is None:
        raise ImportError(f"there is a module {name!r} already; rename the file")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise
