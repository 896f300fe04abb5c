"""Intervals that cover, tests that hold their level, and mixtures that mean what they say."""

import numpy as np
import pytest
from scipy import stats

from eval.config import EvalConfig, TaskConfig
from eval.reporting.compare import seeds_interval
from eval.reporting.dominance import dominance
from eval.reporting.statistics import (
    at_tokens,
    curve_area,
    mean_interval,
    mean_over,
    paired_difference,
    spread,
    tokens_at,
)
from eval.reporting.summary import summarise


def clustered(rng, images, per_image=4, accuracy=0.7):
    """Questions of an image mostly share its fate; the mean over all images is the accuracy."""
    fate = rng.beta(2 * accuracy, 2 * (1 - accuracy), images)
    scores = (rng.random((images, per_image)) < fate[:, None]).astype(float).ravel()
    return scores, np.repeat(np.arange(images), per_image).astype(str)


def test_cluster_interval_covers_and_the_naive_one_does_not():
    rng, hits, naive = np.random.default_rng(0), 0, 0
    for trial in range(120):
        scores, images = clustered(rng, 60)
        found = mean_interval(scores, images, resamples=300, seed=trial)
        hits += found.low <= 0.7 <= found.high
        half = 1.96 * scores.std() / np.sqrt(len(scores))
        naive += abs(scores.mean() - 0.7) <= half
    assert hits >= 0.89 * 120
    assert naive < 0.86 * 120


def test_all_right_is_not_certainty():
    found = mean_interval(np.ones(40), [str(i // 2) for i in range(40)])
    wilson = stats.binomtest(20, 20).proportion_ci(method="wilson")
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(wilson.low)


def test_one_image_bounds_nothing():
    assert mean_interval(np.array([0.0, 1.0]), ["a", "a"]).to_list() == [0.5, 0.0, 1.0]
    found = paired_difference(np.array([0.0, 1.0]), np.array([0.0, 0.0]), ["a", "a"])
    assert (found.value, found.low, found.high) == (0.5, -1.0, 1.0)


def test_the_same_data_give_the_same_interval():
    scores, images = clustered(np.random.default_rng(1), 31)
    assert mean_interval(scores, images, seed=3) == mean_interval(scores, images, seed=3)
    assert len({mean_interval(scores, images, resamples=200, seed=s).low for s in range(9)}) > 1


def test_paired_difference_sees_what_unpaired_intervals_hide():
    rng = np.random.default_rng(5)
    hard = (rng.random(400) < 0.6).astype(float)
    better = np.where(rng.random(400) < 0.08, 1.0, hard)
    images = [str(i) for i in range(400)]
    found = paired_difference(better, hard, images)
    assert found.low > 0 and found.p < 0.01 and found.mcnemar < 0.01
    assert found.losses == 0 and found.wins == int((better > hard).sum())
    assert found.mcnemar == pytest.approx(stats.binomtest(found.wins, found.wins).pvalue)
    one, two = mean_interval(better, images), mean_interval(hard, images)
    assert one.low < two.high  # side by side they overlap
    back = paired_difference(hard, better, images)
    assert (back.value, back.wins, back.losses) == (-found.value, found.losses, found.wins)


def test_equal_methods_do_not_differ():
    scores, images = clustered(np.random.default_rng(3), 20)
    found = paired_difference(scores, scores, images)
    assert (found.value, found.low, found.high, found.p, found.mcnemar) == (0.0, 0.0, 0.0, 1.0, 1.0)


def test_p_values_hold_their_level_under_clustering():
    rng, rejected = np.random.default_rng(4), 0
    for trial in range(120):
        signs = rng.choice([-1.0, 1.0], 40)  # an image's four questions change together
        change = np.repeat(np.where(rng.random(40) < 0.3, signs, 0.0), 4)
        a, b = np.clip(change, 0, 1), np.clip(-change, 0, 1)
        images = np.repeat(np.arange(40), 4).astype(str)
        rejected += paired_difference(a, b, images, resamples=200, seed=trial).p < 0.05
    assert rejected <= 0.11 * 120


def test_mixture_at_tokens_is_a_real_mixture():
    low, high = np.array([0.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0])
    curve = [(400.0, high), (100.0, low)]
    assert at_tokens(curve, 100) == pytest.approx(low)
    assert at_tokens(curve, 400) == pytest.approx(high)
    assert at_tokens(curve, 175) == pytest.approx([0.25, 1.0, 0.0])
    assert at_tokens(curve, 99) is None and at_tokens(curve, 401) is None


def test_tokens_at_accuracy_uses_the_best_mixture():
    curve = [(100.0, 0.2), (200.0, 0.25), (300.0, 0.8)]
    assert tokens_at(curve, 0.5) == pytest.approx(200.0)  # mixing 100 and 300 beats 200 and 300
    assert tokens_at(curve, 0.1) == 100.0
    assert tokens_at(curve, 0.9) is None


def test_area_is_the_mean_height():
    assert curve_area([(0.0, 0.0), (2.0, 1.0)]) == pytest.approx(0.5)
    assert curve_area([(1.0, 0.3)]) is None


def test_spread_and_seeds():
    assert spread([0, 10]) == {"mean": 5.0, "p10": 1.0, "p90": 9.0}
    mean, low, high = seeds_interval([0.9, 0.92, 0.94])
    assert mean == pytest.approx(0.92) and high - mean == pytest.approx(stats.t.ppf(0.975, 2) * 0.02 / np.sqrt(3))
    assert low < mean and seeds_interval([0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("scores", "match"), [([0.5, np.nan], "1 scores are NaN"), ([0.5], "give one score per question")]
)
def test_bad_scores_are_refused(scores, match):
    with pytest.raises(ValueError, match=match):
        mean_interval(np.array(scores), ["a", "b"])


def test_the_mean_over_a_range_is_the_area_by_its_width():
    curve = [(100.0, np.array([0.0, 1.0])), (200.0, np.array([1.0, 1.0])), (400.0, np.array([1.0, 0.0]))]
    assert mean_over(curve, 100, 400).tolist() == pytest.approx([(50 + 200) / 300, (100 + 100) / 300])
    assert mean_over(curve, 150, 200).tolist() == pytest.approx([0.75, 1.0])
    with pytest.raises(ValueError, match="does not reach"):
        mean_over(curve, 50, 300)


def rows_of(label, scores, tokens, first=None):
    return [
        {"method": label, "question_id": str(i), "image_id": str(i), "kind": "all", "score": float(score),
         "tokens": tokens, "full_tokens": 1000, "seconds": 0.0, "timings": {},
         **({} if first is None else {"timed": {"first": first, "seconds": first, "timings": {}, "memory": None}})}
        for i, score in enumerate(scores)
    ]  # fmt: skip


def test_a_baseline_is_dominated_or_not_as_the_records_say():
    n = 200
    right, wrong = np.ones(n), np.zeros(n)
    half = np.arange(n) % 2
    table = {
        "learned": rows_of("learned", right, 300, first=0.4), "uniform-400": rows_of("uniform-400", right, 1000, 1.0),
        "uniform-64": rows_of("uniform-64", half, 160), "random-0": rows_of("random-0", half, 300),
        "top-patch-400": rows_of("top-patch-400", right, 500), "oracle": rows_of("oracle", right, 200),
        "oracle-control": rows_of("oracle-control", np.maximum(half, np.arange(n) % 10 == 0), 160),
        "fastv": rows_of("fastv", right[:50], 300), "cheap": rows_of("cheap", wrong, 100),
    }  # fmt: skip
    verdicts = {row[0]: row[5] for row in dominance([table])}
    assert verdicts == {
        "uniform-400": "within the interval", "uniform-64": "cheaper, less accurate", "random-0": "dominated",
        "top-patch-400": "within the interval", "fastv": "within the interval", "cheap": "cheaper, less accurate",
    }  # fmt: skip
    worse = {**table, "learned": rows_of("learned", np.arange(n) % 4 > 0, 450, first=0.6)}
    assert {row[0]: row[5] for row in dominance([worse])}["fastv"] == "cheaper, more accurate"


def test_methods_with_fewer_questions_are_compared_on_those():
    right, half = np.ones(40), np.arange(40) % 2
    records = [
        *rows_of("uniform-64", half, 160),
        *rows_of("uniform-400", right, 1000),
        *rows_of("few", half[:10], 400),
    ]
    config = EvalConfig(methods=["full"], baselines=["uniform-400"], resamples=100)
    metrics = summarise(records, config, ["uniform-64", "uniform-400", "few"], ["uniform-64", "uniform-400"])
    assert metrics["methods"]["few"]["questions"] == 10 and metrics["questions"] == 40
    assert metrics["differences"]["uniform-400"]["few"]["questions"] == 10
    assert metrics["differences"]["uniform-400"]["few"]["value"] == -0.5
    assert metrics["methods"]["few"]["milliseconds"] == {}  # nothing was timed
    with pytest.raises(ValueError, match="or the first of them"):
        summarise(records[:-10] + records[-5:], config, ["uniform-64", "uniform-400", "few"])


def test_pope_has_its_figures():
    rows = rows_of("full", [1, 0, 1, 1], 100)
    for row, (said, truth) in zip(rows, [("yes", "yes"), ("yes", "no"), ("no", "no"), ("yes", "yes")], strict=True):
        row |= {"answer": said, "answers": [truth]}
    config = EvalConfig(methods=["full"], baselines=[], task=TaskConfig(reward="pope_accuracy"))
    pope = summarise(rows, config, ["full"])["methods"]["full"]["pope"]
    assert pope["precision"] == pytest.approx(2 / 3) and (pope["recall"], pope["yes_ratio"]) == (1.0, 0.75)
