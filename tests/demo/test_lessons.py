"""Private learning: what one visitor teaches stays with that visitor."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from demo import charts, lessons
from demo.host import Host
from demo.lessons import Pupil, lesson, thumb, try_one
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
    assert trial.trial is not None and trial.trial.shown.decision is not None
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
    assert fitting(taught, "prior", 0.4) == replace(taught, price=0.4)
    fresh = fitting(taught, "learned", 0.4)
    assert fresh.state is None and not fresh.log and fresh.seed != taught.seed
    for start, price in (("nowhere", 0.2), ("prior", -1.0), ("prior", float("nan"))):
        with pytest.raises(ValueError, match="start|price"):
            fitting(taught, start, price)
