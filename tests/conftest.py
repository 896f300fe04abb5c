"""What all tests share: no network, no deprecated calls, the reference model loaded once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from inspect import stack
from pathlib import Path
from typing import Any

# Before anything imports transformers or matplotlib: tests must not depend on a network or on a display.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

_PASS_BOTH = {"image_text_to_text.py", "modeling_janus.py"}
"""Files of transformers that themselves give generate a config beside arguments: the pipeline of 5.19, and janus."""


class _Deprecations(logging.Handler):
    """Collects what transformers announces as deprecated through its logger rather than through warnings."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "generation_config` together with" in message and _PASS_BOTH & {Path(f.filename).name for f in stack(0)}:
            return
        if "deprecat" in message.lower() or "will be removed in" in message.lower():
            self.messages.append(message)


@pytest.fixture(autouse=True)
def no_deprecated_calls() -> Iterator[None]:
    """A deprecation message of transformers fails the test that caused it: it is the next release's error."""
    handler = _Deprecations()
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert not handler.messages, f"deprecated transformers calls: {handler.messages}"


@pytest.fixture(scope="session")
def reference() -> tuple[Any, Any]:
    """The shipped reference model and its processor. Shared by all tests: leave it as you found it."""
    import arr_coc.reference

    return arr_coc.reference.load()
