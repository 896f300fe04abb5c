"""Rewards and metrics of visual question answering: pure functions of strings, no network, no state.

`vqa_accuracy` follows the official evaluator of VQA v2 (`vqaEval.py`, Goyal et al. 2017, https://visualqa.org) to
the letter, quirks included, because published numbers contain them. The others follow the scripts of their
benchmarks; each names its source. Every function returns a float in [0, 1]. `make_reward` gives them one shape,
``(prediction, sample) -> float``, for learning and evaluation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from ..config import nearest

GOLD = "gold_probability"
"""The reward of `arr_coc.learning.gold`, which is no function of an answer: it asks the model again."""

AGREEMENT = "agreement"
"""The reward of `arr_coc.learning.agreement`: the answer is full detail's. It needs no labels, and asks again too."""
ASK_AGAIN = (GOLD, AGREEMENT)

Answers = Sequence[str] | Sequence[Mapping[str, Any]]

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# The evaluator's pattern means "not preceded by a digit" but, written (?!<=\d), looks ahead for the text "<=": it
# never holds back.
_PERIOD = re.compile(r"\.(?!\d)")
# It also passes re.UNICODE, which is 32, where `re.sub` expects a count: only the first 32 periods go.
_PERIOD_COUNT = int(re.UNICODE)
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}

# The evaluator's table holds, for each of these forms, every spelling that misses exactly one apostrophe. Its
# entries for "I" are spelt with a capital and can never match the lower-cased words, so they are absent here;
# "somebody'd" loses its apostrophe there, and so here.
_CONTRACTED = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"""
_CONTRACTIONS = {
    form[:i] + form[i + 1 :]: form for form in _CONTRACTED.split() for i, letter in enumerate(form) if letter == "'"
} | {"somebody'd": "somebodyd"}


def normalize_answer(text: str) -> str:
    """The official VQA normalisation of one answer: punctuation, lower case, number words, articles, contractions.

    Parameters
    ----------
    text : str
        An answer as written by a person or a model.

    Returns
    -------
    str
        Lower-case words with single spaces.

    Notes
    -----
    Quirks kept: a punctuation mark is deleted everywhere when it touches a space anywhere in the text, *or* when the
    text holds a number with a comma; otherwise it turns into a space. A period goes unless a digit follows. Colons
    and apostrophes stay.
    """
    text = _clean(text)
    delete_all = _COMMA_IN_NUMBER.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        out = out.replace(mark, "" if delete_all or f"{mark} " in text or f" {mark}" in text else " ")
    out = _PERIOD.sub("", out, count=_PERIOD_COUNT)
    words = (_DIGITS.get(word, word) for word in out.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Answers) -> float:
    """Soft accuracy of VQA v2 and TextVQA, as the official evaluator computes it.

    Parameters
    ----------
    prediction : str
        The model's answer.
    answers : sequence of str, or of mappings with key "answer"
        What the annotators said; ten in VQA v2. The order does not matter.

    Returns
    -------
    float
        The mean over the subsets that leave one annotator out of ``min(1, matches / 3)``.

    Raises
    ------
    TypeError, ValueError
        If the prediction or an answer is no string, or there is no answer.

    Notes
    -----
    As in the official evaluator, both sides are normalised only when the annotators differ; where all agree, strings
    must be equal up to outer white space. Lists of another length than ten, which the official evaluator leaves
    open: n answers use the same mean with ``min(1, matches / min(3, n - 1))``, so that agreeing with everyone always
    scores 1; a single answer is normalised and compared.

    References
    ----------
    Antol et al., "VQA: Visual Question Answering", ICCV 2015; Goyal et al., CVPR 2017; Singh et al., "Towards VQA
    models that can read" (TextVQA), CVPR 2019.
    """
    truth = [_clean(answer) for answer in _answer_list(answers)]
    said = _clean(_text(prediction, "prediction"))
    if len(set(truth)) > 1 or len(truth) == 1:
        truth, said = [normalize_answer(answer) for answer in truth], normalize_answer(said)
    if len(truth) == 1:
        return float(said == truth[0])
    matches, enough = truth.count(said), min(3, len(truth) - 1)
    # The sum in this order, and not its closed form, gives the official evaluator's floats to the bit.
    return sum(min(1.0, (matches - (answer == said)) / enough) for answer in truth) / len(truth)


def gqa_accuracy(prediction: str, answer: str) -> float:
    """Exact match of GQA (Hudson and Manning, CVPR 2019): lower case, without outer space and one final period. 1.0
    or 0.0."""
    said, truth = _text(prediction, "prediction"), _text(answer, "answer")
    return float(_bare(said) == _bare(truth))


def parse_yes_no(prediction: str) -> str:
    """The rule of POPE's evaluator: "no" when the first sentence has the word "no" or "not", otherwise "yes" (also
    for an empty answer)."""
    words = re.findall(r"\w+", _text(prediction, "prediction").split(".")[0].lower())
    return "no" if "no" in words or "not" in words else "yes"


def pope_accuracy(prediction: str, answer: str) -> float:
    """1.0 where the parsed yes/no equals the true one ("yes" or "no"), else 0.0 (Li et al., "POPE", EMNLP 2023)."""
    return float(parse_yes_no(prediction) == _yes_no(answer))


def pope_metrics(predictions: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """POPE over a whole set: accuracy, precision, recall and F1 of "yes", and the share of "yes" predicted.

    A ratio whose denominator is zero (no "yes" predicted, or none true) is 0.0, as scikit-learn has it.

    Raises
    ------
    ValueError
        If the two lists differ in length or are empty, or a true answer is neither "yes" nor "no".
    """
    if len(predictions) != len(answers) or not len(answers):
        raise ValueError(
            f"{len(predictions)} predictions for {len(answers)} answers: give one of each per question, at least one"
        )
    said = [parse_yes_no(prediction) == "yes" for prediction in predictions]
    truth = [_yes_no(answer) == "yes" for answer in answers]
    both, predicted, real = sum(s and t for s, t in zip(said, truth, strict=True)), sum(said), sum(truth)
    return {
        "accuracy": sum(s == t for s, t in zip(said, truth, strict=True)) / len(truth),
        "precision": both / predicted if predicted else 0.0,
        "recall": both / real if real else 0.0,
        "f1": 2 * both / (predicted + real) if predicted + real else 0.0,
        "yes_ratio": predicted / len(truth),
    }


def anls(prediction: str, answers: Answers, threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity of one answer: DocVQA and InfographicVQA.

    The best over the answers of ``1 - distance / longer length``, in lower case with single spaces; a similarity
    below the threshold counts 0 (exactly at it still counts, as in the official script of the Robust Reading
    Competition).

    References
    ----------
    Biten et al., "Scene Text Visual Question Answering", ICCV 2019; Mathew et al., "DocVQA", WACV 2021.
    """
    said = " ".join(_text(prediction, "prediction").lower().split())
    best = 0.0
    for answer in _answer_list(answers):
        truth = " ".join(answer.lower().split())
        longer = max(len(said), len(truth))
        best = max(best, 1.0 - _levenshtein(said, truth) / longer if longer else 1.0)
    return best if best >= threshold else 0.0


def relaxed_accuracy(prediction: str, answer: str, tolerance: float = 0.05) -> float:
    """ChartQA: a number may be off by 5 % of the true one, anything else must be equal in lower case. 1.0 or 0.0.

    "12%" reads as 0.12 on both sides. As in the published script, a true value of zero is compared as text.

    References
    ----------
    Masry et al., "ChartQA", Findings of ACL 2022; the script is that of Pix2Struct (Lee et al., ICML 2023).
    """
    said, truth = _text(prediction, "prediction").strip(), _text(answer, "answer").strip()
    number, target = _number(said), _number(truth)
    if number is not None and target:
        return float(abs(number - target) / abs(target) <= tolerance)
    return float(said.lower() == truth.lower())


@dataclass(frozen=True)
class Reward:
    """A metric over samples: ``reward(prediction, sample)`` with the sample's "answers" or "answer". Made by
    `make_reward`.

    Attributes
    ----------
    name : str
    metric : callable
        ``(prediction, answers) -> float``; it receives every answer if `several`, else the first.
    several : bool
    own : bool
        Whether it is one of `register_reward`, whose metric takes the sample itself.
    """

    name: str
    metric: Callable[..., float]
    several: bool = False
    own: bool = False

    def __call__(self, prediction: str, sample: Mapping[str, Any]) -> float:
        """Score one answer.

        Raises
        ------
        ValueError
            If the sample has no answer, or the metric returns NaN, an infinity or a number outside [0, 1].
        """
        if self.own:
            return self._checked(self.metric(prediction, sample), prediction)
        answers = sample.get("answers")
        if answers is None and sample.get("answer") is not None:
            answers = [sample["answer"]]
        if answers is None:
            raise ValueError(
                f"reward {self.name!r}: the sample has neither 'answers' nor 'answer', only {sorted(sample)}; "
                "map a column to one of them"
            )
        texts = _answer_list(answers)
        return self._checked(self.metric(prediction, texts if self.several else texts[0]), prediction)

    def _checked(self, score: Any, prediction: str) -> float:
        score = float(score)
        if not (math.isfinite(score) and 0.0 <= score <= 1.0):
            raise ValueError(
                f"reward {self.name!r} returned {score} for {prediction!r}; a reward must be a number in [0, 1]"
            )
        return score


_REWARDS: dict[str, Reward] = {
    reward.name: reward
    for reward in (
        Reward("vqa_accuracy", vqa_accuracy, several=True),
        Reward("gqa_accuracy", gqa_accuracy, several=False),
        Reward("pope_accuracy", pope_accuracy, several=False),
        Reward("anls", anls, several=True),
        Reward("relaxed_accuracy", relaxed_accuracy, several=False),
    )
}


def make_reward(name: str) -> Reward:
    """The reward of that name: "vqa_accuracy", "gqa_accuracy", "pope_accuracy", "anls" or "relaxed_accuracy", or one
    of your own.

    Raises
    ------
    ValueError
        For an unknown name, with the nearest known one.
    """
    if name not in _REWARDS and entry_points(group="arr_coc.plugins"):
        from allocator.registry import load_installed_plugins  # torch comes with it

        load_installed_plugins()
    if name in _REWARDS:
        return _REWARDS[name]
    raise ValueError(f"unknown reward {name!r}. {nearest(name, _REWARDS)}")


def register_reward(name: str, reward: Callable[[str, Mapping[str, Any]], float]) -> None:
    """Make a reward known by name; one call, for instance ``register_reward("short", lambda answer, sample: ...)``.

    Parameters
    ----------
    name
        The name used in ``task.reward``, ``learn(reward=...)`` and `make_reward`.
    reward
        From (answer, sample) to a number in [0, 1]; the sample is a mapping with ``question``, ``answers`` and the
        other columns of its source.

    Raises
    ------
    TypeError
        If the name is not a non-empty string or the reward can't be called.
    ValueError
        If the name is taken by something else.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"name={name!r} must be a non-empty string, for example 'mine'.")
    if not callable(reward):
        raise TypeError(f"reward={reward!r} must be a function of an answer and its sample.")
    known = _REWARDS.get(name)
    if name == GOLD or (known is not None and known.metric is not reward):
        raise ValueError(f"A reward named {name!r} exists already; register yours under another name.")
    _REWARDS[name] = known or Reward(name, reward, own=True)


def reward_names() -> tuple[str, ...]:
    """Names of all rewards that `make_reward` knows, sorted."""
    return tuple(sorted(_REWARDS))


def check_reward(name: object) -> None:
    """Refuse a reward that learning could not find by its name, before a model is loaded.

    Raises
    ------
    ValueError
        For an unknown name, with the nearest known one.
    """
    if isinstance(name, str) and name not in ASK_AGAIN:
        make_reward(name)


def _clean(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} {value!r} is {type(value).__name__}, not str; convert it before scoring")
    return value


def _bare(text: str) -> str:
    return text.strip().removesuffix(".").strip().lower()


def _answer_list(answers: Answers) -> list[str]:
    if isinstance(answers, str):
        raise TypeError(f"answers {answers!r} is one string; give a list, one entry per annotator")
    texts = [_text(answer.get("answer") if isinstance(answer, Mapping) else answer, "answer") for answer in answers]
    if not texts:
        raise ValueError("the list of answers is empty; a question without an answer cannot be scored")
    return texts


def _yes_no(answer: str) -> str:
    truth = _text(answer, "answer").strip().lower()
    if truth not in ("yes", "no"):
        raise ValueError(f"answer {answer!r} is neither 'yes' nor 'no', which POPE needs")
    return truth


def _number(text: str) -> float | None:
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _levenshtein(one: str, two: str) -> int:
    row = list(range(len(two) + 1))
    for i, letter in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(two, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]
