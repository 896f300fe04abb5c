"""A learning run from its settings file, and what this installation offers."""

from __future__ import annotations

import dataclasses
import inspect
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from .settings import read_settings

# Of the parameters of learn(), those that the command line sets itself.
_NOT_SETTINGS = {"arr", "dataset", "out", "resume", "progress", "workers"}


def learn_sections() -> dict[str, tuple[str, ...]]:
    """Sections and keys of a learning run's settings; each section's defaults belong to whoever takes it."""
    from ..asking.models import load_vlm
    from ..config import ArrCocConfig
    from .data import load_questions
    from .loop import learn

    return {
        "model": tuple(inspect.signature(load_vlm).parameters),
        "wrap": tuple(field.name for field in dataclasses.fields(ArrCocConfig)),
        "data": tuple(name for name in inspect.signature(load_questions).parameters if name != "n"),
        "learn": tuple(name for name in inspect.signature(learn).parameters if name not in _NOT_SETTINGS),
    }


def learn_run(
    config: str | os.PathLike[str], overrides: Iterable[str], folder: Path, *, resume: bool, progress: bool = True
) -> list[dict[str, Any]]:
    """Learn as a settings file says, in a run folder that says how it was made.

    Parameters
    ----------
    config
        YAML file with the sections of :func:`learn_sections`.
    overrides
        ``"section.key=value"``.
    folder
        Gets settings.yaml, the log, the checkpoint and, at the end, the policy.
    resume
        Go on with the run in ``folder``; its settings must be the same, but ``learn.episodes`` may grow.
    progress
        Whether to show a bar.

    Processes that a launcher started (`accelerate launch`) learn together, see :func:`arr_coc.learn`.

    Returns
    -------
    list of dict
        The log of :func:`arr_coc.learn`.

    Raises
    ------
    ValueError
        For bad settings, or a folder that holds another run.
    """
    from ..asking.models import load_vlm
    from ..config import ArrCocConfig
    from ..wrapping.wrapper import wrap
    from .data import load_questions
    from .loop import learn
    from .workers import Workers

    settings = read_settings(config, learn_sections(), overrides)
    wrapping = ArrCocConfig.from_dict(settings["wrap"])
    workers = Workers.start()
    if workers.first:
        _keep_settings(folder / "settings.yaml", settings, resume)
    episodes = settings["learn"].get("episodes", inspect.signature(learn).parameters["episodes"].default)
    questions = load_questions(**settings["data"], n=episodes)
    model, processor = load_vlm(**settings["model"])
    with wrap(model, processor, wrapping) as arr:
        log = learn(arr, questions, **settings["learn"], out=folder, resume=resume, progress=progress, workers=workers)
    if workers.first:
        arr.save_pretrained(folder / "policy")
    workers.stop()
    return log


def _keep_settings(file: Path, settings: dict[str, dict[str, Any]], resume: bool) -> None:
    """Write the settings of a new run; refuse to resume one that was made with others."""
    if resume and file.exists():
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        for section, values in settings.items():
            for key in sorted(values.keys() | before[section].keys()):
                old, new = before[section].get(key), values.get(key)
                if old != new and (section, key) != ("learn", "episodes"):
                    raise ValueError(
                        f"the run in {file.parent} has {section}.{key}={old!r}, not {new!r}; resume it with its own "
                        "settings, or start another --out folder"
                    )
    elif (file.parent / "state.json").exists() and not resume:
        raise ValueError(
            f"{file.parent} holds a run already; go on with it by --resume, or choose another --out folder"
        )
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def describe() -> dict[str, Any]:
    """Versions and the names that can be used, as plain data."""
    import torch

    import arr_coc

    from .. import realizing, reference
    from ..attending.planners import wrappable_policies
    from ..families import known_families
    from ..knowing import scorer_names

    kinds = [kind for kind in vars(realizing).values() if inspect.isclass(kind)]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "arr-coc": arr_coc.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "device": device,
        "families": list(known_families()),
        "policies": wrappable_policies(),
        "scorers": list(scorer_names()),
        "realizers": sorted(k.name for k in kinds if issubclass(k, realizing.Realizer) and k.name),
        "reference model": str(reference.path()),
        "pages model": str(reference.path("pages")),
    }
