"""The page about one's own questions: its lines run, on a list as a person would write it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import arr_coc
from arr_coc.cli import app
from tests.zoo.pretrained import save_qwen2_5_vl

PAGE = (Path(arr_coc.__file__).parent / "learning" / "DATA.md").read_text(encoding="utf-8")
MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's own rows and their picture, and the tiny model in the place of the public one."""
    save_qwen2_5_vl(tmp_path / "model")
    rows = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1]
    (tmp_path / "own.jsonl").write_text(rows)
    (tmp_path / "held-out.jsonl").write_text(rows)
    (tmp_path / "receipts").mkdir()
    next(arr_coc.reference.generate(1, grid=(2, 2)))["image"].save(tmp_path / "receipts" / "17.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_page_runs(desk: Path) -> None:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line.replace(MODEL, str(desk / "model")).replace("episodes=1500", "episodes=4"))
        if words[1] == "evaluate":
            words += ["--max-new-tokens", "2"]
        shown = CliRunner().invoke(app, words[1:])
        assert shown.exit_code == 0, (line, shown.output, shown.exception)
    records = [json.loads(line) for line in (desk / "answers.jsonl").read_text().splitlines()]
    assert len(records) == 6 and {record["image_id"] for record in records} == {"receipts/17.jpg"}
    assert (desk / "runs" / "own" / "policy" / "config.json").is_file()


def test_the_page_names_every_field_and_reward_that_there_is() -> None:
    from arr_coc.learning.rewards import make_reward
    from arr_coc.learning.task_config import FIELDS

    assert all(f"`{name}`" in PAGE for name in FIELDS)
    for name in ("vqa_accuracy", "anls", "relaxed_accuracy", "gqa_accuracy", "pope_accuracy"):
        assert f"`{name}`" in PAGE and make_reward(name)


@pytest.mark.parametrize("form", ["path", "bytes", "array", "pillow"])
def test_pictures_in_memory_may_have_any_form(form: str, reference: Any, tmp_path: Path) -> None:
    import numpy as np

    (sample,) = arr_coc.reference.generate(1, grid=(1, 1), kinds=["color"])
    sample["image"].save(tmp_path / "a.png")
    image = {"path": str(tmp_path / "a.png"), "bytes": (tmp_path / "a.png").read_bytes(),
             "array": np.asarray(sample["image"]), "pillow": sample["image"]}[form]  # fmt: skip
    with arr_coc.wrap(*reference) as arr:
        row = {"image": image, "question": sample["question"], "answers": sample["answers"]}
        found = arr_coc.evaluate(arr, [row], ["full"], max_new_tokens=4, progress=False)
    assert found.questions == found.images == 1
