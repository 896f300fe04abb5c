"""Model families: the only place that knows a model family's internals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocator.registry import load_installed_plugins

from ..config import nearest
from .base import Entry, Family, Features, RescalingFamily, Segment, Streams, View
from .compat import require_for
from .table import FAMILIES as _FAMILIES
from .unsupported import UNSUPPORTED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "UNSUPPORTED",
    "Entry",
    "Family",
    "Features",
    "RescalingFamily",
    "Segment",
    "Streams",
    "View",
    "family_for",
    "known_families",
    "register_family",
]


def register_family(model_type: str, family: Family) -> None:
    """Teach ARR-COC another model type.

    Parameters
    ----------
    model_type
        ``model.config.model_type`` of the models it is for; a known one is replaced. ``"llava+pixtral"`` names the
        model type with the type of its vision tower, where the tower decides the layout.
    family
        Its layout.
    """
    if not isinstance(family, Family):
        raise TypeError(f"register_family({model_type!r}, ...) needs a Family instance, got {type(family).__name__}.")
    _FAMILIES[model_type] = family


def known_families() -> tuple[str, ...]:
    """The model types that can be wrapped."""
    return tuple(sorted(_FAMILIES))


def family_for(model: PreTrainedModel) -> Family:
    """The family of a model.

    Raises
    ------
    ValueError
        If the model is no vision-language model, of an unknown family (the known ones are listed), or of one that
        is not supported, at all or with this transformers.
    """
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    if model_type not in _FAMILIES:
        load_installed_plugins()
    for key in (f"{model_type}+{tower}", model_type):
        if key in _FAMILIES:
            require_for(model_type)
            return _FAMILIES[key]
    if model_type in UNSUPPORTED:
        raise ValueError(
            f"{type(model).__name__} is not supported: {UNSUPPORTED[model_type]}. "
            f"Known: {', '.join(known_families())}. "
            "Another family joins by arr_coc.families.register_family."
        )
    kind = f"of the unsupported family {model_type!r}" if model_type else "no transformers model"
    if model_type and not hasattr(getattr(model, "base_model", None), "get_image_features"):
        kind = f"a {model_type!r} model, which is no supported vision-language model"
    raise ValueError(
        f"{type(model).__name__} is {kind}. {nearest(model_type, _FAMILIES)} "
        "Another family joins by arr_coc.families.register_family."
    )
