"""Engines: tests that need one run where vLLM is installed (``make test-engine``), the others everywhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="make test-engine")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for stand-ins."""
    return tmp_path_factory.mktemp("models")
