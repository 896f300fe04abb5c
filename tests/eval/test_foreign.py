"""Other people's pictures: NLVR, SROIE and easy-VQA as they lie in folders, made up here in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from arr_coc.learning.tasks import Task, TaskConfig
from eval.config import read_config
from eval.mosaics import write_mosaics

ROOT = Path(__file__).parents[2]


def task(name: str, *overrides: str) -> Task:
    return Task(read_config(ROOT / "configs/public.yaml", overrides, [ROOT / f"configs/tasks/{name}.yaml"]).task)


def test_nlvr_as_it_comes(tmp_path: Path):
    (tmp_path / "images/0").mkdir(parents=True)
    lines = []
    for number, label in enumerate(("true", "false")):
        Image.new("RGB", (400, 100), "grey").save(tmp_path / f"images/0/dev-7-{number}-0.png")
        sentence = "There is a yellow block ."
        lines.append({"sentence": sentence, "label": label, "identifier": f"7-{number}", "directory": "0"})
    file = tmp_path / "dev.json"
    file.write_text("\n".join(map(json.dumps, lines)))
    found = list(task("nlvr", f"task.path={file}", f"task.images={tmp_path / 'images'}"))
    assert [s["answers"] for s in found] == [["true"], ["false"]]
    assert found[0]["question"] == "is it true or false : There is a yellow block . ?"
    assert found[1]["image"].size == (400, 100) and found[0]["image_id"] != found[1]["image_id"]


def test_sroie_as_it_comes(tmp_path: Path):
    for name in ("img", "entities"):
        (tmp_path / name).mkdir()
    for number in ("1", "2"):
        Image.new("L", (90, 200), 255).save(tmp_path / f"img/X{number}.jpg")
        fields = {"company": "BOOK SHOP", "total": f"{number}.50"}
        (tmp_path / f"entities/X{number}.txt").write_text(json.dumps(fields))
    found = list(task("sroie", f"task.images={tmp_path / 'img'}", f"task.annotations={tmp_path / 'entities'}"))
    assert [(s["question"], s["answers"][0]) for s in found] == [
        ("what is the company ?", "BOOK SHOP"), ("what is the total ?", "1.50"),
        ("what is the company ?", "BOOK SHOP"), ("what is the total ?", "2.50"),
    ]  # fmt: skip
    assert found[0]["image"].mode == "RGB" and found[0]["image_id"] == found[1]["image_id"] == "X1"
    (tmp_path / "entities/X2.txt").write_text("company: BOOK SHOP")
    broken = task("sroie", f"task.images={tmp_path / 'img'}", f"task.annotations={tmp_path / 'entities'}",
                  "task.max_unreadable=0.5")  # fmt: skip
    assert len(list(broken)) == 2 and "no JSON object" in str(broken.unreadable)


def test_folders_that_are_missing_are_named():
    with pytest.raises(ValueError, match=r"task.annotations=.* is no folder"):
        list(task("sroie", f"task.images={ROOT}", "task.annotations=nowhere"))


def easy_vqa(folder: Path) -> SimpleNamespace:
    colors = ["red", "blue", "green"]
    for i, color in enumerate(colors):
        Image.new("RGB", (64, 64), color).save(folder / f"{i}.png")

    def questions() -> tuple[list[str], list[str], list[int]]:
        return [f"what color is shape {i}?" for i in range(3)], colors, [0, 1, 2]

    def paths() -> dict[int, str]:
        return {i: str(folder / f"{i}.png") for i in range(3)}

    return SimpleNamespace(
        get_train_questions=questions, get_test_questions=questions, get_train_image_paths=paths,
        get_test_image_paths=paths,
    )  # fmt: skip


def test_mosaics_ask_about_the_patch_that_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "easy_vqa", easy_vqa(tmp_path))
    write_mosaics(tmp_path / "out", 12, (2, 2))
    shown = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 128, 0)}
    for line in (tmp_path / "out/test.jsonl").read_text().splitlines():
        one = json.loads(line)
        image = Image.open(tmp_path / "out" / one["image"])
        (patch,) = one["evidence"]
        row, column = divmod(patch, 2)
        assert one["question"].startswith(f"{('top', 'bottom')[row]} {('left', 'right')[column]} : ")
        assert image.getpixel((column * 160 + 80, row * 160 + 80)) == shown[one["answer"]]
    found = list(task("easy-vqa", f"task.path={tmp_path / 'out/test.jsonl'}"))
    assert len(found) == 12 and found[0]["image"].size == (320, 320)


def test_rows_are_found_from_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/a").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save("runs/a/x.png")
    Path("runs/a/q.jsonl").write_text(json.dumps({"image": "x.png", "question": "what ?", "answer": "x"}) + "\n")
    (found,) = Task(TaskConfig(source="jsonl", path="runs/a/q.jsonl"))
    assert found["image"].size == (32, 32)


def test_mosaics_without_the_package_say_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(ImportError, match="pip install easy-vqa"):
        write_mosaics(tmp_path)
