"""The tutorials run as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

import arr_coc.reference

TUTORIALS = sorted((Path(__file__).parents[2] / "demo" / "tutorials").glob("*.py"))


@pytest.mark.parametrize("script", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(
    script: Path, reference: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arr_coc.reference, "load", lambda *name: reference)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert "generate" not in vars(reference[0])  # what is attached is detached


def test_every_tutorial_is_listed() -> None:
    page = TUTORIALS[0].with_name("README.md").read_text(encoding="utf-8")
    assert len(TUTORIALS) >= 3 and all(script.name in page for script in TUTORIALS)
