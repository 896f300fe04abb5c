"""Curves over several runs: mixtures by hand, intervals that pair and cluster, entries that stand for a curve."""

import pytest

from eval.methods import at_prices, make_method
from eval.reporting.curves import REACH, curves


def _run(**methods):
    """Records of methods given as (tokens, scores)."""
    return {
        name.replace("_", " "): [
            {"method": name, "question_id": str(i), "image_id": str(i // 2), "score": s, "tokens": tokens,
             "full_tokens": 400}
            for i, s in enumerate(scores)
        ]
        for name, (tokens, scores) in methods.items()
    }  # fmt: skip


def test_a_curve_is_what_mixtures_of_its_methods_reach():
    one = _run(
        floor=(64, [0, 0, 0, 0]), full=(400, [1, 1, 1, 0]),
        learned=(96, [1, 1, 0, 0]), dear=(160, [1, 1, 1, 0]), flat=(80, [0, 0, 0, 1]), flatter=(128, [0, 0, 0, 1]),
    )  # fmt: skip
    two = {name: [{**r, "score": 1 - r["score"]} for r in rows] for name, rows in one.items()}
    found = curves([one], {"learned": ["learned", "dear"], "other": ["flat", "flatter"]}, "learned", "floor", "full")
    assert REACH == 0.4
    there, minus, mean, less = found["other"]
    assert there == pytest.approx(0.25)  # between its methods at 80 and 128 tokens
    assert minus.value == pytest.approx(0.25 - 0.5)
    # 64 to 80: up to 1/4; to 128: level; to 160: an eighth of the way to full detail's 3/4 (272 tokens more).
    risen = 0.25 + 0.5 * 32 / 272
    assert mean == pytest.approx((0.125 * 16 + 0.25 * 48 + (0.25 + risen) / 2 * 32) / 96)
    # The learned curve: 64 to 96 up to 1/2, to 160 up to 3/4.
    assert less.value == pytest.approx(mean - (0.25 * 32 + 0.625 * 64) / 96)
    there, minus, _, less = found["learned"]
    assert (there, minus.value, less.value) == (0.5, 0, 0)
    both = curves([one, two], {"learned": ["learned"], "other": ["flat"]}, "learned", "floor", "full")["other"]
    assert both[1].value == pytest.approx(0)  # the second run mirrors the first
    assert both[1].low < -0.2 and both[1].high > 0.2


def test_runs_that_lack_a_method_of_a_curve_are_left_out():
    one = _run(floor=(64, [0, 0]), full=(400, [1, 1]), learned=(96, [1, 0]))
    two = one | _run(other=(96, [0, 0]))
    members = {"learned": ["learned"], "other": ["other"]}
    found = curves([one, two], members, "learned", "floor", "full")
    assert found["other"][1].value == pytest.approx(-0.5)
    assert "other" not in curves([one], members, "learned", "floor", "full")


def test_prices_stand_for_a_curve():
    learner = {"method": "learner", "label": "a", "episodes": 3, "prices": [0.2, 0.01]}
    own, *again = at_prices(learner)
    assert own == {"method": "learner", "label": "a", "episodes": 3, "curve": "a"}
    assert again == [
        {"method": "learned", "of": "a", "curve": "a", "label": f"a at {price}", "price": price}
        for price in (0.2, 0.01)
    ]
    heuristic = {"method": "heuristic", "label": "h", "confidence": False, "prices": [0.2]}
    made = [make_method(spec) for spec in at_prices(heuristic)]
    assert [(m.label, m.price, m.confidence, m.curve) for m in made] == [
        ("h", None, False, "h"), ("h at 0.2", 0.2, False, "h"),
    ]  # fmt: skip
    assert at_prices("uniform-64") == ["uniform-64"]
    with pytest.raises(ValueError, match="needs a label= for its curve"):
        at_prices({"method": "heuristic", "prices": [0.2]})
    with pytest.raises(ValueError, match="a list such as"):
        at_prices({"method": "heuristic", "label": "h", "prices": 0.2})
