"""Private learning: what one visitor teaches stays with that visitor."""

from __future__ import annotations

import copy
import io
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arr_coc import ArrCoc
from arr_coc.asking.ask import ask
from demo import lessons
from demo.gallery import Entry
from demo.host import TAUGHT, Host, Settings
from demo.lessons import Pupil, lesson, saved, thumb, try_one
from demo.tabs import charts
from demo.tabs.learning import fitting, progress
from tests.demo.test_host import signature

BATCH = 3


@pytest.fixture(scope="module", autouse=True)
def small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lessons, "BATCH", BATCH)
        yield


def last(host: Host, pupil: Pupil, episodes: int = BATCH) -> Pupil:
    *_, done = lesson(host, pupil, episodes)
    return done


@pytest.fixture(scope="module")
def taught(host: Host, small_batches: None) -> Pupil:
    return last(host, Pupil(seed=3), 2 * BATCH)


def test_a_lesson_learns_and_accounts(host: Host, taught: Pupil) -> None:
    assert taught.state is not None and taught.state["rounds"] == len(taught.log) == 2 * BATCH
    assert [row["episode"] for row in taught.log] == list(range(2 * BATCH))
    for row in taught.log:
        assert row["tokens"] == sum(row["budgets"]) and row["reward"] in (0.0, 1.0)
        assert row["net"] == pytest.approx(row["reward"] - 0.2 * row["tokens"] / row["full_tokens"])
        best = row["regret"] + row["net"]  # reward of the evidence allocation less its tokens
        assert -0.2 <= best <= 1.0
    picture = charts.learning(taught.log)
    assert picture.width > 800 and np.asarray(picture.convert("L")).std() > 5
    assert charts.learning(taught.log[:1]).width > 800
    assert progress(taught).startswith(f"**{2 * BATCH}** episodes")


def test_a_lesson_can_be_repeated_and_continued(host: Host, taught: Pupil) -> None:
    again = last(host, last(host, Pupil(seed=3)))
    assert again.log == taught.log
    other = last(host, Pupil(seed=4))
    assert [row["question"] for row in other.log] != [row["question"] for row in taught.log[:BATCH]]


def test_pupils_share_nothing(host: Host, taught: Pupil) -> None:
    before = signature(host.folder)
    kept = copy.deepcopy(taught.state)
    last(host, taught)
    last(host, Pupil(start="learned", seed=9))
    thumb(host, try_one(host, taught), 1.0)
    assert taught.state is not None and kept is not None
    for name, tensor in kept["tensors"].items():
        assert torch.equal(tensor, taught.state["tensors"][name])
    assert taught.state["generator"] == kept["generator"] and len(taught.log) == 2 * BATCH
    assert signature(host.folder) == before


def test_thumbs_teach(host: Host, taught: Pupil) -> None:
    trial = try_one(host, taught)
    assert trial.trial is not None and trial.trial.answered.decision is not None
    loved, hated = thumb(host, trial, 1.0), thumb(host, trial, 0.0)
    assert loved.state is not None and hated.state is not None and taught.state is not None
    assert loved.state["rounds"] == taught.state["rounds"] + 1 and loved.trial is None
    assert loved.log[-1]["reward"] == 1.0 and loved.log[-1]["regret"] is None and loved.log[-1]["by"] == "hand"
    assert any(not torch.equal(a, hated.state["tensors"][n]) for n, a in loved.state["tensors"].items())
    assert "1 of them judged by you" in progress(loved)
    charts.learning(loved.log)
    with pytest.raises(ValueError, match="nothing waits"):
        thumb(host, loved, 1.0)
    # A first thumb, before any lesson, starts from the prior.
    first = thumb(host, try_one(host, Pupil(seed=5)), 0.0)
    assert first.state is not None and first.state["rounds"] == 1


def test_another_start_is_another_pupil(taught: Pupil) -> None:
    assert fitting(taught, "reference", "prior", 0.4) == replace(taught, price=0.4)
    for model, start in (("reference", "learned"), ("another", "prior")):
        fresh = fitting(taught, model, start, 0.4)
        assert fresh.state is None and not fresh.log and fresh.seed != taught.seed
        assert (fresh.model, fresh.start) == (model, start)
    for start, price in (("nowhere", 0.2), ("prior", -1.0), ("prior", float("nan"))):
        with pytest.raises(ValueError, match="start|price"):
            fitting(taught, "reference", start, price)


def test_what_was_learned_can_be_saved_and_given_to_a_model(
    host: Host, pictures: list[Entry], taught: Pupil, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="nothing was learned yet"):
        saved(host, Pupil())
    with zipfile.ZipFile(io.BytesIO(saved(host, taught))) as pack:
        assert {"policy/policy.safetensors", "policy/config.json"} <= set(pack.namelist())
        pack.extractall(tmp_path)
    question = pictures[0].questions[0].text
    here = host.ask(pictures[0].image, question, Settings(policy=TAUGHT), taught=taught.taught)
    with ArrCoc.from_pretrained(tmp_path / "policy", host.model, host.processor) as arr:
        assert arr.planner.policy.rounds == 2 * BATCH and arr.planner.price == taught.price
        elsewhere = ask(arr, pictures[0].image, question)
    assert (elsewhere.answer, elsewhere.allocation.budgets) == (here.answer, here.allocation.budgets)


def test_a_question_waits_for_one_step_of_the_lessons_at_most(
    host: Host, pictures: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lessons are under way; whoever asks then is answered after the step that has begun, not after a batch."""
    steps: list[str] = []
    begun, real = threading.Barrier(2, timeout=60), lessons.learn

    def learn(*args: Any, **kwargs: Any) -> Any:
        steps.append("step")
        if len(steps) == 1:
            begun.wait()
            while not host._turns._waiting or len(host._turns._waiting) < 2:  # the other lesson and the question
                time.sleep(0.01)
        return real(*args, **kwargs)

    monkeypatch.setattr(lessons, "learn", learn)
    monkeypatch.setattr(lessons, "STEP", 1)
    both = [threading.Thread(target=last, args=(host, Pupil(seed=seed))) for seed in (11, 12)]
    for one in both:
        one.start()
    begun.wait()
    host.ask(pictures[2].image, pictures[2].questions[0].text)
    assert len(steps) <= 2
    for one in both:
        one.join(120)
    assert len(steps) == 2 * BATCH
