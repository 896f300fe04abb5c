"""The command line with good and bad input: answers with their budgets, or one clear line and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import arr_coc.reference
from arr_coc.cli import app
from arr_coc.commands.terminal import parse_limit, patch_rows

ROOT = Path(__file__).parents[2]
QUESTION = "what number is on the red sign ?"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def one_error(result: Result, *needles: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that says what the needles say, no traceback."""
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and result.stderr.endswith(lines[0] + "\n"), result.stderr
    assert "Traceback" not in result.output
    for needle in needles:
        assert needle in lines[0], (needle, lines[0])


@pytest.fixture(scope="module")
def sign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2 x 2 picture of the reference world, 320 x 320 pixels."""
    (sample,) = arr_coc.reference.generate(1, seed=5, grid=(2, 2), kinds=["number"])
    file = tmp_path_factory.mktemp("pictures") / "sign.png"
    sample["image"].save(file)
    return file


@pytest.fixture
def loaded(reference: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The command line gets the session's reference model instead of loading it again and again."""
    monkeypatch.setattr(arr_coc.reference, "load", lambda *_, **__: reference)
    return reference


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error must come before a model is loaded."""
    monkeypatch.setattr(arr_coc.reference, "load", lambda *_, **__: pytest.fail("the model was loaded"))


# ---------------------------------------------------------------- asking


def test_ask_prints_answer_grid_tokens_and_times(loaded: Any, sign: Path) -> None:
    result = run("ask", "-i", sign, "-q", QUESTION)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    rows = [[int(cell) for cell in line.split()] for line in lines if line.startswith("  ")]
    assert [len(row) for row in rows] == [2, 2] and set(sum(rows, [])) <= {64, 128, 256, 400}
    assert lines[0].strip() and f"visual tokens: {sum(map(sum, rows)):,} of 1,600 at full detail" in result.stdout
    for stage in ("glance", "read", "knowing", "balancing", "attending", "encode", "splice", "generate", "total"):
        assert stage in lines[-1]


def test_ask_json_is_one_object(loaded: Any, sign: Path) -> None:
    result = run("ask", "-i", sign, "-q", QUESTION, "--json", "--limit", "0.5")
    record = json.loads(result.stdout)
    assert record["tokens"] == sum(record["realised"]) <= 800 and record["full_tokens"] == 1600
    assert record["grid"] == [2, 2] and len(record["budgets"]) == 4 and "red sign" in record["question"]
    assert record["answer"] and record["timings"]["generate"] > 0


def test_uniform_spends_exactly_its_budget(loaded: Any, sign: Path) -> None:
    result = run("ask", "-i", sign, "-q", QUESTION, "--policy", "uniform", "--budget", 128, "--json")
    assert json.loads(result.stdout)["realised"] == [128] * 4


def test_the_model_is_left_as_it_was(loaded: Any, sign: Path) -> None:
    model, before = loaded[0], set(vars(loaded[0]))
    assert run("ask", "-i", sign, "-q", QUESTION).exit_code == 0
    assert set(vars(model)) == before and not model._forward_pre_hooks


@pytest.mark.parametrize("size", [(1, 1), (2000, 40), (641, 427)])
def test_any_picture_gets_an_answer_and_an_overlay(loaded: Any, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("P", size, 3).save(tmp_path / "a.png")
    result = run("ask", "-i", tmp_path / "a.png", "-q", "What is this?", "-o", tmp_path / "new" / "overlay.jpg")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "new" / "overlay.jpg") as overlay:
        assert overlay.mode == "RGB" and min(overlay.size) > 0


def test_the_installed_command_answers_offline(sign: Path, reference: Any) -> None:
    """The whole way in a process of its own: nothing patched, nothing downloaded."""
    command = [sys.executable, "-m", "arr_coc.cli", "ask", "-i", str(sign), "-q", QUESTION, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["full_tokens"] == 1600


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "needles"),
    [
        (["--limit", "many"], ["'many'", "0.4"]),
        (["--limit", "0"], ["limit=0", "positive"]),
        (["--limit", "-5"], ["limit=-5", "positive"]),
        (["--limit", "1.5"], ["1.5", "(0, 1]"]),
        (["--limit", "0.0"], ["0.0", "(0, 1]"]),
        (["--limit", "nan"], ["'nan'", "number"]),
        (["--price", "nan"], ["price=nan", "finite"]),
        (["--price", "-1"], ["price=-1", ">= 0"]),
        (["--budget", "64"], ["--budget 64", "--policy uniform"]),
        (["--seed", "-1"], ["seed=-1", ">= 0"]),
        (["--device", "quantum"], ["'quantum'", "cpu"]),
        (["--out", "overlay"], ["overlay", ".png"]),
        (["--out", "overlay.txt"], ["overlay.txt", ".png"]),
        (["--out", "/dev/null/x.png"], ["/dev/null", "choose another"]),
        (["--model", ""], ["empty", "hub name"]),
        (["--model", "./no/such/folder"], ["./no/such/folder", "does not exist"]),
        (["--model", "nobody/no-such-model"], ["nobody/no-such-model", "no local folder", "hf download"]),
        (["--model", "no such model"], ["'no such model'", "ORG/NAME"]),
        (["--policy", "tompson"], ["'tompson'", "Did you mean 'thompson'", "heuristic"]),
        (["--policy", "uniform"], ["uniform", "budget="]),
        (["--policy", "fixed"], ["'fixed'", "allocation="]),
        (["--policy", "nothing/here"], ["no saved policy 'nothing/here'", "can't be reached"]),
        (["--policy", "nothing/here/policy"], ["no saved policy 'nothing/here/policy'", "no folder here"]),
        (["--policy", str(ROOT)], [str(ROOT), "holds no saved policy", "RUN/policy"]),
        (["--set", "wrap.limt=3"], ["'limt'", "Did you mean 'limit'"]),
        (["--set", "limit"], ["'limit'", "wrap.KEY=VALUE"]),
        (["--set", "wrap.scorers=participatory"], ["scorers='participatory'", "sequence"]),
        (["--set", "wrap.budgets=[4, 2]"], ["budgets=(4, 2)", "rise"]),
        (["--question", "  "], ["question is empty"]),
        (["--image", "nowhere.png"], ["nowhere.png", "does not exist"]),
        (["--image", str(ROOT)], ["directory"]),
        (["--image", str(ROOT / "LICENSE")], ["LICENSE", "holds text"]),
    ],
)
def test_bad_options_of_ask(no_model: None, sign: Path, options: list[str], needles: list[str]) -> None:
    one_error(run("ask", "-i", sign, "-q", QUESTION, *options), *needles)


@pytest.mark.parametrize(
    ("options", "needles"),
    [
        (["--set", "wrap.scorers=[{name: participatory, layers: [30]}]"], ["layer 30", "-3 to 2"]),
        (["--set", "wrap.scorers=[participatry]"], ["'participatry'", "Did you mean 'participatory'"]),
        (["--realizer", "rescal"], ["'rescal'", "Did you mean 'rescale'"]),
        (["--limit", "100"], ["limit=100", "at least 256"]),
        (["--policy", "uniform", "--budget", "63"], ["budget=63", "(64, 128, 256, 400)"]),
        (["--limit", "1601"], ["limit=1601", "at most 1600"]),
        (["--question", "?"], ["question", "empty"]),
    ],
)
def test_bad_options_that_the_model_must_judge(
    loaded: Any, sign: Path, options: list[str], needles: list[str]
) -> None:
    one_error(run("ask", "-i", sign, "-q", QUESTION, *options), *needles)
    assert "generate" not in vars(loaded[0])  # and nothing stays attached


@pytest.mark.parametrize(
    ("files", "needles"),
    [
        ({}, ["no config.json"]),
        ({"config.json": "{oops"}, ["can't be loaded", "JSON"]),
        ({"config.json": "{}"}, ["can't be loaded", "model_type"]),
        ({"config.json": '{"model_type": "bert"}'}, ["'bert'", "no supported vision-language model", "qwen2_vl"]),
        ({"config.json": '{"model_type": "qwen9_vl"}'}, ["can't be loaded", "qwen9_vl"]),
        ({"config.json": '{"model_type": "qwen2_vl"}'}, ["can't be loaded"]),
    ],
)
def test_folders_that_are_no_model(
    no_model: None, tmp_path: Path, sign: Path, files: dict, needles: list[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    one_error(run("ask", "-i", sign, "-q", QUESTION, "-m", folder), "model", *needles)


def test_truncated_weights_are_an_error(no_model: None, tmp_path: Path, sign: Path, reference: Any) -> None:
    model, processor = reference
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert run("ask", "-i", sign, "-q", QUESTION, "-m", tmp_path, "--policy", "random").exit_code == 0
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    one_error(run("ask", "-i", sign, "-q", QUESTION, "-m", tmp_path), "can't be loaded")


def test_debug_shows_the_traceback(no_model: None, sign: Path) -> None:
    result = run("ask", "-i", sign, "-q", " ", "--debug")
    assert isinstance(result.exception, ValueError)


def test_a_defect_is_not_dressed_up_as_bad_input(sign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(arr_coc.reference, "load", broken)
    assert isinstance(run("ask", "-i", sign, "-q", QUESTION).exception, ZeroDivisionError)


def test_missing_options_are_named(no_model: None) -> None:
    result = run("ask", "-q", QUESTION)
    assert result.exit_code == 2 and "--image" in result.stderr and "Traceback" not in result.stderr


# ---------------------------------------------------------------- the other commands


def test_help_teaches_by_examples() -> None:
    for command in (
        ["ask"],
        ["evaluate"],
        ["learn"],
        ["info"],
        ["serve"],
        ["retrain"],
        ["rollback"],
        ["reference", "train"],
        ["reference", "eval"],
        ["reference", "draw"],
    ):
        result = run(*command, "--help")
        assert result.exit_code == 0 and f"arr-coc {' '.join(command)}" in " ".join(result.stdout.split())


HEAVY = {"torch", "transformers", "matplotlib", "scipy", "sklearn"}
"""Half a second and more each: what is told before one of them is imported is told at once."""


def imported_by(*arguments: object) -> tuple[str, set[str]]:
    """What a process of its own prints, and the heavy modules that it imported."""
    code = (
        "import sys; from typer.testing import CliRunner; from arr_coc.cli import app\n"
        f"print(CliRunner().invoke(app, {[str(a) for a in arguments]!r}).output)\n"
        f"print('HEAVY:', *({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    output, _, names = done.stdout.rpartition("HEAVY:")
    return output, set(names.split())


@pytest.mark.parametrize("command", [["ask"], ["evaluate"], ["learn"], ["serve"], ["retrain"], ["reference", "draw"]])
def test_help_is_instant(command: list[str]) -> None:
    output, heavy = imported_by(*command, "--help")
    assert "Usage" in output and not heavy


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--limit", "0"], "limit=0"),
        (["--policy", "tompson"], "thompson"),
        (["--policy", "nothing/here/policy"], "no saved policy"),
        (["--policy", "nothing/here"], "no saved policy"),
        (["--model", "./no/such"], "does not exist"),
        (["--model", "nobody/no-such-model"], "hf download"),
        (["--image", "nowhere.png"], "nowhere.png"),
        (["--set", "wrap.limt=3"], "limt"),
        (["--out", "overlay.txt"], "overlay.txt"),
    ],
)
def test_errors_are_instant(sign: Path, options: list[str], said: str) -> None:
    output, heavy = imported_by("ask", "-i", sign, "-q", QUESTION, *options)
    assert output.startswith("error: ") and said in output and not heavy


def test_learning_and_evaluating_err_as_quickly(tmp_path: Path) -> None:
    for command in (
        ["learn", tmp_path / "no.yaml"],
        ["learn", "wrap.policy=tompson"],
        ["learn", "wrap.polcy=thompson"],
        ["learn", "learn.epsiodes=3"],
        ["learn", "learn.reward=vqa"],
        ["learn", "model.name=./no/such"],
        ["evaluate", "a.jsonl", "--policy", "tompson"],
    ):
        output, heavy = imported_by(*command)
        assert "error: " in output and not heavy, output


def test_asking_imports_nothing_beyond_torch_and_transformers(sign: Path) -> None:
    """What it takes to start is what these two take; the libraries of learning, plots and serving stay out."""
    code = (
        "import sys; from typer.testing import CliRunner; from arr_coc.cli import app\n"
        f"assert CliRunner().invoke(app, ['ask', '-i', {str(sign)!r}, '-q', {QUESTION!r}]).exit_code == 0\n"
        "ours, mine = set(sys.modules), set(sys.argv[1:])\n"
        "print(*(mine & ours))"
    )
    kept_out = ["sklearn", "matplotlib", "pandas", "datasets", "evaluate", "fastapi", "gradio", "timm", "scipy.stats"]
    done = subprocess.run([sys.executable, "-c", code, *kept_out], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_an_unreachable_hub_is_asked_once(sign: Path, no_model: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took 32 seconds of retries."""
    import huggingface_hub

    asked = []

    def model_info(self: Any, name: str, timeout: float) -> None:
        asked.append((name, timeout))
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    one_error(run("ask", "-i", sign, "-q", QUESTION, "-m", "nobody/no-such-model"), "can't be reached")
    assert asked == [("nobody/no-such-model", 5.0)]


def test_a_repository_that_does_not_exist_is_named(sign: Path, no_model: None, monkeypatch: Any) -> None:
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def model_info(self: Any, name: str, timeout: float) -> None:
        error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
        Exception.__init__(error, "404")
        error.response = type("Response", (), {"status_code": 404})()
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    one_error(run("ask", "-i", sign, "-q", QUESTION, "-m", "nobody/none"), "no such repository", "(404)", "hf auth")


def test_settings_of_the_configuration_reach_the_model(loaded: Any, sign: Path) -> None:
    result = run("ask", "-i", sign, "-q", QUESTION, "--set", "wrap.scorers=[participatory]", "--set",
                 "wrap.budgets=[64, 256]", "--json")  # fmt: skip
    record = json.loads(result.stdout)
    assert set(record["scores"]) == {"participatory"} and set(record["budgets"]) <= {64, 256}


def test_info_names_what_exists() -> None:
    facts = json.loads(run("info", "--json").stdout)
    assert {"thompson", "uniform", "random", "heuristic"} <= set(facts["policies"])
    assert {"propositional", "perspectival", "participatory"} <= set(facts["scorers"])
    assert {"rescale", "pool", "select"} <= set(facts["realizers"])
    assert "qwen2_vl" in facts["families"] and facts["transformers"]
    assert "thompson" in run("info").stdout


def test_reference_draw_writes_pictures_or_a_page(tmp_path: Path) -> None:
    result = run("reference", "draw", "--out", tmp_path / "world", "-n", 2)
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (tmp_path / "world" / "questions.jsonl").read_text().splitlines()]
    assert len(records) == 2 and all((tmp_path / "world" / r["image"]).is_file() for r in records)
    assert run("reference", "draw", "--out", tmp_path / "new" / "page.png", "-n", 2).exit_code == 0
    with Image.open(tmp_path / "new" / "page.png") as page:
        assert min(page.size) > 320


def test_bad_input_of_the_reference_commands(no_model: None, tmp_path: Path) -> None:
    one_error(run("reference", "draw", "--out", tmp_path, "--split", "test"), "'test'", "eval")
    one_error(run("reference", "draw", "--out", tmp_path / "page.txt"), "page.txt", ".png")
    (tmp_path / "file").write_text("")
    one_error(run("reference", "train", "--out", tmp_path / "file" / "run"), "choose another")
    one_error(run("reference", "eval", "./none"), "./none", "does not exist")
    one_error(run("reference", "publish", tmp_path), "no finished training run")


@pytest.mark.parametrize(
    ("text", "value"), [("600", 600), ("0.4", 0.4), ("1.0", 1.0), ("none", None), ("None", None), ("1.", 1.0)]
)
def test_limits_are_tokens_or_shares(text: str, value: object) -> None:
    assert parse_limit(text) == value and type(parse_limit(text)) is type(value)


def test_patches_are_printed_where_they_lie() -> None:
    from arr_coc.scene.patches import make_patches

    two_views = make_patches([(0, 0, 40, 41), (1, 0, 20, 20)])
    assert patch_rows(two_views, None) == [[[0, 1, 2], [3, 4, 5]], [[6]]]
    six_entries = make_patches([(i, 0, 20, 20) for i in range(6)])
    assert patch_rows(six_entries, (2, 3)) == [[[0, 1, 2], [3, 4, 5]]]
