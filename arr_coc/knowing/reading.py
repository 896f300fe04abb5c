"""Which layers and heads to read relevance from, before any data of a model has been seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BAND = (0.55, 0.8)
"""Share of the depth between which published readers of pretrained models find their heads: Qwen2.5-VL .57 to .82,
Qwen3-VL .53 to .67, LLaVA-1.5 .33 to .66. Below about half of it attention does not depend on the question, and none
was found in the last fifth (Zhang et al., "MLLMs know where to look", ICLR 2025; SD-RPN; GlimpsePrune; Q-Zoom)."""
SHARES = (0.55, 0.6, 0.65, 0.7, 0.75)
"""The band for a depth that is not known."""


def suited(spec: str | Mapping[str, Any], model: Any) -> str | Mapping[str, Any]:
    """A scorer's specification, with the layers and heads that suit a model where it does not name its own.

    What the model's configuration holds under ``arr_coc`` counts, e.g. ``{"layers": [-2, -1], "heads": "sharp"}``, as
    the reference models have it; else all layers of `BAND`, each the mean of its heads.

    Parameters
    ----------
    spec
        As of `arr_coc.knowing.make_scorer`.
    model
        The model that will be read, or ``None`` if there is none yet: the specification is then returned as it is.
    """
    own = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    if model is None or own["name"] not in ("participatory", "participatory:attention"):
        return spec
    if own.get("variant", "attention") != "attention" or {"layers", "heads"} & set(own):
        return spec
    brought = dict(getattr(model.config, "arr_coc", None) or {})
    depth = model.config.get_text_config().num_hidden_layers
    first = int(BAND[0] * depth)
    band = {"layers": list(range(first, max(int(BAND[1] * depth), first + 1))), "heads": "mean"}
    return {**own, **(brought or band)}
