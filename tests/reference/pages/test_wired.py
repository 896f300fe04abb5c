"""Everything that knows the first model knows the second."""

from __future__ import annotations

from pathlib import Path

import pytest

from arr_coc import reference
from arr_coc.learning.tasks import Task, TaskConfig, learning_task
from eval.config import read_config

CONFIGS = Path(__file__).parents[3] / "configs"


def test_model_pages_brings_its_world():
    config = read_config(CONFIGS / "headline.yaml", ["model=pages", "task.limit=3"])
    assert config.model["name"] == "pages" and config.task.source == "pages"
    again = read_config(CONFIGS / "headline.yaml", ["model=pages", "task.source=reference"])
    assert again.task.source == "reference"


def test_a_task_of_pages_names_kinds_and_evidence():
    samples = list(Task(TaskConfig(source="pages", limit=3, split="eval", kinds=["field"], grid=[1, 2])))
    assert len(samples) == 3
    for sample in samples:
        assert sample["kind"] == "field" and sample["grid"] == (1, 2) and sample["evidence"]


def test_learning_draws_pages():
    (sample,) = learning_task({"source": "pages", "seed": 2}, episodes=1)
    assert sample["image_id"] == "pages-learn-2-0"


def test_unknown_models_are_named():
    with pytest.raises(ValueError, match="model 'page' is unknown"):
        reference.load("page")
    with pytest.raises(ValueError, match="model 'page' is unknown"):
        reference.path("page")


def test_the_demo_shows_pages_with_known_answers():
    pytest.importorskip("gradio")
    from demo.gallery import PAGES, gallery

    entries = gallery(PAGES)
    assert len(entries) == 6
    for entry in entries:
        assert entry.questions and all(q.answer and q.kind for q in entry.questions)
        assert entry.image.width % 160 == 0


def test_the_headline_on_pages_stands_beside_the_first():
    first, second = (read_config(CONFIGS / f"{name}.yaml") for name in ("headline", "pages"))
    labels = [{m if isinstance(m, str) else m.get("label", m["method"]) for m in c.methods} for c in (first, second)]
    own_curves = {"learned-sparing", "learned-lavish", "heuristic-sparing"}  # by ``prices`` there
    assert labels[0] - labels[1] == {"visionzip", *own_curves} and labels[1] - labels[0] == {"learned, after 200"}
    assert second.task.source == second.model["name"] == "pages"
