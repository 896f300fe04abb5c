"""Saving what was learned, in the manner of PEFT: only our own weights, a configuration, and a model card."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.storage import replace_file

from ..config import ArrCocConfig

if TYPE_CHECKING:
    from allocator import Policy

    from .wrapper import ArrCoc

FORMAT = 1
_WORDS = ("variant", "heads")
"""Options of scorers whose strings are words of our own."""
POLICY, CONFIG, CARD = "policy.safetensors", "config.json", "README.md"


def save_pretrained(arr: ArrCoc, folder: str | os.PathLike[str], results: Mapping[str, Any] | None = None) -> Path:
    """Write ``policy.safetensors``, ``config.json`` and a model card.

    Each file is replaced atomically, the configuration last, so a killed save leaves a readable folder.

    Parameters
    ----------
    arr
        A wrapper whose planner holds a policy.
    folder
        Where to; made if missing.
    results
        Measured figures for the card, name to value.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    TypeError
        If the planner holds no policy that can be saved.
    OSError
        If the folder can't be written.
    """
    policy = _policy(arr.planner)
    name = getattr(arr.model.config, "_name_or_path", "") or arr.model.config.model_type
    base = Path(name).name if Path(name).is_absolute() else name  # a folder of this machine says nothing elsewhere
    record = {
        "library": "arr_coc",
        "format": FORMAT,
        "versions": {name: version(name) for name in ("arr-coc", "transformers", "torch") if _installed(name)},
        "base_model": base,
        "model_type": arr.model.config.model_type,
        "rounds": policy.rounds,
        "planner": {"price": getattr(arr.planner, "price", arr.config.price)},
        "config": arr.config.to_dict(),
        "results": dict(results or {}),
    }
    return write_folder(folder, policy, record)


def write_folder(folder: str | os.PathLike[str], policy: Policy, record: Mapping[str, Any]) -> Path:
    """Write a policy with its record (what :func:`read_record` returns) and a model card; each file atomically."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    policy.save(folder / POLICY)
    replace_file(folder / CARD, _card(record))
    replace_file(folder / CONFIG, json.dumps(record, indent=2, allow_nan=False) + "\n")
    return folder


def load_planner(
    name: str | os.PathLike[str],
    model: Any,
    processor: Any = None,
    revision: str | None = None,
    allow: Collection[str] = (),
) -> tuple[ArrCocConfig, Any]:
    """Configuration and planner of a saved policy, for a model that may be wrapped already.

    Parameters
    ----------
    name
        A folder that :func:`save_pretrained` wrote, or the name of a hub repository that holds one.
    model, processor
        As for :func:`arr_coc.wrap`.
    revision
        Of the hub repository.

    allow
        Names of models or folders that the policy's scorers may load; a policy that names another one is refused.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or repository.
    ValueError
        If its files are damaged, foreign, or do not fit each other; the model is then left unwrapped.
    """
    from allocator import Policy

    from ..attending.planners import make_planner

    folder = _folder(name, revision)
    record = read_record(folder / CONFIG)
    config = _config(record, folder)
    if record.get("model_type") != model.config.model_type:
        warnings.warn(
            f"{folder} was learned on {record.get('base_model')} ({record.get('model_type')}), this model is of type "
            f"{model.config.model_type}; its budgets may not suit it.",
            stacklevel=3,
        )
    _check_named(config, folder, allow)
    price = record.get("planner", {}).get("price", config.price) if isinstance(record.get("planner", {}), dict) else 0
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < float("inf"):
        raise ValueError(f"{folder / CONFIG} has the price {price!r}; it must be a finite number >= 0")
    planner: Any = make_planner(config, model, processor)
    try:
        fresh, saved = _policy(planner), Policy.load(folder / POLICY)
        for what in ("name", "arms", "dim", "covariates"):
            mine, theirs = getattr(fresh, what, None), getattr(saved, what, None)
            if mine != theirs:
                raise ValueError(f"its {what} is {theirs!r}, the configuration needs {mine!r}")
        planner.policy = saved  # with the prior and the scale it was learned with, whatever the defaults are by now
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{folder / POLICY} does not fit the configuration beside it (other budgets, other contexts, or damaged): "
            f"{error}"
        ) from error
    if hasattr(planner, "price"):
        planner.price = float(price)
    return config, planner


def push_to_hub(arr: ArrCoc, repo_id: str, results: Mapping[str, Any] | None = None, **options: Any) -> str:
    """Upload what :func:`save_pretrained` writes.

    Parameters
    ----------
    arr, results
        As of :func:`save_pretrained`.
    repo_id
        Name of the model repository; made if missing.
    options
        ``private``, ``token``, ``commit_message``, ``revision`` as of huggingface_hub.

    Returns
    -------
    str
        Where it went.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=options.pop("token", None))
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_pretrained(arr, scratch, results)
        api.create_repo(repo_id, private=options.pop("private", None), exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder), **options))


def _policy(planner: Any) -> Policy:
    policy: Any = getattr(planner, "policy", None)
    if not callable(getattr(policy, "save", None)):
        raise TypeError(
            f"{type(planner).__name__} holds no policy, so there is nothing to save; wrap with a policy by name."
        )
    held: Policy = policy
    return held


def _folder(name: str | os.PathLike[str], revision: str | None) -> Path:
    folder = Path(name)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    from .hub import hub_answers

    try:
        online = hub_answers(str(name))
        files = [POLICY, CONFIG, CARD]
        return Path(
            snapshot_download(str(name), revision=revision, allow_patterns=files, local_files_only=not online)
        )
    except (ValueError, OSError) as error:
        raise FileNotFoundError(
            f"there is no saved policy {str(name)!r}: {str(error).splitlines()[0]}. Give a folder that "
            "save_pretrained or arr-coc learn wrote (RUN/policy)."
        ) from error


def read_config(folder: Path) -> ArrCocConfig:
    """The configuration that a policy was saved with.

    Raises
    ------
    ValueError
        As of :func:`read_record`.
    """
    return _config(read_record(folder / CONFIG), folder)


def _check_named(config: ArrCocConfig, folder: Path, allow: Collection[str]) -> None:
    """Refuse a policy whose scorers name models, folders or whatever else by a string, unless each is allowed.

    A policy is data from elsewhere; what it names would be downloaded and loaded.
    """
    named = {}
    for scorer in config.scorers:
        options = {} if isinstance(scorer, str) else dict(scorer)
        for option in options.keys() - {"name", *_WORDS}:
            named.update({text: f"{options['name']}.{option}" for text in _strings(options[option])})
    foreign = sorted(named.keys() - set(allow))
    if foreign:
        asked = ", ".join(f"{text!r} ({named[text]})" for text in foreign)
        raise ValueError(
            f"the policy in {folder} wants to load {asked}, and a policy is only data; if you trust it, say so: "
            f"allow={foreign} in code, --allow on the command line"
        )


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for item in value.items() for part in item for text in _strings(part)]
    return [text for part in value for text in _strings(part)] if isinstance(value, list | tuple) else []


def read_record(file: Path) -> dict[str, Any]:
    """The ``config.json`` of a saved policy, checked to be one.

    Raises
    ------
    ValueError
        If it is missing, damaged, foreign or of another format.
    """
    if not file.is_file():
        raise ValueError(f"{file.parent} holds no {file.name}; it is no folder that save_pretrained wrote.")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged: {error}. Save the policy again.") from error
    if not isinstance(record, dict) or record.get("library") != "arr_coc" or "config" not in record:
        raise ValueError(f"{file} is another library's configuration; give a folder that save_pretrained wrote.")
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{file} is of format {record.get('format')}, this version reads format {FORMAT}; use the version of "
            f"arr-coc that wrote it ({record.get('versions', {}).get('arr-coc', 'unknown')})."
        )
    return record


def _config(record: Mapping[str, Any], folder: Path) -> ArrCocConfig:
    """The saved configuration; keys that a newer version added are left out with a warning."""
    known = ArrCocConfig().to_dict()
    values = {"slots": "gated", **record["config"]}  # policies that do not say were learned on those alone
    unknown = sorted(set(values) - set(known))
    if unknown:
        writer = record.get("versions", {}).get("arr-coc", "unknown")
        warnings.warn(
            f"{folder} was saved by arr-coc {writer} and sets {unknown}, "
            "which this version does not know and ignores.",
            stacklevel=4,
        )
    return ArrCocConfig.from_dict({key: value for key, value in values.items() if key in known})


def _card(record: Mapping[str, Any]) -> str:
    budgets = ", ".join(map(str, record["config"]["budgets"]))
    results = "\n".join(f"| {name} | {value} |" for name, value in record["results"].items())
    table = f"\n## Measured\n\n| figure | value |\n|---|---|\n{results}\n" if results else ""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return f"""---
library_name: arr-coc
base_model: {record["base_model"]}
tags: [visual-token-allocation, contextual-bandit]
---

# Patch budgets for {record["base_model"]}

An allocation policy (`{record["config"]["policy"]}`) that gives every image patch one of {budgets} visual tokens,
chosen for the question; learned from {record["rounds"]} rewards. Saved with {versions}.

```python
import arr_coc

arr = arr_coc.ArrCoc.from_pretrained("this/repository", model, processor)
output = model.generate(**inputs)
```
{table}"""


def _installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
