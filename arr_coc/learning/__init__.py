"""Learning a policy from the rewards of generated answers.

``from arr_coc.learning import learn`` is the everyday call; names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loop import learn

__all__ = ["learn"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(".loop", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
