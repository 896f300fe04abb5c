"""What ``arr-coc serve --engine vllm`` types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from arr_coc import ArrCocConfig
from arr_coc.engines.vllm.launch import command, environment
from arr_coc.serving.config import ServeConfig
from eval.serving.stand_ins import make_stand_in


def overrides(line: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line[line.index("--hf-overrides") + 1]) if "--hf-overrides" in line else {}
    return found


def test_what_a_model_says_of_itself_is_kept_beside_the_policys_own(models: Path) -> None:
    """vLLM replaces the whole entry of a configuration; the layers at which a model is read must survive that."""
    folder = make_stand_in("qwen2_vl", models / "qwen2_vl")
    file = folder / "config.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), "arr_coc": {"layers": [1, 2], "patch_side": 8}}))
    try:
        assert overrides(command(str(folder), ArrCocConfig())) == {}  # nothing to say
        said = overrides(command(str(folder), ArrCocConfig(realizer="pool")))
        assert said == {"arr_coc": {"layers": [1, 2], "patch_side": 8, "realizer": "pool"}}
    finally:
        file.write_text(before)


def test_further_options_come_last_and_settings_travel_in_the_environment() -> None:
    line = command("reference", ArrCocConfig(), port=9, further=["--port", "10"])
    assert line[-2:] == ["--port", "10"] and overrides(line) == {"architectures": ["ArrCocReferenceVLM"]}
    config = ServeConfig(upload_bytes=3 * 2**20, queue=5)
    made = environment(Path("p"), Path("l"), config, ["a", "b"], {"VLLM_PLUGINS": "other", "X": "1"})
    assert made["VLLM_PLUGINS"] == "other,arr_coc" and made["X"] == "1"
    assert (made["ARR_COC_UPLOAD_MB"], made["ARR_COC_QUEUE"], made["ARR_COC_ALLOW"]) == ("3.0", "5", "a,b")


@pytest.mark.parametrize("value", ["-1", "much"])
def test_a_wrong_setting_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from arr_coc.engines.vllm.endpoint import settings

    monkeypatch.setenv("ARR_COC_UPLOAD_MB", value)
    with pytest.raises(ValueError):
        settings()
