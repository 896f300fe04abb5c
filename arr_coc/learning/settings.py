"""Run settings: a YAML file of named sections, overlaid by ``section.key=value`` from the command line."""

from __future__ import annotations

import os
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..config import nearest
from ..reference import MODELS


def read_settings(
    path: str | os.PathLike[str] | None,
    known: Mapping[str, Iterable[str] | None],
    overrides: Iterable[str] = (),
    overlays: Iterable[str | os.PathLike[str]] = (),
) -> dict[str, dict[str, Any]]:
    """Read a settings file and lay others, and overrides, over it.

    The file holds sections, each a mapping of keys to values, and ``plugins``, a list of modules that are imported at
    once (see `load_plugins`). Defaults are not its business: whoever owns a section owns them.

    Parameters
    ----------
    path
        YAML file; without one, all settings come from what is laid over it.
    known
        The sections that exist and the keys of each; ``None`` for a section that is another command's: its keys are
        read and not checked.
    overlays
        Files of the same form, laid over the first one key by key, in their order and before the overrides.
    overrides
        Texts like ``"learn.episodes=500"``; the value is read as YAML, so numbers, lists and null work.
        ``"model=pages"`` names one of our models and its world.

    Returns
    -------
    dict
        Every known section, empty where the file has none.

    Raises
    ------
    ValueError
        If the file is missing or no valid YAML, or for an unknown section or key (naming the near match) or a
        malformed override.
    """
    sections = {name: None if keys is None else tuple(keys) for name, keys in known.items()}
    settings: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for file in [*([] if path is None else [path]), *overlays]:
        for section, values in _read_sections(Path(file), sections).items():
            settings[section] |= values
    for override in (one for given in overrides for one in _expanded(given)):
        name, equals, text = override.partition("=")
        if name == "plugins" and equals:
            _load_plugins(_yaml(override, text))
            continue
        section, dot, key = name.partition(".")
        if not (equals and dot and key):
            raise ValueError(f"override {override!r} must read section.key=value, for example learn.episodes=500")
        _check_key(f"override {override!r}", section, key, sections)
        settings[section][key] = _yaml(override, text)
    return settings


def _expanded(override: str) -> list[str]:
    key, _, name = override.partition("=")
    return [f"model.name={name}", f"task.source={name}"] if key == "model" and name in MODELS else [override]


def _load_plugins(modules: Any) -> None:
    if modules:
        from allocator.registry import load_plugins  # only here: it loads torch, and most files name none

        load_plugins(modules)


def _yaml(override: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: {text!r} is no YAML value; quote it") from error


def _read_sections(file: Path, sections: Mapping[str, tuple[str, ...] | None]) -> dict[str, dict[str, Any]]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"the settings file {file} does not exist; the repository has one in configs/") from error
    except IsADirectoryError as error:
        raise ValueError(f"{file} is a directory; name one YAML file in it") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text file; settings are YAML in UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ValueError(f"{file} is no valid YAML{where}: {problem}") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ValueError(f"{file} must hold the sections {', '.join(sections)}, not a {type(data).__name__}")
    _load_plugins(data.pop("plugins", None))
    settings: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for section, values in data.items():
        if section not in sections:
            raise ValueError(f"{file}: unknown section {section!r}. {nearest(section, sections)}")
        if values is not None and not isinstance(values, dict):
            raise ValueError(f"{file}: section {section!r} must hold keys and values, not {values!r}")
        for key, value in (values or {}).items():
            _check_key(str(file), section, key, sections)
            settings[section][key] = value
    return settings


def _check_key(source: str, section: str, key: str, sections: Mapping[str, tuple[str, ...] | None]) -> None:
    if section not in sections:
        raise ValueError(f"{source}: unknown section {section!r}. {nearest(section, sections)}")
    keys = sections[section]
    if keys is not None and key not in keys:
        raise ValueError(f"{source}: unknown key {key!r} in section {section!r}. {nearest(key, keys)}")


def check_types(config: Any) -> None:
    """Check each field's value against its annotation, as far as plain data goes."""
    for name, hint in typing.get_type_hints(type(config)).items():
        # list[str] is one kind, `int | None` is two.
        options = (hint,) if typing.get_origin(hint) in (list, dict) else typing.get_args(hint) or (hint,)
        kinds = {typing.get_origin(option) or option for option in options}
        accepted = kinds | ({int} if float in kinds else set())
        value = getattr(config, name)
        if not isinstance(value, tuple(accepted)) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(sorted("null" if kind is type(None) else kind.__name__ for kind in kinds))
            raise TypeError(f"{name}={value!r} must be {wanted}, not {type(value).__name__}.")
