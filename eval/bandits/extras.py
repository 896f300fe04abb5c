"""Optional libraries: loaded when asked for, with a message that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any


def optional(module: str, package: str | None = None) -> Any:
    """Import an optional module.

    Raises
    ------
    ImportError
        If it is not installed; the message names the package to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = package or module.split(".")[0]
        raise ImportError(f"this needs the optional package {name!r}: pip install {name}") from error
