"""The little world as a task of every run in these tests."""

import datasets
import pytest

from arr_coc.learning import sources
from eval.config import EvalConfig, TaskConfig
from tests.eval.fakes import FakeArr, make_samples


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What `datasets` remembers of an earlier run's folders must not answer for this one's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))


@pytest.fixture
def arr():
    return FakeArr()


@pytest.fixture
def samples():
    return make_samples(40)


@pytest.fixture
def little_world(monkeypatch, samples):
    """Replaces the reference source, so that a run's whole path is tested without a model."""

    def rows(config):
        return ((sample["question_id"], lambda sample=sample: dict(sample)) for sample in samples)

    monkeypatch.setitem(sources.READERS, "reference", rows)


@pytest.fixture
def config(tmp_path, little_world):
    def make(**changes):
        settings = {
            "out": str(tmp_path / "run"), "task": TaskConfig(limit=40), "batch_size": 7, "resamples": 200,
            "methods": ["full", "uniform-64", "uniform-400", "evidence"], "overlays": 3,
        }  # fmt: skip
        return EvalConfig(**{**settings, **changes})

    return make
