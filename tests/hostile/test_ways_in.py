"""Mutated pictures, policies, logs and stores through every way in; tests/README.md has the table of cells."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import arr_coc
from allocator.logged.explore import Exploration
from allocator.logged.log import DecisionLog, LogError, find
from arr_coc.asking.ask import ask
from arr_coc.asking.models import wrap_with
from arr_coc.cli import app
from arr_coc.commands.terminal import EXPECTED
from arr_coc.learning.loop import _Store
from arr_coc.learning.workers import Workers
from arr_coc.serving.policy import Policies
from arr_coc.serving.store import Store
from eval.serving.pictures import mutated, sound

from .histories import Poison, mutate_line, serve, write
from .test_mutations import WEAK, WHOLE, believing, make_store, mutate_bytes, mutate_json, mutate_policy

RUN = CliRunner()
COUNT = 500 if WHOLE else 40


def told(arguments: list[str]) -> bool:
    """Whether a command succeeded; if not, it has said why in words."""
    result = RUN.invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
    assert result.exit_code in (0, 2) and "Traceback" not in result.output, (arguments, result.output)
    return result.exit_code == 0


# ---------------------------------------------------------------- pictures


def test_pictures_that_are_asked_about(tmp_path: Path) -> None:
    """`arr-coc ask`: most are refused before a model is loaded."""
    seen, file = Counter[bool](), tmp_path / "upload"
    for _, data in mutated(1000 if WHOLE else 14, seed=11):
        file.write_bytes(data)
        seen[told(["ask", "-i", str(file), "-q", "what is this ?", "--budget", "64", "--policy", "uniform"])] += 1
    assert seen[False] > seen[True] > 0, seen


def test_pictures_that_a_page_is_given(tmp_path: Path) -> None:
    """The demo's own reading of uploads; tests/demo holds it to the real page."""
    gradio = pytest.importorskip("gradio")
    from gradio.data_classes import ImageData

    from demo.tabs.common import MAX_PIXELS, Picture

    component, seen = Picture(), Counter[bool]()
    for n, (_, data) in enumerate(mutated(1000 if WHOLE else 100, seed=12)):
        file = tmp_path / f"{n}.png"
        file.write_bytes(data)
        try:
            image = component.preprocess(ImageData(path=str(file), orig_name="<b>mine</b>.png"))
            assert image is not None and image.mode == "RGB" and image.width * image.height <= MAX_PIXELS
            seen[True] += 1
        except gradio.Error as error:
            assert str(tmp_path) not in str(error.message) and "<b>" not in str(error.message)
            seen[False] += 1
    assert seen[False] > seen[True] > 0, seen


@pytest.mark.parametrize("command", ["learn", "evaluate"])
def test_a_data_set_with_damaged_pictures_is_worked_through(tmp_path: Path, command: str) -> None:
    """What can't be read is counted; test_data has a thousand of them, one by one."""
    rows = []
    for n, data in enumerate([sound()["png"], *(data for _, data in mutated(40, seed=13))]):
        (tmp_path / f"{n}.png").write_bytes(data)
        rows.append({"image": f"{n}.png", "question": "what color is the sign ?", "answer": "red"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file, out = str(tmp_path / "rows.jsonl"), str(tmp_path / "out")
    if command == "learn":
        given = [f"task.path={file}", "learn.episodes=4"]
        assert told(["learn", *given, "task.max_unreadable=1.0", "--out", out])
        assert not told(["learn", *given, "task.max_unreadable=0.0", "--out", out + "2"])
    else:
        assert not told(["evaluate", file, "--baselines", "uniform-64"])  # more than a twentieth


# ---------------------------------------------------------------- policies


def test_policies_that_a_question_is_asked_with(tmp_path: Path, reference: Any) -> None:
    """`ask`, `evaluate`, the demo and Python wrap by `wrap_with`: it is refused, or it answers; the model stays."""
    rng, seen, model = np.random.default_rng(14), Counter[str](), reference[0]
    (sample,) = arr_coc.reference.generate(1, seed=3, grid=(1, 2))
    for n in range(COUNT):
        mutate_policy(tmp_path / "policy", n, rng)
        try:
            arr = wrap_with(*reference, {"policy": str(tmp_path / "policy")})
        except EXPECTED as error:
            assert str(error) and "generate" not in vars(model)
            seen["refused"] += 1
            continue
        try:
            ask(arr, sample["image"], sample["question"], max_new_tokens=1)
            seen["answers"] += 1
        except EXPECTED as error:
            assert str(error)
            seen["refused with the question"] += 1
        finally:
            arr.detach()
    assert seen["refused"] > COUNT / 3 and seen["answers"] > COUNT / 20, seen


def test_policies_that_a_server_is_pointed_at(tmp_path: Path, reference: Any) -> None:
    """Our own server's and the engine's `Policies`: what is served can choose, or the one before is served on."""
    rng, seen = np.random.default_rng(15), Counter[bool]()
    store = Store.create(tmp_path / "store", arr_coc.reference.policy_path())
    policies = Policies(store.path, Exploration(), *reference)
    for n in range(COUNT):
        mutate_policy(tmp_path / "policy", n, rng)
        name = store.add(lambda new: shutil.copytree(tmp_path / "policy", new, dirs_exist_ok=True), {})
        store.point_to(name)
        try:
            policies.load()
            seen[True] += 1
        except (ValueError, TypeError, FileNotFoundError) as error:  # `Service` says so and goes on
            assert str(error)
            seen[False] += 1
        assert policies.version == "0001"
        store.point_to("0001")
        shutil.rmtree(store.folder(name))
    assert min(seen.values()) > COUNT / 20, seen


def test_policies_that_learning_goes_on_from(tmp_path: Path, reference: Any) -> None:
    """`learn --resume` on a damaged run: refused in words, or gone on from with what was there; never half."""
    rng, seen = np.random.default_rng(16), Counter[bool]()
    rows = list(arr_coc.reference.generate(4, seed=3, grid=(1, 2)))
    with arr_coc.wrap(*reference, policy="thompson") as arr:
        arr_coc.learn(arr, rows, reward="vqa_accuracy", episodes=4, out=tmp_path / "run", progress=False)
        planner: Any = arr.planner
        before = {name: value.clone() for name, value in planner.policy.posterior.state_dict().items()
                  if hasattr(value, "clone")}  # fmt: skip
        for n in range(COUNT):
            folder = tmp_path / "copy"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(tmp_path / "run", folder, ignore=shutil.ignore_patterns("*.lock"))
            files = sorted(p for p in folder.iterdir() if p.is_file() and p.stat().st_size)
            file = files[n % len(files)]
            broken = mutate_bytes(file.read_bytes(), rng)
            if file.suffix == ".json" and n % 2:
                broken = mutate_json(file.read_text(), rng).encode()
            file.write_bytes(broken)
            store = _Store(folder, True, Workers())
            try:
                records = store.load(planner, None)
                assert all(isinstance(record, dict) for record in records) and 0 <= planner.price < np.inf
                seen[True] += 1
            except (ValueError, TypeError) as error:
                assert str(error)
                seen[False] += 1
            finally:
                store.close()
        assert before.keys() and seen[True] and seen[False], seen


# ---------------------------------------------------------------- logs and stores


def test_logs_that_a_server_is_started_on(tmp_path: Path) -> None:
    """Garbage of others before it: what it acknowledges is found again, and rewarded once."""
    rng = np.random.default_rng(17)
    write(tmp_path / "whole", serve(believing(*WEAK), 20, "0001", seed=1), Poison(), seed=1)
    for _ in range(COUNT):
        folder = tmp_path / "log"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        for path in sorted(folder.iterdir()):
            if path.is_file() and rng.random() < 0.7:
                lines = path.read_bytes().splitlines(keepends=True)
                lines = [mutate_line(line, rng) if rng.random() < 0.5 else line for line in lines]
                path.write_bytes(mutate_bytes(b"".join(lines) or b"\n", rng))
        log = DecisionLog(folder)
        try:
            name = log.append({"version": "0001", "model": "m", "answer": "yes", "fallback": "none"}).result(60)
            assert log.reward(name, 1.0, "me").result(60).reward == 1.0
            assert (find(folder, name) or {}).get("answer") == "yes"
            assert log.reward(name, 1.0, "me").result(60).repeated and log.failure is None
        except LogError as error:
            pytest.fail(f"nothing was wrong with the disk: {error}")
        finally:
            log.close()


def test_logs_and_stores_that_commands_are_given(tmp_path: Path) -> None:
    """`retrain`, `rollback` and `log prune` say in words what is damaged."""
    rng, seen = np.random.default_rng(18), Counter[bool]()
    policy = believing(*WEAK)
    whole = make_store(tmp_path / "whole", policy)
    whole.add(lambda new: shutil.copytree(whole.folder("0001"), new, dirs_exist_ok=True), {})
    whole.point_to("0002")
    write(tmp_path / "whole" / "log", serve(policy, 30, "0001", seed=1), Poison(), seed=1)
    store, log = tmp_path / "copy" / whole.path.name, tmp_path / "copy" / "log"
    commands = (
        ["rollback", str(store)], ["log", "prune", str(log), "--keep-days", "1"],
        ["retrain", "--log", str(log), "--out", str(store)],
    )  # fmt: skip
    for n in range(COUNT):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        if n < len(commands):
            assert told(commands[n])  # nothing is wrong yet
            continue
        files = [p for p in sorted((tmp_path / "copy").rglob("*")) if p.is_file() and p.stat().st_size]
        file = files[int(rng.integers(len(files)))]
        if rng.random() < 0.1:
            file.unlink()
        elif file.suffix == ".json" and rng.random() < 0.5:
            file.write_text(mutate_json(file.read_text(), rng))
        else:
            file.write_bytes(mutate_bytes(file.read_bytes(), rng))
        seen[told(commands[n % 3])] += 1
    assert min(seen.values()) > COUNT / 50, seen


def test_records_of_runs_that_are_shown(tmp_path: Path) -> None:
    """`python -m eval report` and `compare`, and the demo's Results, on a run from elsewhere."""
    from eval.cli import app as evaluation
    from eval.records import has_questions

    records = Path(arr_coc.__file__).parents[1] / "eval" / "records"
    found = [run.parent for run in records.glob("**/metrics.json") if has_questions(run.parent)]
    source = min(found, key=lambda run: sum(p.stat().st_size for p in run.iterdir() if p.is_file()))
    rng = np.random.default_rng(19)
    for n in range(COUNT // 5):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        files = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".yaml", ".jsonl", ".gz")]
        file = files[n % len(files)]
        if file.suffix == ".json" and n % 2:
            file.write_text(mutate_json(file.read_text(), rng))
        elif n:  # the first one is whole
            file.write_bytes(mutate_bytes(file.read_bytes(), rng))
        result = RUN.invoke(evaluation, ["report", str(folder)])
        assert result.exit_code in (0, 2 if n else 0), (file.name, result.exception)
