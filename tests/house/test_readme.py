"""What the README shows is run: Python blocks in order, arr-coc lines, make targets."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import arr_coc.reference
from arr_coc.cli import app
from tests.zoo.pretrained import save_qwen2_5_vl

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
SHELL = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]


def test_the_readme_is_read() -> None:
    assert [kind for kind, _ in BLOCKS].count("python") >= 2 and any(line.startswith("arr-coc ask") for line in SHELL)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the first block names: the class's tiny random model under the real one's name, and a photograph."""
    import transformers
    from sklearn.datasets import load_sample_image

    folder = save_qwen2_5_vl(tmp_path / "hub")
    for kind in (transformers.AutoModelForImageTextToText, transformers.AutoProcessor):
        load = kind.from_pretrained

        def from_pretrained(name: str, *args: Any, load: Any = load, **options: Any) -> Any:
            return load(folder if name == "Qwen/Qwen2.5-VL-3B-Instruct" else name, *args, **options)

        monkeypatch.setattr(kind, "from_pretrained", from_pretrained)
    Image.fromarray(load_sample_image("china.jpg")).save(tmp_path / "photo.jpg")


def test_python_blocks_run_and_print_what_they_say(
    reference: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: None
) -> None:
    monkeypatch.setattr(arr_coc.reference, "load", lambda: reference)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for (kind, text), following in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
        if kind != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, "README.md", "exec"), scope)
        if following[0] == "text":
            # What it takes is the machine's; what a random model says is nobody's.
            took = r"; [\d.]+ s, of which looking [\d.]+"
            said, shown = (re.sub(took, "; (time)", part) for part in (printed.getvalue(), following[1]))
            assert said == shown or "(time)" in shown and said.endswith(shown), said
    assert "generate" not in vars(reference[0])  # the snippets detach what they attach


def test_the_first_snippet_is_short() -> None:
    first = next(text for kind, text in BLOCKS if kind == "python")
    assert len([line for line in first.splitlines() if line.strip()]) <= 12


def test_shell_lines_that_need_nothing_else_run(
    reference: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(arr_coc.reference, "load", lambda: reference)
    monkeypatch.chdir(tmp_path)
    ran = 0
    for line in SHELL:
        if line.startswith("arr-coc reference draw") or line == "arr-coc info" or "--image pictures/" in line:
            result = CliRunner().invoke(app, shlex.split(line)[1:])
            assert result.exit_code == 0, (line, result.output)
            ran += 1
    assert ran >= 4


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("arr-coc")])
def test_arr_coc_lines_are_valid_usage(line: str) -> None:
    """Every command and option of the line exists; nothing is run."""
    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("arr-coc", words, resilient_parsing=False)


def test_other_lines_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in SHELL:
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets
        if words[:2] == ["python", "-m"]:
            assert (ROOT / words[2].replace(".", "/") / "__main__.py").is_file(), line
        for word in words:
            if word.startswith("configs/"):
                assert (ROOT / word).is_file(), line


def test_links_into_the_repository_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
