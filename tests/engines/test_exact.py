"""The engine's plans, words and propensities are the wrapper's: every family, every mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.serving.exactness import REFERENCE, run
from eval.serving.stand_ins import make_stand_in

from .conftest import needs_vllm

pytestmark = needs_vllm
EXPLORED = (*REFERENCE, "qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.mark.parametrize(
    ("kind", "n", "modes"),
    [
        ("reference", 12, ("eager", "chunked")),
        ("several", 6, ("eager",)),
        ("qwen2_vl", 6, ("eager",)),
        ("qwen2_5_vl", 6, ("chunked",)),
        ("qwen3_vl", 6, ("compiled",)),
        ("internvl", 6, ("eager",)),
        ("idefics3", 3, ("chunked",)),
        ("smolvlm", 3, ("eager",)),
        ("llava_next", 3, ("compiled",)),
        ("llava_onevision", 3, ("eager",)),
    ],
)
def test_an_engine_says_and_spends_what_the_wrapper_does(
    kind: str, n: int, modes: tuple[str, ...], tmp_path: Path, models: Path
) -> None:
    """Mixed budgets, several pictures, one picture twice at two allocations, both allocations in one batch.

    The prefix cache is on and pictures come back: its keys, and those of the features, hold the budgets.
    """
    if kind == "smolvlm":
        pytest.importorskip("num2words")  # its processor wants it
    model = kind if kind in REFERENCE else str(make_stand_in(kind, models / kind))
    for mode, found in run(model, n, tmp_path, modes).items():
        equal = {name: found[name] for name in ("plans", "answers", "random_answers", "propensities")}
        assert equal == dict.fromkeys(equal, n), (mode, found)
        assert found["mixed"] > n // 2, (mode, found)
        assert found["explored"] > 0 or kind not in EXPLORED, (mode, found)  # of the others none was drawn to
        assert max(found["attention"], found["doubt"], found["first"]) < 1e-3, (mode, found)
