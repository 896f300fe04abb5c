"""The real lmms-eval with our entry point, on a tiny local task. Needs its own environment: ``make test-lmms``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

pytest.importorskip("lmms_eval", reason="lmms-eval lives in an environment of its own: make test-lmms")

TASK = """
task: arr_coc_reference
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: "{{{{question}}}}"
doc_to_target: "answer"
generation_kwargs:
  max_new_tokens: 4
  do_sample: false
  until: ["."]
process_results: !function utils.process_results
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
"""
UTILS = """
from PIL import Image


def doc_to_visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def process_results(doc, results):
    return {"accuracy": float(results[0] == doc["answer"])}
"""


@pytest.fixture
def task(tmp_path):
    """Eight colour questions about drawn pictures, as a task folder for ``--include_path``."""
    import arr_coc.reference

    lines = []
    for number, sample in enumerate(arr_coc.reference.generate(8, kinds=["color"], grid=(2, 2), split="eval")):
        path = tmp_path / f"{number}.png"
        sample["image"].save(path)
        lines.append(json.dumps({"image": str(path), "question": sample["question"], "answer": sample["answer"]}))
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(lines) + "\n")
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "arr_coc_reference.yaml").write_text(TASK.format(questions=questions))
    (folder / "utils.py").write_text(UTILS)
    return folder


def test_lmms_eval_runs_a_task_with_budgets(task, tmp_path):
    assert "arr_coc" in {point.name for point in entry_points(group="lmms_eval.models")}
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "arr_coc", "--model_args", "pretrained=reference,limit=0.5",
        "--tasks", "arr_coc_reference", "--include_path", str(task), "--batch_size", "2", "--output_path", str(out),
        "--log_samples", "--device", "cpu",
    ]  # fmt: skip
    caches = {"HF_HOME": str(tmp_path / "hf"), "LMMS_EVAL_HOME": str(tmp_path / "lmms"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=os.environ | caches, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = out.rglob("*results.json")
    figures = json.loads(results.read_text())["results"]["arr_coc_reference"]
    accuracy = next(value for name, value in figures.items() if name.startswith("accuracy,"))
    assert accuracy >= 0.75
