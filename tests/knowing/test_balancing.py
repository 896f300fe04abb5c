"""Direction, bounds and switches of the three tensions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator import solve_knapsack
from arr_coc.balancing import BalanceConfig, Balancer, disagreement, fineness, flatness, novelty
from arr_coc.scene.patches import make_patches
from tests.knowing.planted import blank, scene

N = 9
PEAKED = torch.tensor([0.02] * 4 + [0.84] + [0.02] * 4)
FLAT = torch.full((N,), 1 / N)


def image(question="what is it ?"):
    return scene([blank()] * N, make_patches([(0, 0, 60, 60)]), question)


def balance(relevance=PEAKED, question="what is it ?", price=0.3, config=None, **others):
    scores = {"participatory": relevance, **others}
    return Balancer(config, lambda scores: scores["participatory"])(image(question), scores, price)


def test_a_question_after_detail_lowers_the_price():
    assert balance(question="read the small text").price < balance(question="what colour is the sky ?").price
    assert fineness("Read the small TEXT.") > fineness("what number is it ?") > fineness("is it red ?") == 0


def test_flat_relevance_diversifies_and_a_peak_focuses():
    flat, peaked = balance(FLAT), balance(PEAKED)
    assert flat.log["diversify"] > 0 > peaked.log["diversify"]
    assert (flat.coverage[:, 1:] > 0).all() and (flat.coverage[:, 0] == 0).all()
    assert (peaked.coverage[[0, 1, 8], 1:] < 0).all() and (peaked.coverage[4] == 0).all()
    assert (peaked.coverage[:, 0] == 0).all()


def test_coverage_moves_tokens():
    """At equal, barely worthless values: diversifying raises more patches above the floor, focusing fewer."""
    costs = image().costs.numpy()
    price = 0.3 / costs[:, -1].sum()
    values = (costs - costs[:, :1]) * price * 0.95
    strong = BalanceConfig(coverage=0.5)
    raised = {}
    for name, relevance in (("flat", FLAT), ("peaked", PEAKED)):
        net = values - price * costs + balance(relevance, config=strong).coverage.numpy()
        raised[name] = int((solve_knapsack(net, costs, int(costs.sum())) > 0).sum())
    assert raised["flat"] == N and raised["peaked"] <= 1


def test_neighbours_of_a_chosen_patch_gain_less():
    near, far = novelty(image(), PEAKED)[[1, 0]]
    assert near < far
    assert novelty(image(), PEAKED)[4] == 1
    assert novelty(scene([blank()] * N), PEAKED).tolist() == [1.0] * N  # separate images are no neighbours


def test_uncertainty_explores():
    uncertain = balance(FLAT, prop=torch.linspace(0, 1, N), pers=torch.linspace(1, 0, N))
    sure = balance(PEAKED, prop=PEAKED, pers=PEAKED)
    assert uncertain.temperature > 1 > sure.temperature


def test_signals_on_the_edge():
    assert flatness(FLAT) == pytest.approx(1) and flatness(torch.zeros(4)) == 1
    assert flatness(torch.tensor([0.0, 1.0])) == 0 and flatness(torch.tensor([0.3])) == 0.5
    line = torch.linspace(0, 1, 5)
    assert disagreement({"a": line, "b": line}) == pytest.approx(0)
    assert disagreement({"a": line, "b": -line}) == pytest.approx(1)
    assert disagreement({"a": line, "b": torch.ones(5)}) == 0.5 == disagreement({"a": line})


def test_every_tension_has_a_switch():
    off = balance(FLAT, "read the small text", config=BalanceConfig(price=0, temperature=0, coverage=0))
    assert off.price == 0.3 and off.temperature == 1 and (off.coverage == 0).all()
    only = balance(FLAT, "read the small text", config=BalanceConfig(temperature=0, coverage=0))
    assert only.price != 0.3 and only.temperature == 1
    assert balance().price == pytest.approx(0.3)  # a question that asks for nothing small


def test_only_what_acts_is_computed():
    def refused(scores):
        raise AssertionError("no tension that is named needs relevance")

    for config in (BalanceConfig(price=0, temperature=0, coverage=0), BalanceConfig(temperature=0, coverage=0)):
        found = Balancer(config, refused)(image(), {"a": FLAT}, 0.3)
        assert set(found.log) <= {"fineness", "compress", "price_factor"}
    assert not Balancer(BalanceConfig(price=0, temperature=0, coverage=0))(image(), {"a": FLAT}, 0.3).log
    only = Balancer(BalanceConfig(price=0, temperature=0))(image(), {"a": FLAT}, 0.3)
    assert set(only.log) == {"flatness", "diversify", "coverage"}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=N, max_size=N),
    st.lists(st.floats(0, 1), min_size=N, max_size=N),
    st.floats(0, 10),
    st.sampled_from(["", "read the tiny text", "is it red ?"]),
)
def test_everything_stays_within_its_bounds(relevance, other, price, question):
    config = BalanceConfig()
    found = balance(torch.tensor(relevance), question, price, prop=torch.tensor(other))
    assert price * 2**-config.price * 0.999 <= found.price <= price * 2**config.price * 1.001
    assert 2**-config.temperature <= found.temperature <= 2**config.temperature
    costs = image().costs
    most = config.coverage * config.unit * (costs - costs[:, :1]) / costs[:, -1].sum()
    assert (found.coverage.abs() <= most + 1e-7).all()
    assert all(-1 <= found.log[k] <= 1 for k in ("compress", "explore", "diversify"))


def test_single_patch_and_arms_that_cost_the_same():
    one = scene([blank()], make_patches([(0, 0, 5, 6)]))
    found = Balancer()(one, {"participatory": torch.tensor([1.0])}, 0.3)
    assert (found.coverage == 0).all() and found.temperature == 1


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="'participatory' must hold 9 finite"):
        balance(torch.full((N,), torch.nan))
    with pytest.raises(ValueError, match="'participatory' must hold 9"):
        balance(torch.ones(3))
    with pytest.raises(ValueError, match="price=-1"):
        balance(price=-1)
    with pytest.raises(ValueError, match="price=nan"):
        balance(price=float("nan"))
    with pytest.raises(ValueError, match="at least one score"):
        Balancer()(image(), {}, 0.3)
    with pytest.raises(ValueError, match="coverage=2"):
        BalanceConfig(coverage=2)
