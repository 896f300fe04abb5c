"""Models by name: the shipped reference model, a local folder or a hub name, with errors a person can act on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config import ArrCocConfig
    from ..wrapping.wrapper import ArrCoc

REFERENCE = "reference"
SHIPPED = (REFERENCE, "pages")
"""Models of this package, by name (``arr_coc.reference.MODELS``)."""
FREE = frozenset(("limit", "price", "realizer", "positions"))
"""Fields of a configuration that may differ from those a policy was saved with."""


class ModelError(ValueError):
    """A model that cannot be loaded or used; the message names it, the rule and the remedy."""


def load_vlm(name: str = REFERENCE, *, device: str | None = None, dtype: str = "auto") -> tuple[Any, Any]:
    """Load a vision-language model and its processor.

    Parameters
    ----------
    name
        ``"reference"`` for the model that ships with ARR-COC, ``"pages"`` for its second one, else a local folder or
        a hub name. It is loaded by ``AutoModelForImageTextToText``; code from the model's repository is never run.
    device
        As torch names it ("cpu", "cuda", "cuda:1", ...); by default a GPU if there is one.
    dtype
        Of the weights; "auto" takes what the checkpoint says. The models of this package are always float32.

    Returns
    -------
    tuple
        The model in evaluation mode, and the processor.

    Raises
    ------
    ModelError
        If there is no such model, if it is no vision-language model, or if its family is not supported.
    """
    here: dict[str, Any] = {"trust_remote_code": False}  # else transformers would ask on stdin
    if name not in SHIPPED:
        name = resolve(name)
        here["local_files_only"] = not (Path(name).is_dir() or _hub_answers(name))
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {device!r} can't be used ({reason}); use cpu, or cuda if there is one") from error
    if name in SHIPPED:
        from .. import reference

        model, processor = reference.load(name)
    else:
        model, processor = _load_named(name, dtype, here)
    return model.to(target).eval(), processor


def _load_named(name: str, dtype: str, here: Mapping[str, Any]) -> tuple[Any, Any]:
    """Load a folder or hub name; everything that can be known from its configuration is checked before the weights."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from ..config import nearest
    from ..families import known_families
    from .sizes import check_config, check_pictures

    try:
        config = AutoConfig.from_pretrained(name, **here)
        model_type = config.model_type
        check_config(name, config.to_dict())
    except Exception as error:  # whatever a foreign config.json provokes
        raise _unloadable(name, error) from error
    if model_type not in known_families():
        raise ModelError(
            f"{name} is a {model_type!r} model, which is no supported vision-language model. "
            f"{nearest(model_type, known_families())} Another family joins by arr_coc.families.register_family."
        )
    try:
        processor = (_own_processor(name) or AutoProcessor).from_pretrained(name, **here)
        check_pictures(name, processor)
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **here)
    except Exception as error:  # missing, truncated or foreign files surface as many types
        raise _unloadable(name, error) from error
    if not hasattr(processor, "image_processor"):
        raise ModelError(
            f"{name} has no image processor (it gives a {type(processor).__name__}); a vision-language model needs "
            "its preprocessor_config.json: save it with processor.save_pretrained(folder)"
        )
    return model, processor


def _own_processor(name: str) -> Any:
    """Our processor class if a folder was saved with it (transformers only knows its own), else None."""
    file = Path(name) / "processor_config.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("processor_class") == "ReferenceProcessor":
        from ..reference.processor import ReferenceProcessor

        return ReferenceProcessor
    return None


def _hub_answers(name: str) -> bool:
    from ..wrapping.hub import hub_answers

    try:
        return hub_answers(name)
    except ValueError as error:
        raise ModelError(f"the model {error}") from error


def resolve(name: str) -> str:
    """The folder or hub name to load; what is meant as a path and is no model folder is refused, before any import.

    Raises
    ------
    ModelError
        For an empty name, a file, a folder without a model, or a path where nothing is.
    """
    if not name.strip():
        raise ModelError(f"the model name is empty; use {REFERENCE!r}, a local folder or a hub name like org/model")
    folder = Path(name).expanduser()
    if folder.is_file():
        raise ModelError(f"{name} is a file; a model is a folder with config.json and its weights")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{name} holds no config.json; a model folder is what model.save_pretrained writes")
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"the model folder {name} does not exist; check the path, or give a hub name like org/model")
    return name


def _unloadable(name: str, error: Exception) -> ModelError:
    """The first line of a loading error."""
    text = str(error).strip() or type(error).__name__
    return ModelError(f"the model {name} can't be loaded: {text.splitlines()[0]}")


def model_identity(model: Any) -> str:
    """What a log calls a model: its name, and a digest of its weights that two checkpoints hardly share.

    The digest is of every parameter's name and shape, and of 64 of its values as bfloat16, so that the type in which
    it was loaded makes no difference; it takes milliseconds, whatever the size. A model whose weights are packed
    (quantised) is another one.
    """
    import hashlib

    import torch

    seal = hashlib.blake2b(digest_size=6)
    for name, weight in model.named_parameters():
        seal.update(f"{name} {tuple(weight.shape)};".encode())
        if weight.device.type != "meta":
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // 64)][:64].float().cpu().to(torch.bfloat16)
            seal.update(some.view(torch.int16).numpy().tobytes())
    name = getattr(model.config, "_name_or_path", "") or model.config.model_type
    base = Path(name).name if Path(name).is_absolute() else name  # a folder of this machine says nothing elsewhere
    return f"{base}@{seal.hexdigest()}"


def wrap_with(model: Any, processor: Any, given: Mapping[str, Any]) -> ArrCoc:
    """Wrap a model by configuration values, where ``policy`` may also be the folder of a saved policy.

    Parameters
    ----------
    model, processor
        As :func:`load_vlm` returns them.
    given
        Fields of :class:`arr_coc.ArrCocConfig`. Beside a saved policy, those of :data:`FREE` replace what was saved
        with it; the others are part of what was learned. ``allow`` is as of
        :func:`arr_coc.wrapping.saving.load_planner`.

    Raises
    ------
    ValueError
        For a bad configuration, a policy that does not fit, or a field that a saved policy fixes.
    """
    from ..config import ArrCocConfig
    from ..wrapping.wrapper import ArrCoc, wrap

    if not is_saved_policy(given.get("policy")):
        return wrap(model, processor, ArrCocConfig.from_dict({k: v for k, v in given.items() if k != "allow"}))
    changes = {key: value for key, value in given.items() if key not in ("policy", "allow")}
    check_free(changes)
    arr = ArrCoc.from_pretrained(given["policy"], model, processor, allow=given.get("allow", ()))
    if not changes:
        return arr
    arr.detach()
    return wrap(model, processor, with_changes(arr.config, arr.planner, changes), arr.planner)


def check_free(changes: Mapping[str, Any]) -> None:
    """Refuse to change what a saved policy was learned with.

    Raises
    ------
    ValueError
        For a field that is not of :data:`FREE`.
    """
    for key in sorted(changes.keys() - FREE):
        raise ValueError(
            f"{key} is fixed by the saved policy, which was learned with its own; leave it out, name a policy that is "
            f"not saved, or learn one: arr-coc learn wrap.{key}=..."
        )


def with_changes(config: ArrCocConfig, planner: Any, changes: Mapping[str, Any]) -> ArrCocConfig:
    """The configuration of a saved policy with other values of :data:`FREE`; its planner goes by them from now on."""
    check_free(changes)
    planner.config = dataclasses.replace(config, **changes)
    planner.price = changes.get("price", planner.price)
    return planner.config


def check_model(name: str) -> None:
    """Refuse a model that isn't there, without torch; see `load_vlm`.

    Raises
    ------
    ModelError
        If it is no folder with a model, nor a repository that can be had.
    """
    if name not in SHIPPED and not Path(resolve(name)).is_dir():
        _hub_answers(name)


def check_wrapping(given: Mapping[str, Any]) -> None:
    """Refuse configuration values that can't be right, without torch and before a model is loaded; see `wrap_with`.

    Raises
    ------
    TypeError, ValueError
        As `ArrCocConfig` does.
    """
    from ..config import ArrCocConfig

    saved = is_saved_policy(given.get("policy"))
    ArrCocConfig.from_dict({key: value for key, value in given.items() if not (saved and key == "policy")})


def check_policy(name: str) -> None:
    """Refuse a saved policy that isn't there, before a model is loaded; a registered policy's name passes.

    Raises
    ------
    ValueError
        If it is no folder that holds one, nor a repository on the hub.
    """
    if not is_saved_policy(name):
        return
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            inner = [place for place in ("policy", "current") if (folder / place).is_dir()]
            hint = f"did you mean {folder / inner[0]}?" if inner else "name one that arr-coc learn wrote (RUN/policy)"
            raise ValueError(f"{name} holds no saved policy (no config.json); {hint}")
        return
    from ..wrapping.hub import hub_answers

    try:
        hub_answers(name)
    except ValueError as error:
        raise ValueError(f"there is no saved policy {name!r}: {error}") from error


def is_saved_policy(policy: str | None) -> bool:
    """Whether a policy is meant as a folder rather than as a registered name."""
    return policy is not None and (Path(policy).is_dir() or "/" in policy)
