"""ARR-COC: every image patch of a vision-language model gets its own token budget, chosen for the question.

Names are loaded when they are first used, so ``import arr_coc`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import reference
    from .asking.ask import ask
    from .asking.estimate import estimate
    from .config import ArrCocConfig
    from .drawing import draw_allocation
    from .learning.calibrate import calibrate
    from .learning.evaluate import evaluate
    from .learning.loop import learn
    from .wrapping.wrapper import ArrCoc, unwrap, wrap

__version__ = "0.1.0"
_HOMES = {
    "ArrCoc": "wrapping.wrapper",
    "ArrCocConfig": "config",
    "ask": "asking.ask",
    "calibrate": "learning.calibrate",
    "draw_allocation": "drawing",
    "estimate": "asking.estimate",
    "evaluate": "learning.evaluate",
    "learn": "learning.loop",
    "unwrap": "wrapping.wrapper",
    "wrap": "wrapping.wrapper",
}
__all__ = [
    "ArrCoc", "ArrCocConfig", "__version__", "ask", "calibrate", "draw_allocation", "estimate", "evaluate", "learn",
    "reference", "unwrap", "wrap",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "reference":
        return importlib.import_module(".reference", __name__)
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
