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

LEARN = ("reward", "episodes", "batch_size", "max_new_tokens", "target", "checkpoint_every", "counterfactuals")
"""The parameters of :func:`arr_coc.learn` that are settings; named here, so that a wrong one is told without torch."""


def learn_sections() -> dict[str, tuple[str, ...] | None]:
    """Sections and keys of a learning run's settings; each section's defaults belong to whoever takes it.

    ``run`` is the evaluation's, so that files of models and tasks serve both: learning takes the length of an answer
    from it.
    """
    from ..asking.models import load_vlm
    from ..config import ArrCocConfig
    from .task_config import TaskConfig

    return {
        "model": tuple(inspect.signature(load_vlm).parameters),
        "wrap": tuple(field.name for field in dataclasses.fields(ArrCocConfig)),
        "task": tuple(field.name for field in dataclasses.fields(TaskConfig)),
        "learn": LEARN,
        "run": None,
    }


def learn_run(
    config: str | os.PathLike[str] | None,
    overrides: Iterable[str],
    folder: Path,
    *,
    resume: bool,
    progress: bool = True,
    overlays: Iterable[str | os.PathLike[str]] = (),
) -> list[dict[str, Any]]:
    """Learn as a settings file says, in a run folder that says how it was made.

    Parameters
    ----------
    config
        YAML file with the sections of :func:`learn_sections`; without one, everything has its default.
    overrides
        ``"section.key=value"``.
    folder
        Gets settings.yaml, the log, the checkpoint and, at the end, the policy.
    resume
        Go on with the run in ``folder``; its settings must be the same, but ``learn.episodes`` may grow.
    progress
        Whether to show a bar.
    overlays
        Files laid over the first one, for instance of a model and of a task.

    Processes that a launcher started (`accelerate launch`) learn together, see :func:`arr_coc.learn`.

    Returns
    -------
    list of dict
        The log of :func:`arr_coc.learn`.

    Raises
    ------
    ValueError
        For bad settings, or a folder that holds another run, or in which another process works.
    """
    from ..asking.models import REFERENCE, check_model
    from ..config import ArrCocConfig
    from .rewards import check_reward
    from .tasks import learning_task

    settings = read_settings(config, learn_sections(), overrides, overlays)
    wrapping = ArrCocConfig.from_dict(settings["wrap"])
    check_reward(settings["learn"].get("reward"))
    check_model(settings["model"].get("name", REFERENCE))
    from allocator.locks import FolderLock

    from .loop import learn
    from .workers import Workers

    chosen = dict(settings["learn"])
    episodes = chosen.get("episodes", inspect.signature(learn).parameters["episodes"].default)
    questions = learning_task(settings["task"], episodes)
    chosen.setdefault("reward", questions.config.reward)
    check_reward(chosen["reward"])
    chosen.setdefault("max_new_tokens", settings["run"].get("max_new_tokens"))
    workers = Workers.start()
    lock = FolderLock(folder, ".run.lock") if workers.first else None  # its ".lock" is the learning loop's
    try:
        return _learn_in(folder, settings, questions, chosen, wrapping, workers, resume, progress)
    finally:
        if lock is not None:
            lock.close()


def _learn_in(
    folder: Path, settings: dict[str, dict[str, Any]], questions: Any, chosen: dict[str, Any], wrapping: Any,
    workers: Any, resume: bool, progress: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    from ..asking.models import load_vlm
    from ..wrapping.wrapper import wrap
    from .loop import learn

    if workers.first:
        _keep_settings(folder / "settings.yaml", settings, resume)
    model, processor = load_vlm(**settings["model"])
    with wrap(model, processor, wrapping) as arr:
        log = learn(arr, questions, **chosen, out=folder, resume=resume, progress=progress, workers=workers)
    if workers.first:
        arr.save_pretrained(folder / "policy")
    workers.stop()
    return log


def _keep_settings(file: Path, settings: dict[str, dict[str, Any]], resume: bool) -> None:
    """Write the settings of a new run; refuse to resume one that was made with others."""
    if resume and file.exists():
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        for section, values in settings.items():
            kept = before.get(section) or {}
            for key in sorted(values.keys() | kept.keys()):
                old, new = kept.get(key), values.get(key)
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
    from allocator.registry import load_installed_plugins

    from .. import realizing, reference
    from ..attending.planners import wrappable_policies
    from ..families import known_families
    from ..knowing import scorer_names
    from .rewards import reward_names

    load_installed_plugins()
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
        "rewards": list(reward_names()),
        "realizers": sorted(k.name for k in kinds if issubclass(k, realizing.Realizer) and k.name),
        "reference model": str(reference.path()),
        "pages model": str(reference.path("pages")),
    }
