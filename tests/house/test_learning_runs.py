"""A learning run from its settings: files, overrides, sources of questions, and what a bad one is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import arr_coc.reference
from arr_coc.cli import app
from arr_coc.learning.runs import learn_sections
from arr_coc.learning.settings import read_settings
from arr_coc.learning.tasks import Task, TaskConfig, learning_task

ROOT = Path(__file__).parents[2]
KNOWN = {"wrap": ("price", "policy"), "learn": ("episodes", "target")}


@pytest.fixture
def loaded(reference: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arr_coc.reference, "load", lambda *_, **__: reference)


def test_overrides_lie_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("wrap: {price: 0.3, policy: ucb}\nlearn:\n")
    settings = read_settings(file, KNOWN, ["wrap.price=0.5", "learn.target=null", "learn.episodes=7"])
    assert settings == {"wrap": {"price": 0.5, "policy": "ucb"}, "learn": {"target": None, "episodes": 7}}
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_settings(tmp_path / "empty.yaml", KNOWN) == {"wrap": {}, "learn": {}}


@pytest.mark.parametrize(
    ("text", "override", "needles"),
    [
        ("wrap: {prize: 1}", None, ["'prize'", "Did you mean 'price'"]),
        ("rwap: {price: 1}", None, ["'rwap'", "Did you mean 'wrap'"]),
        ("wrap: 3", None, ["'wrap'", "3"]),
        ("- wrap", None, ["sections", "list"]),
        ("wrap: {price: [}", None, ["YAML", "line 1"]),
        ("\0", None, ["YAML"]),
        ("", "price=3", ["'price=3'", "section.key=value"]),
        ("", "wrap.price", ["section.key=value"]),
        ("", "wrap.prize=3", ["'prize'", "Did you mean 'price'"]),
        ("", "rwap.price=3", ["'rwap'", "Did you mean 'wrap'"]),
        ("", "wrap.price=[", ["no YAML value"]),
    ],
)
def test_bad_settings(tmp_path: Path, text: str, override: str | None, needles: list[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        read_settings(file, KNOWN, [override] if override else [])
    assert all(needle in str(error.value) for needle in needles), error.value


def test_settings_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x80")
    for file, needle in (
        (tmp_path / "c.yaml", "does not exist"),
        (tmp_path, "directory"),
        (tmp_path / "b.yaml", "text"),
    ):
        with pytest.raises(ValueError, match=needle):
            read_settings(file, KNOWN)


def test_the_shipped_settings_are_valid() -> None:
    settings = read_settings(ROOT / "configs" / "learn.yaml", learn_sections())
    assert settings["wrap"]["policy"] == "neural_mixture"
    assert learning_task(settings["task"], 3).config.source == "reference"


def test_questions_from_a_file(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    lines = [{"image": "a.png", "q": "what ?", "answers": ["x"]}, {"image": "a.png", "q": "who ?", "answers": ["y"]}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    task = learning_task({"path": str(tmp_path / "q.jsonl"), "columns": {"question": "q"}}, 5)
    questions = list(task)
    assert task.config.source == "jsonl" and len(questions) == 2
    assert questions[1]["question"] == "who ?" and questions[1]["answers"] == ["y"]
    assert questions[0]["image"].mode == "RGB" and questions[0]["image"].size == (3, 2)
    assert [q["question"] for q in task] == ["what ?", "who ?"]


def test_questions_from_a_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"image": [Image.new("RGB", (4, 4))], "question": ["what ?"], "answer": ["x"]})
    (sample,) = Task.of(data)
    assert sample["image"].size == (4, 4) and sample["answers"] == ["x"]


@pytest.mark.parametrize(
    ("text", "needle"),
    [("", "empty"), ("{oops", "line 1"), ("[1]", "line 1"), ('{"image": "a.png"}\n{', "line 2")],
)
def test_bad_question_files(tmp_path: Path, text: str, needle: str) -> None:
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(ValueError, match=needle):
        list(Task.of(tmp_path / "q.jsonl"))


def test_bad_sources_and_columns(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        Task.of(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="nobody/no-such-dataset"):
        list(Task.of("nobody/no-such-dataset"))
    with pytest.raises(ValueError, match="Did you mean 'question'"):
        list(Task.of([{"image": "a", "question": "q"}], columns={"question": "qestion"}))
    with pytest.raises(ValueError, match="no column 'question' for 'question', only .*'frage'"):
        list(Task.of([{"image": "a", "frage": "q"}]))


def test_a_path_is_never_ignored(tmp_path: Path) -> None:
    for path, source in (("q.jsonl", "jsonl"), ("lmms-lab/POPE", "dataset"), ("table.parquet", "dataset")):
        assert TaskConfig(path=path).source == source
    assert TaskConfig(path="q.json", annotations="a.json").source == "vqa_json"
    assert TaskConfig().source == "reference" and TaskConfig().split == "eval"
    with pytest.raises(ValueError, match="task.path='q.jsonl' would be ignored.*jsonl"):
        TaskConfig(source="reference", path="q.jsonl")
    with pytest.raises(ValueError, match="is for rows in memory"):
        Task(TaskConfig(source="rows"))


def test_rows_in_memory_keep_what_a_reward_of_ones_own_may_read_and_rows_can_be_skipped() -> None:
    rows = [{"image": Image.new("L", (3, 3)), "question": f"{i} ?", "answer": "x", "weight": i} for i in range(4)]
    found = list(Task.of(rows, skip=1, limit=2, prompt="{question} Briefly."))
    assert [(s["weight"], s["question"], s["question_id"]) for s in found] == [
        (1, "1 ? Briefly.", "1"), (2, "2 ? Briefly.", "2"),
    ]  # fmt: skip
    assert len(list(Task.of(rows))) == 4
    with pytest.raises(ValueError, match="no row is left after task.skip=4"):
        list(Task.of(rows, skip=4))
    first, second = (list(Task.of("reference", limit=2, skip=skip)) for skip in (0, 1))
    assert first[1]["question_id"] == second[0]["question_id"]


def test_a_short_run_learns_resumes_and_is_used(loaded: None, tmp_path: Path) -> None:
    out = tmp_path / "run"
    base = ["learn", str(ROOT / "configs" / "learn.yaml"), "--out", str(out)]
    short = ["learn.episodes=8", "learn.batch_size=4", "task.kinds=[color]"]
    first = CliRunner().invoke(app, [*base, *short])
    assert first.exit_code == 0, first.output
    assert yaml.safe_load((out / "settings.yaml").read_text())["learn"]["episodes"] == 8
    assert len((out / "log.jsonl").read_text().splitlines()) == 8 and (out / "policy").exists()

    again = CliRunner().invoke(app, [*base, *short])
    assert again.exit_code == 2 and "--resume" in again.stderr and "Traceback" not in again.output
    other = CliRunner().invoke(app, [*base, *short, "wrap.price=0.9", "--resume"])
    assert other.exit_code == 2 and "wrap.price=0.05" in other.stderr and "0.9" in other.stderr
    longer = CliRunner().invoke(app, [*base, *short, "learn.episodes=12", "--resume"])
    assert longer.exit_code == 0, longer.output
    assert [json.loads(line)["episode"] for line in (out / "log.jsonl").read_text().splitlines()] == list(range(12))

    (sample,) = arr_coc.reference.generate(1, kinds=["color"])
    sample["image"].save(tmp_path / "a.png")
    ask = ["ask", "-i", str(tmp_path / "a.png"), "-q", sample["question"], "--policy", str(out / "policy"), "--json"]
    asked = CliRunner().invoke(app, ask)
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["decision"]["policy"] == "neural_mixture"


@pytest.mark.parametrize(
    ("overrides", "needles"),
    [
        (["learn.episodes=0"], ["episodes=0"]),
        (["learn.target=2"], ["target=2"]),
        (["learn.reward=vqa"], ["'vqa'"]),
        (["wrap.policy=random"], ["'random'", "neural_mixture"]),
        (["wrap.budgets=[64, -1]"], ["-1"]),
        (["task.split=test"], ["'test'"]),
        (["task.kinds=[colour]"], ["'colour'"]),
        (["learn.epsiodes=3"], ["'epsiodes'", "'episodes'"]),
    ],
)
def test_bad_runs_are_one_line(loaded: None, tmp_path: Path, overrides: list[str], needles: list[str]) -> None:
    command = ["learn", str(ROOT / "configs" / "learn.yaml"), *overrides, "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    error = next(line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert all(needle in error for needle in needles), error


def test_the_settings_of_learning_are_its_parameters() -> None:
    import inspect

    from arr_coc.learning.loop import learn
    from arr_coc.learning.runs import LEARN

    set_by_the_command = {"arr", "dataset", "out", "resume", "progress", "workers"}
    assert set(LEARN) == set(inspect.signature(learn).parameters) - set_by_the_command
