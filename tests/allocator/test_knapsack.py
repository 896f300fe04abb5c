"""The oracle against brute force and an independent integer-programming solver."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator import solve, solve_knapsack, solve_many
from allocator.knapsack.sample import sample_allocation

BUDGETS = np.array([64, 128, 256, 400])


def brute_force(values, costs, limit):
    """(best value, its least cost) over all feasible allocations."""
    best = None
    for choice in itertools.product(range(values.shape[1]), repeat=len(values)):
        cost = sum(int(costs[i, k]) for i, k in enumerate(choice))
        if limit is None or cost <= limit:
            value = sum(float(values[i, k]) for i, k in enumerate(choice))
            if best is None or value > best[0] + 1e-9 or (value > best[0] - 1e-9 and cost < best[1]):
                best = (max(value, best[0]) if best else value, cost)
    return best


@st.composite
def instances(draw):
    patches, arms = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    whole = draw(st.booleans())  # whole numbers tie often
    number = st.integers(-3, 3).map(float) if whole else st.floats(-5, 5).map(lambda x: round(x, 3))
    values = draw(st.lists(number, min_size=patches * arms, max_size=patches * arms))
    costs = draw(st.lists(st.integers(0, 9), min_size=patches * arms, max_size=patches * arms))
    unit = draw(st.sampled_from([1, 7, 16]))
    values, costs = np.reshape(values, (patches, arms)), np.reshape(costs, (patches, arms)) * unit
    limit = draw(st.integers(int(costs.min(1).sum()), int(costs.max(1).sum()) + 1))
    return values, costs, limit


@settings(max_examples=300, deadline=None)
@given(instances())
def test_equal_to_brute_force_value_and_cheapest_tie(instance):
    values, costs, limit = instance
    value, cost = brute_force(values, costs, limit)
    for method in ("auto", "exact"):
        found = solve(values, costs, limit, method=method)
        assert found.gap == 0.0
        assert found.cost <= limit
        assert found.value == pytest.approx(value, abs=1e-9)
        assert found.cost == cost


@settings(max_examples=100, deadline=None)
@given(st.lists(instances(), min_size=1, max_size=5), st.sampled_from(["auto", "exact", "lagrange"]))
def test_many_images_at_once_are_solved_as_one_by_one(batch, method):
    """Ragged batches: numbers of patches, costs, units and limits all differ from image to image."""
    arms = min(values.shape[1] for values, _, _ in batch)
    values, costs = ([instance[i][:, :arms] for instance in batch] for i in (0, 1))
    limits = [max(limit, int(cost.min(axis=1).sum())) for (*_, limit), cost in zip(batch, costs, strict=True)]
    limits[0] = None  # one without
    floors = [int(cost.max(axis=1).min()) if limit is None else 0 for cost, limit in zip(costs, limits, strict=True)]
    found = solve_many(values, costs, limits, floor=floors, method=method)
    for one, v, c, limit, floor in zip(found, values, costs, limits, floors, strict=True):
        want = solve(v, c, limit, floor=floor, method=method)
        assert one.index.tolist() == want.index.tolist()
        assert (one.cost, one.price, one.gap) == (want.cost, want.price, want.gap)
        if limit is not None and method != "lagrange":
            assert one.value == pytest.approx(brute_force(v, c, limit)[0], abs=1e-9)


def test_many_images_share_what_is_given_once_and_errors_name_the_image():
    values = [np.eye(2, 4) * 3.0, np.ones((3, 4)), np.random.default_rng(0).normal(size=(40, 4))]
    found = solve_many(values, BUDGETS, [300, 1200, 40 * 140])
    for one, v, limit in zip(found, values, [300, 1200, 40 * 140], strict=True):
        assert one.index.tolist() == solve(v, BUDGETS, limit).index.tolist()
    assert [s.index.tolist() for s in solve_many(values[:2], BUDGETS)] == [[0, 1], [0, 0, 0]]
    assert solve_many(values[:1], BUDGETS, 900, floor=128)[0].cost >= 256
    assert solve_many([], BUDGETS) == []
    with pytest.raises(ValueError, match="image 1: limit 150 is infeasible"):
        solve_many(values[:2], BUDGETS, 150)
    with pytest.raises(ValueError, match="image 0: limit needs one entry for each of the 2 images, got 1"):
        solve_many(values[:2], BUDGETS, [900])
    with pytest.raises(ValueError, match="same number of arms"):
        solve_many([np.ones((1, 2)), np.ones((1, 3))], [[1, 2], [1, 2, 3]])
    with pytest.raises(ValueError, match="method must be"):
        solve(values[0], BUDGETS, 900, method="greedy")


@settings(max_examples=200, deadline=None)
@given(instances())
def test_lagrangian_gap_and_price_are_proven(instance):
    values, costs, limit = instance
    value, _ = brute_force(values, costs, limit)
    found = solve(values, costs, limit, method="lagrange")
    assert found.cost <= limit
    assert found.value <= value + 1e-9 <= found.value + found.gap + 2e-9
    # Weak duality at the reported price: no allocation beats the dual value.
    dual = (values - found.price * costs).max(axis=1).sum() + found.price * limit
    assert dual >= value - 1e-9
    assert found.price >= 0.0


def test_equal_to_scipy_milp_on_ragged_costs():
    rng = np.random.default_rng(0)
    for _ in range(15):
        patches, arms = 12, 4
        values = rng.normal(size=(patches, arms))
        costs = np.minimum(BUDGETS, rng.integers(40, 420, size=(patches, 1)))
        limit = int(rng.integers(costs.min(1).sum(), costs.max(1).sum()))
        one_each = np.kron(np.eye(patches), np.ones(arms))
        result = scipy.optimize.milp(
            -values.ravel(),
            integrality=np.ones(values.size),
            bounds=scipy.optimize.Bounds(0, 1),
            constraints=[
                scipy.optimize.LinearConstraint(one_each, 1, 1),
                scipy.optimize.LinearConstraint(costs.ravel()[None], -np.inf, limit),
            ],
        )
        assert solve(values, costs, limit).value == pytest.approx(-result.fun, abs=1e-6)


@pytest.mark.parametrize("kind", ["noisy", "concave", "tied"])
def test_large_instances_stay_exact_and_agree_with_the_plain_dynamic_programme(kind):
    rng = np.random.default_rng(1)
    patches = 120
    values = {
        "noisy": rng.normal(size=(patches, 4)),
        "concave": rng.gamma(1.0, size=(patches, 1)) * np.log(BUDGETS / 64),
        "tied": rng.integers(0, 3, size=(patches, 4)).astype(float),
    }[kind]
    for limit in (64 * patches, 100 * patches + 13, 200 * patches, 400 * patches):
        fast, plain = solve(values, BUDGETS, limit), solve(values, BUDGETS, limit, method="exact")
        assert fast.value == pytest.approx(plain.value, rel=1e-12)
        assert (fast.index == plain.index).all()
        assert fast.gap == 0.0


def test_shadow_price_is_the_marginal_value_of_a_token():
    values = np.array([[0.0, 6.0], [0.0, 3.0], [0.0, 1.0]])
    costs = np.array([0, 10])
    assert solve(values, costs, 15).price == pytest.approx(0.3)  # the second patch is at the margin
    assert solve(values, costs, 100).price == 0.0


def test_a_large_instance_is_near_optimal_by_the_lagrangian_and_says_how_near():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(256, 4))
    for limit in (100 * 256, 140 * 256, 180 * 256):
        quick, exact = solve(values, BUDGETS, limit, method="lagrange"), solve(values, BUDGETS, limit)
        assert exact.gap == 0.0 and quick.price == exact.price > 0.0
        assert exact.value - quick.value <= quick.gap + 1e-9
        floor = solve(values, BUDGETS, 64 * 256).value
        assert quick.gap <= 0.01 * (exact.value - floor)  # one fractional edge of about 256


def test_the_size_chooses_the_path(monkeypatch):
    """Above so many cells "auto" returns the Lagrangian's incumbent and its gap; "exact" is never talked out of it."""
    values = np.random.default_rng(3).normal(size=(200, 4))
    limit = 140 * 200
    quick, exact = (solve(values, BUDGETS, limit, method=method) for method in ("lagrange", "exact"))
    assert exact.value > quick.value  # an instance where the paths differ
    assert solve(values, BUDGETS, limit).value == exact.value
    monkeypatch.setattr("allocator.knapsack.solver.MAX_CELLS", 100)
    found = solve(values, BUDGETS, limit)
    assert found.index.tolist() == quick.index.tolist() and found.gap == quick.gap >= exact.value - quick.value
    assert solve(values, BUDGETS, limit, method="exact").value == exact.value


def test_unlimited_is_argmax_with_cheaper_ties():
    values = np.array([[1.0, 1.0, 0.0], [-2.0, -1.0, -1.0]])
    costs = np.array([[5, 3, 1], [1, 9, 4]])
    assert solve_knapsack(values, costs).tolist() == [1, 2]
    assert solve_knapsack(torch.tensor(values), torch.tensor(costs)).tolist() == [1, 2]


def test_arms_that_collapse_on_a_ragged_patch_resolve_to_the_first():
    costs = np.array([[64, 128, 182, 182], [42, 42, 42, 42]])
    values = np.array([[0.0, 0.1, 0.9, 0.9], [0.0, 0.0, 0.0, 0.0]])
    assert solve_knapsack(values, costs, 300).tolist() == [2, 0]
    twice = np.array([[0.0, 0.9, 0.9], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]])
    for method in ("auto", "exact"):  # also where the limit binds
        assert solve(twice, [0, 10, 10], 20, method=method).index.tolist() in ([1, 1, 0], [1, 0, 1])


def test_sums_that_differ_only_by_rounding_are_ties():
    """0.1 + 0.2 > 0.3 in floating point: the dearer allocation must not win by its last bit."""
    values = np.array([[0.0, 0.1], [0.0, 0.2], [0.0, 0.3]])
    costs = np.array([[0, 2], [0, 2], [0, 3]])
    for method in ("auto", "exact"):
        assert solve(values, costs, 4, method=method).index.tolist() == [0, 0, 1]


def test_floor_excludes_cheap_arms_except_where_nothing_dearer_exists():
    values = np.array([[9.0, 1.0, 0.0], [9.0, 1.0, 0.0]])
    costs = np.array([[1, 5, 9], [1, 2, 2]])
    assert solve_knapsack(values, costs, floor=4).tolist() == [1, 1]
    assert solve_knapsack(values, costs, 7, floor=[0, 2]).tolist() == [0, 1]
    with pytest.raises(ValueError, match="cheapest allocation of 2 patches already costs 7"):
        solve_knapsack(values, costs, 6, floor=4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[0.0, np.nan]], [1, 2], 5), ValueError, "values must be finite, but entry \\[0, 1\\] is nan"),
        (([[0.0, np.inf]], [1, 2], 5), ValueError, "values must be finite"),
        (([[0.0, 1.0]], [1, -2], 5), ValueError, "costs must not be negative, got -2"),
        (([[0.0, 1.0]] * 4, [1, 2**52], 5), ValueError, "costs add up beyond 2.53 .the largest is 4503599627370496"),
        (([[0.0, 1.0]], [1.5, 2], 5), TypeError, "costs must hold whole numbers"),
        (([[0.0, 1.0]], [1, 2, 3], 5), ValueError, r"costs must have shape \[2\], got \[3\]"),
        (([[0.0, 1.0]], [4, 5], 3), ValueError, "limit 3 is infeasible.*raise the limit to at least 4"),
        (([[0.0, 1.0]], [4, 5], float("nan")), ValueError, "limit must be finite"),
        (([[0.0, 1.0]], [4, 5], "9"), TypeError, "limit must be a number"),
        ((np.zeros((0, 3)), [1, 2, 3], 5), ValueError, "at least one patch"),
        (([0.0, 1.0], [1, 2], 5), ValueError, "values must have shape"),
        (([[0.0, 1.0], [0.0]], [1, 2], 5), ValueError, "values must be rectangular"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        solve_knapsack(*arguments)


@settings(max_examples=100, deadline=None)
@given(instances(), st.integers(0, 2**32 - 1))
def test_conditioned_sampling_is_exact(instance, seed):
    """The propensity equals enumeration, whatever was drawn."""
    log_weights, costs, limit = instance
    index, log_propensity, probabilities = sample_allocation(log_weights, costs, limit, np.random.default_rng(seed))
    rows = np.arange(len(index))
    assert costs[rows, index].sum() <= limit
    total = -np.inf
    for choice in itertools.product(range(costs.shape[1]), repeat=len(costs)):
        if costs[rows, list(choice)].sum() <= limit:
            total = np.logaddexp(total, log_weights[rows, list(choice)].sum())
    assert log_propensity == pytest.approx(log_weights[rows, index].sum() - total, abs=1e-9)
    assert (probabilities is None) == (costs.max(axis=1).sum() > limit)


def test_conditioned_sampling_frequencies_match_the_propensity():
    rng = np.random.default_rng(3)
    log_weights, costs = rng.normal(size=(3, 3)), np.array([[0, 1, 3]] * 3)
    counts, claimed = {}, {}
    for _ in range(6000):
        index, log_propensity, _ = sample_allocation(log_weights, costs, 4, rng)
        key = tuple(index.tolist())
        counts[key] = counts.get(key, 0) + 1
        claimed[key] = np.exp(log_propensity)
    assert sum(claimed.values()) == pytest.approx(1.0, abs=1e-9)
    for key, p in claimed.items():
        assert counts[key] / 6000 == pytest.approx(p, abs=4.5 * np.sqrt(p * (1 - p) / 6000))


def test_conditioned_sampling_survives_extreme_weights():
    """A sharp softmax whose favourites do not fit must not underflow to nothing."""
    log_weights = np.array([[0.0, 1000.0, 9000.0]] * 4)
    costs = np.array([[1, 5, 9]] * 4)
    index, log_propensity, _ = sample_allocation(log_weights, costs, 12, np.random.default_rng(0))
    assert sorted(index.tolist()) == [0, 0, 0, 2]
    assert log_propensity == pytest.approx(np.log(1 / 4), abs=1e-6)
