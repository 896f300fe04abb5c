"""Data sets and calibrations of strangers: what they name, hold and declare."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import arr_coc
from arr_coc import ArrCocConfig
from arr_coc.knowing.calibration import Calibration
from arr_coc.learning import sources
from arr_coc.learning.gathered import Gathered
from arr_coc.learning.tasks import Task
from arr_coc.wrapping.saving import load_planner
from eval.serving.pictures import many_scans, mutated, sound

from .test_mutations import COUNT, mutate_bytes, mutate_json

# ---------------------------------------------------------------- files that rows name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set that somebody has unpacked, beside a picture that is nobody's business."""
    folder = tmp_path / "data"
    (folder / "pictures").mkdir(parents=True)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "private.png")
    Image.new("RGB", (32, 32), "blue").save(folder / "pictures" / "own.png")
    (folder / "link.png").symlink_to("../private.png")
    (folder / "inner.png").symlink_to("pictures/own.png")
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "pipe.png")
    return folder


def reasons(task: Task) -> list[str]:
    """What was wrong with the rows of a task that is read to its end."""
    list(task)
    return [row["reason"] for row in task.unreadable]


def lines(folder: Path, names: list[Any], **more: Any) -> Task:
    rows = [{"image": name, "question": "what ?", "answer": "a"} for name in names]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Task.of(folder / "rows.jsonl", max_unreadable=1.0, **more)


def test_rows_name_no_file_outside_of_their_folder(data: Path) -> None:
    private = str(data.parent / "private.png")
    outside = ["../private.png", private, "link.png", "up/private.png", "pictures/../../private.png"]
    inside = ["pictures/own.png", "inner.png", str(data / "pictures" / "own.png"), "pictures/../inner.png"]
    mapped = [{"path": name} for name in outside] + [{"bytes": None, "path": name} for name in inside]
    task = lines(data, outside + inside + mapped)
    found = reasons(task)
    assert len(found) == 10 and all("lies outside of" in why and "task.images=/" in why for why in found), found
    assert len(list(lines(data, [private], images="/"))) == 1  # said so, it is read


def test_a_table_names_none_either(data: Path) -> None:
    pytest.importorskip("datasets")
    (data / "rows.csv").write_text("image,question,answer\n../private.png,what ?,a\npictures/own.png,what ?,a\n")
    assert len(reasons(Task.of(data / "rows.csv", max_unreadable=1.0))) == 1


def test_the_official_pair_names_none_either(data: Path) -> None:
    (data / "q.json").write_text(json.dumps({"questions": [
        {"question_id": n, "image_id": name, "question": "what ?"} for n, name in enumerate(["../private", "own"])
    ]}))  # fmt: skip
    (data / "a.json").write_text(json.dumps({"annotations": [{"question_id": n, "answers": ["a"]} for n in (0, 1)]}))
    task = Task.of(
        data / "q.json", annotations=str(data / "a.json"), images=str(data / "pictures"), image_name="{image_id}.png",
        max_unreadable=1.0,
    )  # fmt: skip
    assert len(reasons(task)) == 1 and "lies outside" in task.unreadable[0]["reason"]


def test_the_hubs_cache_of_links_is_one_folder(data: Path, tmp_path: Path) -> None:
    repository = tmp_path / "datasets--somebody--something"
    snapshot = repository / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    shutil.copy(data / "pictures" / "own.png", repository / "blobs" / "77")
    (snapshot / "own.png").symlink_to("../../blobs/77")
    (snapshot / "bad.png").symlink_to(data.parent / "private.png")
    assert len(reasons(lines(snapshot, ["own.png", "bad.png"]))) == 1


def test_pipes_devices_and_folders_are_no_pictures(data: Path) -> None:
    names = ["pipe.png", "pictures", ".", "", "a\0b", "x" * 5000, "/dev/zero", "missing.png"]
    assert len(reasons(lines(data, ["inner.png", *names]))) == len(names)
    with pytest.raises(ValueError, match="is no file"):
        Task.of(data / "pipe.png", source="jsonl")


def test_a_folder_of_fields_with_links_and_pipes(data: Path) -> None:
    objects = data / "objects"
    objects.mkdir()
    for name in ("own", "link"):
        (objects / f"{name}.json").write_text('{"total": "1"}')
    (data / "pictures" / "link.png").symlink_to("../../private.png")
    os.mkfifo(objects / "pipe.json")
    (objects / "deep.json").write_text("[" * 100_000)
    folders = {"images": str(data / "pictures"), "annotations": str(objects)}
    task = Task.of(objects, source="fields", max_unreadable=1.0, **folders)
    assert len(list(task)) == 1 and len(task.unreadable) == 3


# ---------------------------------------------------------------- what rows hold


def test_rows_of_every_damaged_kind_cost_a_row_each(data: Path) -> None:
    good = json.dumps({"image": "inner.png", "question": "what ?", "answer": "a"})
    bad = [
        "[" * 100_000, '{"a":' * 100_000, "null", "7", '"x"', "{", good.replace('"a"', "{}"),
        good.replace('"answer"', '"answers"').replace('"a"', '[{"no": 1}]'),
        good.replace('"what ?"', "7"), good.replace('"what ?"', '""'),
        good.replace('"inner.png"', "[]"), good.replace('"inner.png"', "{}"), good.replace('"inner.png"', "7"),
        good.replace('"inner.png"', '{"path": 7}'), good.replace('"inner.png"', '"data:image/png;base64,%%"'),
        good.replace('"answer"', '"answers"').replace('"a"', '{"x": 1}'), good[:-1] + ', "n": ' + "9" * 5000 + "}",
    ]  # fmt: skip
    (data / "rows.jsonl").write_text("\n".join([good, *bad]) + "\n")
    task = Task.of(data / "rows.jsonl", max_unreadable=1.0)
    assert len(list(task)) == 1 and len(task.unreadable) == len(bad)
    assert all(len(row["reason"]) < 700 for row in task.unreadable)


def test_a_line_without_end_is_not_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LONGEST", 10_000)
    (data / "rows.jsonl").write_text('{"a": "' + "x" * 100_000)
    with pytest.raises(ValueError, match="line 1, is longer than 10,000"):
        list(Task.of(data / "rows.jsonl"))


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[]", "{}", '{"questions": 1}', '{"questions": [1]}', '{"questions": [{}]}', "\ud800"]
)
def test_official_files_that_are_none(data: Path, text: str) -> None:
    (data / "q.json").write_bytes(text.encode(errors="surrogatepass"))
    (data / "a.json").write_text('{"annotations": [{"question_id": [1]}, {}]}')
    task = Task.of(data / "q.json", annotations=str(data / "a.json"), images=str(data))
    with pytest.raises(ValueError, match="official format|cannot be read"):
        list(task)


def test_damaged_pictures_of_a_data_set_cost_a_row_each(data: Path) -> None:
    """The ways of `learn`, `evaluate` and `eval` to a picture: 300 of them, and ones that are dear on purpose."""
    pictures = [blob for _, blob in mutated(300, seed=5)] + [many_scans(), sound()["png"]]
    for number, blob in enumerate(pictures):
        (data / f"{number}.png").write_bytes(blob)
    task = lines(data, [f"{n}.png" for n in range(len(pictures))], limit=None)
    read = list(task)
    assert len(read) + len(task.unreadable) == len(pictures) and len(read) > 20 and len(task.unreadable) > 100
    assert all(row["reason"].startswith("ImageError: ") for row in task.unreadable)
    assert task.unreadable[-1]["row"] == f"line {len(pictures) - 1}"  # the last one is sound


# ---------------------------------------------------------------- calibrations

READING = {"layers": [1, 2], "weights": [0.5, 0.5], "prior": [[1.0] * 64] * 3}
SOUND = {"format": 1, "made_for": {}, "reading": READING, "relevance_floor": 0.1, "doubt": [[0.0, 1.0], [0.2, 0.8]],
         "report": {"notes": []}}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"reading": {"variant": "siglip", "model": "stranger/model"}}, {"reading": {"name": "perspectival"}},
        {"reading": {"layers": [10**9]}}, {"reading": {"layers": [-1]}}, {"reading": {"layers": "12"}},
        {"reading": {"layers": []}}, {"reading": {**READING, "weights": [float("nan"), 1]}},
        {"reading": {**READING, "weights": [float("inf"), 1]}}, {"reading": {**READING, "weights": [1e308, 1]}},
        {"reading": {**READING, "weights": ["a", 1]}}, {"reading": {**READING, "weights": [10**400, 1]}},
        {"reading": {**READING, "prior": [[0.0] * 64] * 3}}, {"reading": {**READING, "prior": [[1.0] * 64] * 10**4}},
        {"reading": []}, {"relevance_floor": float("nan")}, {"relevance_floor": -1}, {"relevance_floor": "1"},
        {"relevance_floor": True}, {"doubt": [[0.0], [float("nan")]]}, {"doubt": [[1.0, 0.0], [0.0, 1.0]]},
        {"doubt": [[0.0, 1.0], [0.5]]}, {"doubt": "ab"}, {"doubt": [["a"], ["b"]]}, {"doubt": [[], []]},
        {"doubt": [[0.0, 2.0], [0.0, 1.0]]}, {"made_for": None}, {"made_for": []}, {"report": 7}, {"format": 2},
        {"more": 1},
    ],
)  # fmt: skip
def test_a_calibration_is_data_and_makes_sense(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(SOUND))
    assert Calibration.load(file).relevance_floor == 0.1
    file.write_text(json.dumps({**SOUND, **change}))
    with pytest.raises(ValueError, match="holds no calibration"):
        Calibration.load(file)


def test_mutated_calibrations_are_read_or_refused(tmp_path: Path, reference: Any) -> None:
    rng, seen, file = np.random.default_rng(3), Counter[str](), tmp_path / "calibration.json"
    text = json.dumps(SOUND)
    for n in range(COUNT):
        file.write_bytes(mutate_bytes(text.encode(), rng) if n % 2 else mutate_json(text, rng).encode())
        try:
            Calibration.load(file).apply(ArrCocConfig(), *reference)
        except ValueError as error:
            seen["another model" if "made for another model" in str(error) else "refused"] += 1
    assert seen["refused"] > COUNT / 4 and seen["another model"] > 0 and sum(seen.values()) == COUNT, seen
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="holds no calibration"):
        Calibration.load(file)


@pytest.mark.parametrize("trust", [{"relevance_floor": float("nan")}, {"doubt": [[0, 1], [0, float("nan")]]}])
def test_what_a_saved_policy_trusts_makes_sense(tmp_path: Path, reference: Any, trust: dict[str, Any]) -> None:
    """The same fields come in a policy's configuration: every question was answered with 422."""
    folder = tmp_path / "policy"
    shutil.copytree(arr_coc.reference.policy_path(), folder)
    record = json.loads((folder / "config.json").read_text())
    record["config"]["trust"] = trust
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="take (it|them) from a calibration"):
        load_planner(folder, *reference)


def test_a_broken_calibration_goes_on_and_with_nothing_but_its_own(tmp_path: Path) -> None:
    """A torn line ended it for good; another model's answers, and other questions, were taken over in silence."""
    out, depth = tmp_path / "calibration.json", 4
    samples = [{"question": f"what {n} ?", "image_id": "a"} for n in range(5)]
    row = {"cells": np.full((2, depth, 64), 0.1, np.float32), "own": [0.5, 0.5], "doubt": 0.2, "changed": True,
           "needed": {"1": True}, "picture": "a"}  # fmt: skip
    gathered = Gathered(out, "model@1", depth)
    for sample in samples:
        gathered.append(sample, dict(row))
    journal = tmp_path / "calibration.json.answers.jsonl"
    whole = journal.read_bytes()
    again = Gathered(out, "model@1", depth)
    assert len(again.rows) == 5 and (again.rows[4]["cells"] == row["cells"]).all()
    again.compare(4, samples[4])
    with pytest.raises(ValueError, match="question 5 is not the one"):
        again.compare(4, samples[3])
    with pytest.raises(ValueError, match="holds answers of 'model@1', this model is 'other@2'"):
        Gathered(out, "other@2", depth)
    journal.write_bytes(whole[:-20])  # killed while it wrote
    again = Gathered(out, "model@1", depth)
    assert len(again.rows) == 4
    again.append(samples[4], dict(row))
    assert journal.read_bytes() == whole
    maps = tmp_path / "calibration.json.maps"
    kept = (maps / "2.npy").read_bytes()
    huge = kept.replace(b"(2, 4, 64)", b"(9999999999, 9999, 64)") + bytes(100)
    nan = np.full((2, depth, 64), np.nan, np.float32)
    np.save(tmp_path / "nan.npy", nan)
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for damaged in (b"", kept[:50], huge, (tmp_path / "nan.npy").read_bytes(), (tmp_path / "object.npy").read_bytes()):
        (maps / "2.npy").write_bytes(damaged)
        with pytest.raises(ValueError, match="line 3, is damaged"):
            Gathered(out, "model@1", depth)
    (maps / "2.npy").write_bytes(kept)
    for damaged in (b"7\n", b"{}\n", b"[" * 9999 + b"\n", b"\xff\n"):
        journal.write_bytes(damaged + whole)
        with pytest.raises(ValueError, match="line 1, is damaged"):
            Gathered(out, "model@1", depth)
