"""The rewards against the official VQA evaluator's recorded output, hand-made cases and properties."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arr_coc.learning import rewards
from arr_coc.learning.rewards import (
    Reward,
    anls,
    gqa_accuracy,
    make_reward,
    normalize_answer,
    parse_yes_no,
    pope_accuracy,
    pope_metrics,
    relaxed_accuracy,
    vqa_accuracy,
)

# What the official vqaEval.py of VQA v2 (March 2021) gave for strings full of its corner cases: 180 questions with
# ten answers each.
RECORDED = [json.loads(line) for line in (Path(__file__).parent / "official_vqa.jsonl").read_text().splitlines()]
TEXT = st.text(st.sampled_from("abAB .,'?!-12\n\té"), max_size=12)


def test_normalisation_is_the_official_one():
    for row in RECORDED:
        assert normalize_answer(row["prediction"]) == row["normalized"], row["prediction"]


def test_accuracy_is_the_official_one():
    assert len(RECORDED) == 180
    for row in RECORDED:
        answers = [answer for answer, count in row["answers"].items() for _ in range(count)]
        assert len(answers) == 10
        assert vqa_accuracy(row["prediction"], answers) == pytest.approx(row["accuracy"], abs=1e-12), row


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Cat.", "cat"),
        ("two dogs", "2 dogs"),
        ("None", "0"),
        ("1,000", "1000"),  # a number with a comma: marks are deleted
        ("a-b", "b"),  # a mark between letters becomes a space, and then "a" is an article
        ("x- y-z", "x yz"),  # but it is deleted everywhere once it touches a space anywhere
        ("3.5 mph.", "3.5 mph"),
        ("5.", "5"),  # the evaluator meant to keep a period after a digit; its pattern does not
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),  # its entries for I are capital and never match
        ("9:30", "9:30"),
        ("eleven", "eleven"),
        (". " * 40, ". . . . . . . ."),  # re.UNICODE is passed as the count: 32 periods go, 8 stay
    ],
)
def test_quirks_by_name(text, normal):
    assert normalize_answer(text) == normal


def test_processing_applies_only_when_annotators_differ():
    assert vqa_accuracy("Yes.", ["yes"] * 10) == 0.0
    assert vqa_accuracy(" yes\n", ["yes"] * 10) == 1.0
    assert vqa_accuracy("Yes.", ["yes"] * 9 + ["no"]) == 1.0


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)])
def test_ten_leave_one_out_subsets(matches, score):
    assert vqa_accuracy("red", ["red"] * matches + ["blue"] * (10 - matches)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answers", "score"),
    [
        (["Red."], 1.0),
        (["red", "blue"], 0.5),
        (["red", "red"], 1.0),
        (["red", "blue", "blue"], 1 / 3),
        (["red"] * 5 + ["x"] * 6, 1.0),
    ],
)
def test_other_list_lengths(answers, score):
    assert vqa_accuracy("red", answers) == pytest.approx(score)


@given(TEXT, st.lists(TEXT, min_size=1, max_size=12), st.randoms())
def test_accuracy_is_a_share_and_order_is_nothing(prediction, answers, random):
    score = vqa_accuracy(prediction, answers)
    assert 0.0 <= score <= 1.0
    shuffled = random.sample(answers, len(answers))
    assert vqa_accuracy(prediction, shuffled) == pytest.approx(score, abs=1e-12)
    assert vqa_accuracy(prediction, [{"answer": answer} for answer in answers]) == score
    assert vqa_accuracy(answers[0], [answers[0]] * len(answers)) == 1.0


@given(TEXT)
def test_normalised_words_are_lower_case_and_hold_no_article(text):
    words = normalize_answer(text).split(" ")
    assert all(word == word.lower() and word not in ("a", "an", "the") for word in words)


def test_gqa():
    assert gqa_accuracy(" Left. ", "left") == 1.0
    assert gqa_accuracy("left side", "left") == 0.0


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("Yes, there is.", "yes"),
        ("No", "no"),
        ("there is not a dog", "no"),
        ("no, none", "no"),
        ("Yes. No", "yes"),
        ("nothing", "yes"),
        ("", "yes"),
    ],
)
def test_pope_parsing(said, word):
    assert parse_yes_no(said) == word
    assert pope_accuracy(said, word) == 1.0


def test_pope_metrics():
    got = pope_metrics(["yes", "yes", "no", "no", "yes"], ["yes", "no", "no", "yes", "yes"])
    assert got == pytest.approx(
        {"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 3 / 5}
    )
    never = pope_metrics(["no"], ["yes"])
    assert (never["precision"], never["recall"], never["f1"], never["yes_ratio"]) == (0.0, 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="neither 'yes' nor 'no'"):
        pope_metrics(["yes"], ["maybe"])
    with pytest.raises(ValueError, match="2 predictions for 1 answers"):
        pope_metrics(["yes", "no"], ["yes"])


def test_anls_by_hand():
    assert anls("Hello  World", ["hello world"]) == 1.0
    assert anls("helo", ["hello", "xyz"]) == pytest.approx(0.8)
    assert anls("ab", ["ax"]) == 0.5  # exactly the threshold counts
    assert anls("abc", ["axy"]) == 0.0
    assert anls("", [""]) == 1.0


@given(TEXT, TEXT)
def test_levenshtein_is_a_distance(one, two):
    distance = rewards._levenshtein(one, two)
    assert distance == rewards._levenshtein(two, one)
    assert (distance == 0) == (one == two)
    assert abs(len(one) - len(two)) <= distance <= max(len(one), len(two))
    assert rewards._levenshtein(one + "x", two + "x") == distance


@pytest.mark.parametrize(
    ("said", "truth", "score"),
    [("105", "100", 1), ("105.1", "100", 0), ("95", "100", 1), ("-100", "100", 0), ("12%", "0.12", 1),
     ("Blue", "blue", 1), ("12", "blue", 0), ("0", "0", 1), ("0.0", "0", 0), ("nan", "5", 0), ("inf", "inf", 1),
     ("1e999", "5", 0)],
)  # fmt: skip
def test_relaxed_accuracy(said, truth, score):
    assert relaxed_accuracy(said, truth) == score


@given(st.floats(0.01, 1e6), st.floats(-0.2, 0.2))
def test_relaxed_accuracy_follows_the_relative_error(target, error):
    if abs(abs(error) - 0.05) > 1e-6:
        assert relaxed_accuracy(repr(target * (1 + error)), repr(target)) == float(abs(error) < 0.05)


def test_registry():
    sample = {"answers": ["two"] * 10}
    assert make_reward("vqa_accuracy")("two", sample) == 1.0
    assert make_reward("gqa_accuracy")("Two", {"answer": "two"}) == 1.0
    assert make_reward("anls")("two", {"answers": ["ten", "two"]}) == 1.0
    with pytest.raises(ValueError, match="Did you mean 'vqa_accuracy'"):
        make_reward("vqa_acuracy")


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.5])
def test_a_reward_outside_its_range_is_refused_by_name(value):
    broken = Reward("broken", lambda prediction, answers: value, several=True)
    with pytest.raises(ValueError, match="reward 'broken' returned"):
        broken("x", {"answers": ["x"]})


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="neither 'answers' nor 'answer'"):
        make_reward("vqa_accuracy")("x", {"question": "?"})
    with pytest.raises(ValueError, match="list of answers is empty"):
        vqa_accuracy("x", [])
    with pytest.raises(TypeError, match="is one string"):
        vqa_accuracy("x", "red")
    with pytest.raises(TypeError, match="prediction None is NoneType"):
        vqa_accuracy(None, ["x"])
