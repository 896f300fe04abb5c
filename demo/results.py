"""The recorded evaluation runs: which there are, their tables, and their questions one by one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from arr_coc.drawing import contact_sheet
from arr_coc.learning.tasks import Task, TaskConfig
from eval.records import Record, has_questions, read_metrics, read_run
from eval.reporting.page import draw_record

ROOT = Path(__file__).parent.parent
FOLDERS = (ROOT / "eval" / "records", ROOT / "runs")
OUTCOMES = ("all", "right", "wrong", "fewer tokens and right")


def runs(folders: Sequence[Path] = FOLDERS) -> dict[str, Path]:
    """Finished runs by name: those kept with the code, then this clone's own."""
    return {
        f"{folder.name}/{run.parent.name}": run.parent
        for folder in folders
        for run in sorted(folder.glob("*/metrics.json"))
    }


class Run:
    """One finished run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = read_metrics(folder)
        self.browsable = has_questions(folder)
        self.records: list[Record] = []
        if self.browsable:
            _, self.records, self.config = read_run(folder)

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the tables."""
        return list(self.metrics["methods"])

    @property
    def kinds(self) -> list[str]:
        """Kinds of question."""
        return list(next(iter(self.metrics["methods"].values()))["kinds"])

    def questions(self, method: str, kind: str = "all", outcome: str = "all") -> list[tuple[str, str]]:
        """(label, question id) of the questions that a method answered in some way."""
        found = []
        for record in self.records:
            if record["method"] != method or (kind != "all" and record["kind"] != kind):
                continue
            right = record["score"] >= 0.5
            if outcome == "right" and not right or outcome == "wrong" and right:
                continue
            if outcome == OUTCOMES[3] and not (right and record["tokens"] < 0.25 * record["full_tokens"]):
                continue
            mark = "✓" if right else "✗"
            found.append((f"{mark} {record['question']} → {record['answer']}", record["question_id"]))
        return found

    def page(self, question_id: str, most: int = 6) -> Image.Image:
        """One question as every allocating method answered it.

        Raises
        ------
        ValueError
            If the run has no such question, or no allocation was drawn for it.
        """
        own = [r for r in self.records if r["question_id"] == question_id and r["boxes"]]
        if not own:
            raise ValueError(f"the run has no allocation for question {question_id!r}; choose one of its list")
        image = _image(self.folder, question_id)
        ranked = sorted(own, key=lambda r: (r["method"] != "learned", r["tokens"]))[:most]
        pictures = [
            draw_record(image, {**r, "question": f"[{r['method']}] {r['question']}"}, self.metrics["budgets"])
            for r in ranked
        ]
        return contact_sheet(pictures, 2)


@lru_cache(maxsize=8)
def open_run(folder: Path) -> Run:
    """A run, read once."""
    return Run(folder)


@lru_cache(maxsize=32)
def _image(folder: Path, question_id: str) -> Image.Image:
    """The picture of a question, read or drawn again from the run's own task."""
    config: dict[str, Any] = open_run(folder).config
    for sample in Task(TaskConfig(**config["task"])):
        if sample["question_id"] == question_id:
            return sample["image"]
    raise ValueError(f"the task of {folder} no longer has question {question_id!r}; is its data where it was?")
