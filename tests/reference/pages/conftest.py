"""A pages model of random weights, small and quick."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from arr_coc.reference.pages.model import build_config, build_model
from arr_coc.reference.pages.processor import build_processor
from arr_coc.reference.pages.tokenizer import ID, SIZE


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def fresh() -> tuple[Any, Any]:
    return build_model(build_config(SIZE, ID), 0).eval(), build_processor()
