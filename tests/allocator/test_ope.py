"""Off-policy estimators: closed forms, unbiasedness, the simulator of record, refusals."""

import json

import numpy as np
import pytest

from allocator import make_policy
from allocator.logged import estimators as ope

K = 3


def logged(rounds=400, patches=3, seed=0, noise=0.1, offset=0.5, target_seed=9):
    """A product-logged additive world and a deterministic target; returns decisions, rewards, targets, truth."""
    rng = np.random.default_rng(seed)
    gains = np.random.default_rng(target_seed).random((patches, K))
    policy = make_policy("random", arms=K, seed=seed)
    target = gains.argmax(axis=1)
    decisions = [policy.select(np.ones((patches, 1)), costs=[1, 2, 3]) for _ in range(rounds)]
    rows = np.arange(patches)
    rewards = np.array([offset + gains[rows, d.index].sum() for d in decisions]) + noise * rng.normal(size=rounds)
    return decisions, rewards, [target] * rounds, offset + gains.max(axis=1).sum()


def test_closed_forms():
    r, w = np.array([1.0, 0.0, 2.0, 1.0]), np.array([0.5, 2.0, 3.0, 0.0])
    q, q_pi = np.array([0.5, 0.5, 1.0, 1.0]), np.array([1.0, 0.0, 1.0, 2.0])
    quick = {"resamples": 10}
    assert ope.ips(r, w, **quick).value == pytest.approx(6.5 / 4)
    assert ope.clipped_ips(r, w, cap=1.0, **quick).value == pytest.approx(2.5 / 4)
    assert ope.snips(r, w, **quick).value == pytest.approx(6.5 / 5.5)
    assert ope.dm(q_pi, **quick).value == pytest.approx(1.0)
    correction = w * (r - q)
    assert ope.dr(r, w, q, q_pi, **quick).value == pytest.approx(1.0 + correction.mean())
    assert ope.sndr(r, w, q, q_pi, **quick).value == pytest.approx(1.0 + correction.sum() / w.sum())
    assert ope.switch_dr(r, w, q, q_pi, tau=2.0, **quick).value == pytest.approx(1.0 + correction[:2].sum() / 4)
    assert ope.effective_sample_size(w) == pytest.approx(5.5**2 / 13.25)


def test_the_bernstein_bound_is_theorem_4_on_both_sides():
    """Maurer & Pontil 2009: a side holds with probability 1 - delta for ln(2 / delta); each gets delta = .05."""
    r, w = np.array([1.0, 0.0, 2.0, 1.0, 3.0]), np.array([0.5, 2.0, 1.0, 0.0, 1.5])
    terms = r * w
    log = np.log(2 / 0.05)
    width = np.sqrt(2 * terms.var(ddof=1) * log / 5) + 7 * 6.0 * log / (3 * 4)
    found = ope.ips(r, w, interval="empirical-bernstein", term_range=6.0, confidence=0.9)
    assert (found.low, found.high) == pytest.approx((terms.mean() - width, terms.mean() + width))
    q, q_pi = np.full(5, 0.7), np.linspace(0, 1, 5)
    shifted = q_pi + w * (r - q)
    found = ope.dr(r, w, q, q_pi, interval="empirical-bernstein", term_range=6.0, confidence=0.9)
    width = np.sqrt(2 * shifted.var(ddof=1) * log / 5) + 7 * 6.0 * log / (3 * 4)
    assert found.high - found.low == pytest.approx(2 * width)


def test_the_bootstrap_interval_is_that_of_the_mean():
    """On many equal rounds it is the normal one: 1.96 standard errors on either side."""
    r = np.random.default_rng(0).normal(size=2000)
    found = ope.ips(r, np.ones(2000), confidence=0.95, resamples=2000)
    half = 1.96 * r.std() / np.sqrt(2000)
    assert (found.low, found.high) == pytest.approx((r.mean() - half, r.mean() + half), abs=0.12 * half)
    narrow = ope.ips(r, np.ones(2000), confidence=0.5)
    assert narrow.high - narrow.low < 0.45 * (found.high - found.low)


def test_weights_of_a_deterministic_and_a_randomised_target():
    decisions, _, target, _ = logged(rounds=5)
    for decision, w, v in zip(
        decisions, ope.importance_weights(decisions, target), ope.slate_weights(decisions, target), strict=True
    ):
        hits = (decision.index == target[0]).sum()
        assert w == pytest.approx(27.0 if hits == 3 else 0.0)
        assert v == pytest.approx(3 * hits - 2)
    same = [decision.probabilities for decision in decisions]
    np.testing.assert_allclose(ope.importance_weights(decisions, same), 1.0)
    np.testing.assert_allclose(ope.slate_weights(decisions, same), 1.0)


def test_slate_estimators_beat_ips_and_are_unbiased_on_additive_rewards():
    errors = {"ips": [], "pi": [], "snpi": [], "dr_pi": []}
    for seed in range(20):
        decisions, r, target, truth = logged(seed=seed)
        w = ope.importance_weights(decisions, target)
        q = np.full(len(r), r.mean())  # a useless model: the correction must do the work
        found = {
            "ips": ope.ips(r, w, resamples=2),
            "pi": ope.pi(r, decisions, target, resamples=2),
            "snpi": ope.snpi(r, decisions, target, resamples=2),
            "dr_pi": ope.dr_pi(r, decisions, target, q, q, resamples=2),
        }
        for name, estimate in found.items():
            assert estimate.method == name
            errors[name].append(estimate.value - truth)
    rmse = {name: np.sqrt(np.mean(np.square(e))) for name, e in errors.items()}
    assert rmse["pi"] < 0.5 * rmse["ips"]
    assert rmse["snpi"] < rmse["pi"]
    assert rmse["dr_pi"] < rmse["pi"]
    for e in errors.values():
        assert abs(np.mean(e)) < 4 * np.std(e) / np.sqrt(20)


def test_a_limited_log_keeps_exact_propensities_for_ips():
    """Propensities under a binding limit: IPS stays unbiased, the product form refuses."""
    gains = np.random.default_rng(1).random((3, K))
    target, values = np.array([2, 0, 1]), []
    for seed in range(20):
        policy = make_policy("random", arms=K, seed=seed)
        decisions = [policy.select(np.ones((3, 1)), costs=[1, 2, 3], limit=6) for _ in range(200)]
        rewards = np.array([gains[np.arange(3), d.index].sum() for d in decisions])
        values.append(ope.ips(rewards, ope.importance_weights(decisions, [target] * 200), resamples=2).value)
    truth = gains[np.arange(3), target].sum()
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / np.sqrt(20))
    with pytest.raises(ValueError, match="without per-patch propensities .a limit bound it"):
        ope.slate_weights(decisions, [target] * 200)


@pytest.mark.parametrize("interval", ["bootstrap", "empirical-bernstein"])
def test_intervals_cover_the_truth(interval):
    options = {"term_range": 6.0} if interval == "empirical-bernstein" else {"resamples": 200}
    hits, widths = 0, []
    for seed in range(40):
        decisions, r, target, truth = logged(rounds=150, patches=1, seed=seed)
        w = ope.importance_weights(decisions, target)
        found = ope.ips(r, w, interval=interval, seed=seed, **options)
        hits += found.low <= truth <= found.high
        widths.append(found.high - found.low)
        assert found.low < found.value < found.high
    assert hits >= 34
    if interval == "empirical-bernstein":
        assert hits == 40
        assert np.mean(widths) < 2.0


def test_a_log_survives_the_disk(tmp_path):
    decisions, r, target, _ = logged(rounds=20)
    path = tmp_path / "log.jsonl"
    lines = [
        {"decision": decision.to_dict(), "reward": float(reward), "question": "?"}
        for decision, reward in zip(decisions, r, strict=True)
    ]
    path.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
    back, rewards = ope.read_log(path)
    np.testing.assert_array_equal(rewards, r)
    assert ope.pi(rewards, back, target) == ope.pi(r, decisions, target)
    path.write_text(path.read_text() + '{"reward": 1}\n')
    with pytest.raises(ValueError, match="line 21 is not a logged decision"):
        ope.read_log(path)


def test_refusals():
    decisions, r, target, _ = logged(rounds=4)
    policy = make_policy("thompson", dim=1, arms=K)
    silent = [policy.select(np.ones((3, 1)), costs=[1, 2, 3])] * 4
    with pytest.raises(ValueError, match="logged by policy 'thompson' without a propensity"):
        ope.importance_weights(silent, target)
    with pytest.raises(ValueError, match="logged by policy 'thompson' without per-patch propensities"):
        ope.slate_weights(silent, target)
    with pytest.raises(ValueError, match="one target per logged round"):
        ope.importance_weights(decisions, target[:2])
    with pytest.raises(ValueError, match="one distribution over the arms per patch"):
        ope.importance_weights(decisions, [np.full((3, K), 0.5)] * 4)
    with pytest.raises(ValueError, match="weights must be finite"):
        ope.ips(r, r * np.nan)
    with pytest.raises(ValueError, match="weights sum to zero"):
        ope.snips(r, np.zeros(4))
    with pytest.raises(ValueError, match="needs term_range"):
        ope.ips(r, np.ones(4), interval="empirical-bernstein")
    with pytest.raises(ValueError, match="is self-normalised"):
        ope.snips(r, np.ones(4), interval="empirical-bernstein", term_range=1.0)
    with pytest.raises(ValueError, match="'sndr' is self-normalised"):
        ope.sndr(r, np.ones(4), r, r, interval="empirical-bernstein", term_range=9.0)
    with pytest.raises(ValueError, match="term_range is 0.1, but the terms already span"):
        ope.ips(r, np.arange(4.0), interval="empirical-bernstein", term_range=0.1)
    with pytest.raises(ValueError, match="confidence must be above 0 and below 1, got 95"):
        ope.ips(r, np.ones(4), confidence=95)
    for estimate in (lambda: ope.ips(r[:1], np.ones(1)), lambda: ope.dm(r[:1])):
        with pytest.raises(ValueError, match="at least 2 logged rounds"):
            estimate()


def test_a_target_that_the_log_never_plays_is_refused():
    """Collapsed arms: the log never plays the second arm of 182 tokens, so nothing says what it earns."""
    costs = np.array([[64, 128, 182, 182]])
    policy = make_policy("random", arms=4)
    decisions = [policy.select(np.ones((1, 1)), costs=costs) for _ in range(5)]
    for weights in (ope.importance_weights, ope.slate_weights):
        weights(decisions, [[2]] * 5)
        with pytest.raises(ValueError, match="in round 0 the target may give patch 0 arm 3, which policy 'random'"):
            weights(decisions, [[3]] * 5)


def test_a_self_normalised_interval_knows_that_its_denominator_varies():
    """The bootstrap must redraw the weights with the rewards: with a constant reward the ratio has no error at all."""
    w = np.random.default_rng(0).exponential(size=300)
    r, zero = np.full(300, 2.0), np.zeros(300)
    for found in (ope.snips(r, w), ope.sndr(r, w, zero, zero)):
        assert found.value == pytest.approx(2.0) and found.high - found.low < 1e-9
    assert ope.ips(r, w).high - ope.ips(r, w).low > 0.3
