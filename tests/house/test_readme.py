"""What README and guides show is run: Python blocks in order, arr-coc lines, make targets, links."""

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
README = ROOT / "README.md"
FOLDERS = (".github", "allocator", "arr_coc", "eval", "demo", "configs", "tests")
GUIDES = sorted([README, *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
"""Every page a person may read; records and model cards too, for their links."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of a page's fenced blocks, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def shell(page: Path) -> list[str]:
    """The lines of a page's bash blocks, continued ones joined."""
    text = "\n".join(text for kind, text in blocks(page) if kind == "bash").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip()]


ELSEWHERE = ("this/repository", "http://127.0.0.1")
"""Blocks with these need what a test has not: a model card's own repository, a server that runs."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_readme_is_read() -> None:
    kinds = [kind for kind, _ in blocks(README)]
    assert kinds.count("python") >= 2 and any(line.startswith("arr-coc ask") for line in shell(README))


def test_the_readme_is_one_screen_of_promise() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) <= 3 and all(len(table.splitlines()) - 2 <= 7 for table in tables)


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


WALKS = {ROOT / "arr_coc" / "serving" / "README.md"}
"""Pages whose lines need a server between them; tests/serving/test_walk.py runs them."""
SNIPPETS = [page for page in GUIDES if page not in WALKS and any(kind == "python" for kind, _ in blocks(page))]


@pytest.mark.parametrize("page", SNIPPETS, ids=named)
def test_python_blocks_run_and_print_what_they_say(
    page: Path, reference: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: None
) -> None:
    found = blocks(page)
    monkeypatch.setattr(arr_coc.reference, "load", lambda *name: reference)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for (kind, text), following in zip(found, [*found[1:], ("", "")], strict=True):
        if kind != "python" or any(needed in text for needed in ELSEWHERE):
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, named(page), "exec"), scope)
        if following[0] == "text":
            # What it takes is the machine's; what a random model says is nobody's.
            took = r"; [\d.]+ s, of which looking [\d.]+"
            said, shown = (re.sub(took, "; (time)", part) for part in (printed.getvalue(), following[1]))
            assert said == shown or "(time)" in shown and said.endswith(shown), said
    assert "generate" not in vars(reference[0])  # the snippets detach what they attach


def test_the_first_snippet_is_short() -> None:
    first = next(text for kind, text in blocks(README) if kind == "python")
    assert len([line for line in first.splitlines() if line.strip()]) <= 13


def test_every_line_of_the_readme_runs_in_its_order(
    reference: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: None
) -> None:
    """A newcomer's walk: the public model is the tiny one of its class, and learning stops after eight answers."""
    monkeypatch.setattr(arr_coc.reference, "load", lambda *name: reference)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "own.jsonl").write_text('{"image": "photo.jpg", "question": "Is it red?", "answers": ["yes"]}\n')
    ran = 0
    for line in shell(README):
        words = shlex.split(line.replace("Qwen/Qwen2.5-VL-3B-Instruct", str(tmp_path / "hub")), comments=True)
        if words[0] != "arr-coc":
            continue
        small = ["learn.episodes=8", "learn.batch_size=4"] if words[1] == "learn" else []
        result = CliRunner().invoke(app, [*words[1:], *small])
        assert result.exit_code == 0, (line, result.output, result.exception)
        ran += 1
    assert ran >= 6


@pytest.mark.parametrize(
    ("page", "line"),
    [(named(page), line) for page in GUIDES for line in shell(page) if line.startswith("arr-coc")],
)
def test_arr_coc_lines_are_valid_usage(page: str, line: str) -> None:
    """Every command and option of the line exists; nothing is run."""
    command, words = typer.main.get_command(app), shlex.split(line.removesuffix("&"), comments=True)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("arr-coc", words, resilient_parsing=False)


@pytest.mark.parametrize("page", [page for page in GUIDES if shell(page)], ids=named)
def test_other_lines_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in shell(page):
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        if words[:2] == ["python", "-m"] and words[2].split(".")[0] in ("eval", "demo", "arr_coc"):
            assert (ROOT / words[2].replace(".", "/") / "__main__.py").is_file(), line
        for word in words:
            if word.startswith("configs/"):
                assert (ROOT / word).exists(), line


@pytest.mark.parametrize("page", GUIDES, ids=named)
def test_links_into_the_repository_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target
