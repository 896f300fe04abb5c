"""What is published loads offline by stock classes, says what was measured, and is refused if it does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from arr_coc import reference
from arr_coc.reference.drawing import draw
from arr_coc.reference.training import publish as publishing
from arr_coc.reference.training.train import load_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(short_run, tmp_path_factory) -> Path:
    return publishing.publish(short_run, [short_run / "accuracy.json"], tmp_path_factory.mktemp("package") / "data")


def test_the_folder_is_whole_and_small(data):
    names = {file.name for file in data.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "accuracy.json"} <= names
    assert {"README.md", "processor_config.json"} <= names
    assert sum(file.stat().st_size for file in data.rglob("*")) <= 10_000_000
    assert {file.stat().st_mode & 0o777 for file in data.iterdir()} == {0o644}


def test_it_loads_offline_and_answers_like_the_run(data, short_run, monkeypatch):
    monkeypatch.setattr(reference, "path", lambda *_: data)
    model, processor = reference.load()
    trained = load_run(short_run)
    for (name, a), (_, b) in zip(trained.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert model.dtype == torch.float32 and not model.training
    sample = next(reference.generate(1, seed=9, grid=(1, 2)))
    inputs = processor(images=sample["image"], text=sample["question"])
    assert torch.equal(model.generate(**inputs), trained.generate(**inputs))


def test_stock_classes_load_it_without_a_network(data):
    """In a fresh interpreter: ``load()`` from another directory and ``AutoModelForImageTextToText``."""
    code = (
        "import sys, pathlib, socket\n"
        "def refuse(*a, **k): raise AssertionError('a network call')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from arr_coc import reference\n"
        "reference.path = lambda *_: pathlib.Path(sys.argv[1])\n"
        "model, processor = reference.load()\n"
        "from transformers import AutoModelForImageTextToText, Qwen2VLForConditionalGeneration\n"
        "stock = AutoModelForImageTextToText.from_pretrained(reference.path())\n"
        "assert type(stock) is Qwen2VLForConditionalGeneration is type(model)\n"
        "s = next(reference.generate(1, grid=(1, 1)))\n"
        "out = stock.generate(**processor(images=s['image'], text=s['question']))\n"
        "print(out.shape[0])\n"
    )
    environment = {"PATH": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(data)], cwd=data.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"


def test_the_card_says_what_was_measured(data, short_run):
    card, report = (data / "README.md").read_text(), json.loads((data / "accuracy.json").read_text())
    table = json.loads((short_run / "accuracy.json").read_text())
    (seed,) = report["seeds"]
    assert seed["evaluation"]["records"] == table["records"]
    assert seed["training"]["settings"]["seed"] == 5 and seed["training"]["seconds"]["tower"] > 0
    assert report["shipped"] == table["weights"]
    assert "license: apache-2.0" in card and "Training seed 5, the shipped one" in card
    assert "serve training only" in card and "arr-coc reference train --out runs/reference-5 --seed 5" in card
    cell = next(r for r in table["records"] if (r["row"], r["allocation"]) == ("number @400", "uniform 400"))
    assert f"{100 * cell['accuracy']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]" in card


def test_nothing_unfinished_or_unmeasured_is_published(short_run, data, tmp_path):
    def changed(file: str, **values) -> Path:
        copy = shutil.copytree(short_run, tmp_path / str(len(list(tmp_path.iterdir()))))
        content = json.loads((copy / file).read_text()) | values
        (copy / file).write_text(json.dumps(content))
        return copy

    before = {file: file.read_bytes() for file in data.iterdir()}
    unfinished = changed("language/state.json", step=0)
    with pytest.raises(ValueError, match="no finished training run: its stage 'language' stands at step 0"):
        publishing.publish(unfinished, [short_run / "accuracy.json"], data)
    with pytest.raises(ValueError, match="none of the tables .* was measured on"):
        publishing.publish(short_run, [], data)
    with pytest.raises(ValueError, match="accuracy.json is not finished"):
        publishing.publish(short_run, [changed("accuracy.json", complete=False) / "accuracy.json"], data)
    with pytest.raises(ValueError, match="was not measured on the weights of"):
        publishing.publish(short_run, [changed("accuracy.json", weights="0") / "accuracy.json"], data)
    assert {file: file.read_bytes() for file in data.iterdir()} == before


def test_a_folder_too_large_is_refused_and_the_old_one_kept(short_run, data, monkeypatch):
    monkeypatch.setattr(publishing, "MAX_BYTES", 1000)
    card = (data / "README.md").read_text()
    with pytest.raises(ValueError, match="the shipped folder may hold 1000"):
        publishing.publish(short_run, [short_run / "accuracy.json"], data)
    assert (data / "README.md").read_text() == card


def test_missing_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "path", lambda *_: tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no weights of the reference model"):
        reference.load()


def test_a_page_of_samples(tmp_path):
    with Image.open(draw(4, seed=1, out=tmp_path / "page.png")) as page:
        assert page.size == (2 * 512, 2 * 578)
        colors = page.convert("RGB").getcolors(page.width * page.height)
    assert any(color == (220, 0, 120) for _, color in colors)  # evidence is outlined
    assert [file.name for file in tmp_path.iterdir()] == ["page.png"]
    with pytest.raises(ValueError, match="n is 0"):
        draw(0, out=tmp_path / "page.png")
    with pytest.raises(ValueError, match="must end in a picture format"):
        draw(1, out=tmp_path / "page.txt")
