"""Cutting the plane and buying tokens: against brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arr_coc.config import ArrCocConfig, resolve_limit
from arr_coc.scene.patches import budget_grid, cut, full_tokens, make_patches, realised_costs

sizes = st.integers(1, 60)


@given(sizes, st.integers(1, 24), st.integers(1, 6))
def test_cuts_are_few_near_equal_and_aligned(size, side, multiple):
    multiple = min(multiple, side)
    edges = cut(size, side, multiple)
    pieces = [b - a for a, b in zip(edges, edges[1:], strict=False)]
    assert edges[0] == 0 and edges[-1] == size and min(pieces) > 0 and max(pieces) <= side
    assert all(edge % multiple == 0 for edge in edges[:-1])
    reach = side - side % multiple
    assert len(pieces) == -(-size // reach)
    if multiple == 1:
        assert max(pieces) - min(pieces) <= 1


@given(st.integers(1, 26), st.integers(1, 26), st.sampled_from([1, 4, 16, 36, 64, 128, 256, 400]))
@settings(max_examples=300, deadline=None)
def test_a_budget_buys_the_largest_fair_grid(height, width, budget):
    rows, columns = budget_grid(height, width, budget)
    assert (
        1 <= rows <= height
        and 1 <= columns <= width
        and rows * columns <= budget
        or (rows, columns) == (height, width)
    )
    if height * width <= budget:
        assert (rows, columns) == (height, width)
        return

    def distortion(r, c):
        ratio = (r / height) / (c / width)
        return max(ratio, 1 / ratio)

    grids = [(r, c) for r in range(1, height + 1) for c in range(1, width + 1) if r * c <= budget]
    fair = [r * c for r, c in grids if distortion(r, c) <= 2 + 1e-9]
    if fair:
        assert rows * columns == max(fair) and distortion(rows, columns) <= 2 + 1e-9
    else:
        assert distortion(rows, columns) <= min(distortion(r, c) for r, c in grids) + 1e-6


def test_the_named_grids():
    assert [budget_grid(20, 20, b) for b in (64, 128, 256, 400)] == [(8, 8), (8, 16), (16, 16), (20, 20)]
    assert budget_grid(18, 20, 128) == (8, 16) and budget_grid(20, 18, 128) == (16, 8)
    for bad in ((0, 4, 4), (4, 4, 0)):
        with pytest.raises(ValueError, match="needs positive ints"):
            budget_grid(*bad)


@given(sizes, sizes)
@settings(max_examples=50, deadline=None)
def test_patches_tile_the_view_in_raster_order(height, width):
    patches = make_patches([(0, 0, height, width), (1, 0, 3, 5)], 20)
    seen = torch.zeros(height, width)
    for patch in patches:
        if patch.entry == 0:
            seen[patch.top : patch.bottom, patch.left : patch.right] += 1
    assert bool((seen == 1).all())
    assert patches == sorted(patches, key=lambda p: (p.entry, p.view, p.top, p.left))
    assert full_tokens(patches) == height * width + 15


def test_costs_collapse_where_arms_are_the_same():
    patches = make_patches([(0, 0, 20, 20), (1, 0, 13, 14), (2, 0, 3, 3)])
    costs = realised_costs(patches, (64, 128, 256, 400))
    assert costs.tolist() == [[64, 128, 256, 400], [64, 126, 182, 182], [9, 9, 9, 9]]
    assert realised_costs([], (64, 128)).shape == (0, 2)


def test_limits():
    costs = torch.tensor([[64, 128, 256, 400]] * 4)
    assert resolve_limit(None, costs) == 1600 and resolve_limit(0.4, costs) == 640 and resolve_limit(700, costs) == 700
    assert resolve_limit(0.16, costs) == 256 and resolve_limit(1.0, costs) == 1600
    with pytest.raises(ValueError, match=r"limit=255 .* 4 patches need 256 .* at least 256 \(or the share 0.16\)"):
        resolve_limit(255, costs)
    with pytest.warns(UserWarning, match="limit=0.1 is less than the floors"):
        assert resolve_limit(0.1, costs) == 256  # a share below the floors means the floors
    with pytest.raises(ValueError, match=r"limit=1601 is above full detail, which is 1600"):
        resolve_limit(1601, costs)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("budgets", (64, 0), "must be positive ints"),
        ("budgets", (64, 128.0), "must be positive ints"),
        ("budgets", (True, 64), "must be positive ints"),
        ("budgets", (128, 64), r"must rise without repeats; use \(64, 128\)"),
        ("budgets", (64, 64), r"use \(64,\)"),
        ("budgets", "64", "must be 'auto' or a sequence"),
        ("patch_side", 0, "patch_side=0 must be a positive int"),
        ("limit", 0, "positive number of tokens"),
        ("limit", 1.5, r"share of full detail in \(0, 1\]"),
        ("limit", float("nan"), "share of full detail"),
        ("limit", True, "must be an int"),
        ("limit", "0.4", "must be an int"),
        ("price", -1, "finite number >= 0"),
        ("price", float("inf"), "finite number >= 0"),
        ("positions", "kept", "Did you mean 'keep'"),
        ("policy", "", "must be a name"),
        ("scorers", "propositional", "must be a sequence of names"),
        ("scorers", ("a", "a"), "names one twice"),
        ("seed", -1, "must be an int >= 0"),
    ],
)
def test_a_bad_configuration_is_refused(field, value, match):
    with pytest.raises((ValueError, TypeError), match=match) as caught:
        ArrCocConfig(**{field: value})
    assert field in str(caught.value)


def test_a_budget_must_be_one_of_the_budgets_given_or_of_the_familys_own():
    for make in (lambda: ArrCocConfig(budgets=(64, 400), budget=100), lambda: ArrCocConfig(budget=100).resolved()):
        with pytest.raises(ValueError, match="budget=100 must be one of the budgets"):
            make()


def test_configuration_round_trip_and_near_match():
    config = ArrCocConfig(budgets=[64, 400], limit=0.4)
    assert ArrCocConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=r"Unknown configuration key 'pric'\. Did you mean 'price'\?"):
        ArrCocConfig.from_dict({"pric": 1})
