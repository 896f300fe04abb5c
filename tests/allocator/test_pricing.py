"""The price tracker holds a stream at its target."""

import numpy as np
import pytest

from allocator import PriceTracker, make_policy


def test_the_price_settles_where_the_stream_spends_its_target():
    rng = np.random.default_rng(0)
    tracker = PriceTracker(target=700.0, eta=2e-7)
    policy = make_policy("heuristic")
    spent = []
    for _ in range(1500):
        values = rng.gamma(1.0, size=(6, 1)) * np.array([0.0, 0.05, 0.08, 0.1])
        decision = policy.select(values=values, costs=[64, 128, 256, 400], price=tracker.price)
        tracker.update(decision.cost)
        spent.append(decision.cost)
    assert np.mean(spent[500:]) == pytest.approx(700, rel=0.03)
    assert spent[0] == 2400  # free at first
    assert tracker.mean == pytest.approx(np.mean(spent))


def test_a_slack_target_costs_nothing():
    tracker = PriceTracker(target=100.0, eta=0.1, price=1.0)
    for _ in range(3):
        tracker.update(90.0)
    assert tracker.price == 0.0


def test_resume_and_refusal():
    tracker = PriceTracker(target=10.0, eta=0.01)
    tracker.update(30)
    twin = PriceTracker(target=1.0, eta=1.0)
    twin.load_state_dict(tracker.state_dict())
    assert twin.update(17.3) == tracker.update(17.3)
    before = tracker.state_dict()
    for bad in (float("nan"), -1.0, float("inf")):
        with pytest.raises(ValueError, match="spent must be"):
            tracker.update(bad)
    with pytest.raises(ValueError, match="state must hold"):
        tracker.load_state_dict({"price": 1.0})
    with pytest.raises(ValueError, match="price must be finite"):
        tracker.load_state_dict({**before, "price": float("nan")})
    assert tracker.state_dict() == before
    with pytest.raises(ValueError, match="eta must be positive"):
        PriceTracker(target=1.0, eta=0.0)
