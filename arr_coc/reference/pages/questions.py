"""Questions about a page in varied wording, and its transcript. Wordings of "eval" are never used in training."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .derived import askable, block_lines
from .lexicon import DAYS, FIELDS, GAUGES, GOODS, MONTHS, SIGNS, SUMS, TEAMS

WORDINGS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "field": {
        "train": (
            "what is the {0} ?", "{0} ?", "what does it say for {0} ?", "read the {0} .", "which value has {0} ?",
            "what number is next to {0} ?", "how much is {0} ?", "tell me the {0} .", "what is written beside {0} ?",
            "give the number of {0} .",
        ),
        "eval": ("what value is written for {0} ?", "please read the number of {0} .", "what is {0} ?"),
    },
    "cell": {
        "train": (
            "what is {0} in {1} ?", "what is the number for {0} and {1} ?", "row {0} , column {1} ?",
            "which value has {0} under {1} ?", "read the cell of {0} and {1} .", "in column {1} , what has {0} ?",
        ),
        "eval": ("what number is in row {0} and column {1} ?", "how much has {0} in {1} ?"),
    },
    "color": {
        "train": (
            "what color is {0} ?", "which color has {0} ?", "what is the color of {0} ?", "tell me the color of {0} .",
            "{0} has which color ?",
        ),
        "eval": ("what color has {0} ?", "which color is the {0} ?"),
    },
    "says": {
        "train": (
            "what does the {0} sign say ?", "which word is on the {0} sign ?", "read the word on the {0} sign .",
            "what is written on {0} ?",
        ),
        "eval": ("what word is written on the {0} sign ?", "tell me what the {0} sign says ."),
    },
    "on": {
        "train": (
            "what number is on the {0} one ?", "which value is on {0} ?", "read the number on {0} .",
            "what is the number on the {0} part ?",
        ),
        "eval": ("which number is on the {0} part ?", "please read the value on {0} ."),
    },
    "title": {
        "train": ("what is the title ?", "what kind of page is this ?", "read the title .", "title ?"),
        "eval": ("which title is this ?", "what does the title say ?"),
    },
    "most": {
        "train": ("which has the most ?", "which bar is the longest ?", "what is the largest ?",
            "which has the highest number ?",
        ),
        "eval": ("which bar has the most ?", "what has the highest value ?"),
    },
    "present": {
        "train": ("is there a {0} ?", "do you see {0} ?", "is {0} on the page ?", "does it say {0} ?"),
        "eval": ("is there {0} on this page ?", "do you see a {0} ?"),
    },
    "larger": {
        "train": ("which is larger , {0} or {1} ?", "what is more , {0} or {1} ?", "{0} or {1} , which is more ?"),
        "eval": ("which has more , {0} or {1} ?",),
    },
    "sum": {
        "train": ("what is {0} plus {1} ?", "{0} plus {1} ?", "read the number of {0} plus {1} ."),
        "eval": ("how much is {0} plus {1} ?",),
    },
    "count": {
        "train": ("how many {0} are there ?", "how many {0} ?", "what is the number of {0} ?"),
        "eval": ("how many {0} do you see ?", "tell me how many {0} there are ."),
    },
    "line": {
        "train": ("what is the {0} line on the {1} ?", "read the {0} line on the {1} .", "{0} line , {1} ?"),
        "eval": ("what does the {0} line on the {1} say ?", "tell me the {0} line on the {1} ."),
    },
    "absent": {
        "train": ("which is not there , {0} or {1} ?", "{0} or {1} , which is not on the page ?"),
        "eval": ("what is not on this page , {0} or {1} ?",),
    },
    "fill": {
        "train": ("fill in the values .", "write all values .", "give the value of each ."),
        "eval": ("fill in all values .",),
    },
    "paint": {
        "train": ("name the colors .", "fill in the colors .", "which color has each ?"),
        "eval": ("name all colors .",),
    },
    "read": {
        "train": ("read the page .", "read everything .", "what does the page say ?", "read all lines ."),
        "eval": ("read the whole page .",),
    },
}  # fmt: skip
MORE: Mapping[str, Sequence[str]] = {
    "field": (
        "what number does {0} have ?", "{0} has which value ?", "find {0} and read its value .", "the value of {0} ?",
        "can you read {0} ?", "what follows {0} ?", "i need the number for {0} .", "please give the value of {0} .",
        "how much for {0} ?", "what stands beside {0} ?",
    ),
    "cell": (
        "what does {0} have in {1} ?", "how many for {0} in {1} ?", "the value of {0} under {1} ?",
        "please read {0} in column {1} .", "what stands in row {0} under {1} ?", "{0} and {1} : which number ?",
        "find row {0} and column {1} .", "give the number of {0} for {1} .",
    ),
    "color": (
        "in which color is {0} ?", "what is the color behind {0} ?", "please name the color of {0} .",
        "is {0} red , blue or another color ?", "the color of {0} ?", "which color do you see at {0} ?",
    ),
    "says": (
        "which word stands on the {0} sign ?", "the {0} sign says what ?", "what can you read on the {0} sign ?",
        "please read the {0} sign .", "find the {0} sign . what does it say ?", "the word on the {0} one ?",
    ),
    "on": (
        "what value does the {0} one have ?", "the number on {0} ?", "please give the number of the {0} one .",
        "what can you read on the {0} part ?", "which number do you see on {0} ?",
    ),
    "title": (
        "what does it say at the top ?", "please give the title .", "how is the page called ?", "name the page .",
        "which page is it ?", "the title ?",
    ),
    "most": (
        "what has the most ?", "which one is largest ?", "find the longest bar .", "name the largest .",
        "which of them has the highest value ?", "what is on top , the most of all ?", "the highest is which ?",
    ),
    "present": (
        "can you see {0} ?", "does the page have {0} ?", "is {0} there ?", "look for {0} . is it there ?",
        "is {0} written here ?", "do you find {0} ?", "does {0} stand on the page ?", "{0} , is it on the page ?",
    ),
    "larger": (
        "which of {0} and {1} is larger ?", "is {0} or {1} more ?", "what is larger , {0} or {1} ?",
        "between {0} and {1} , which is more ?", "which has the larger number , {0} or {1} ?", "more : {0} or {1} ?",
        "name the larger of {0} and {1} .",
    ),
    "sum": ("add {0} and {1} .", "{0} and {1} together ?", "the sum of {0} and {1} ?"),
    "count": (
        "count the {0} .", "how many {0} does the page have ?", "please count the {0} .", "the number of {0} ?",
        "how many {0} can you find ?", "how many {0} are on the page ?", "there are how many {0} ?",
        "give the number of {0} .",
    ),
    "line": (
        "which is the {0} line on the {1} ?", "please read the {0} line , {1} .",
        "on the {1} , what is the {0} line ?", "what stands in the {0} line on the {1} ?",
        "give the {0} line of the {1} .",
    ),
    "absent": (
        "which of {0} and {1} is not there ?", "one is not on the page : {0} or {1} ?",
        "what is missing , {0} or {1} ?",
        "{0} or {1} : which one can you not find ?", "name the one that is not there , {0} or {1} .",
    ),
}  # fmt: skip
"""Further wordings of training: with few, a model knows the sentence, not the question. The tokenizer's pieces are not
chosen from them, so that a trained model's embeddings stay its own."""
SPLIT_WORDINGS = {"train": "train", "learn": "train", "eval": "eval"}
"""Which wordings the splits ask in."""
KINDS = tuple(kind for kind in WORDINGS if kind not in ("read", "fill", "paint"))
FINE = ("field", "cell", "on", "larger", "sum", "line")
"""Kinds that need print of the size at which it was set; the others are coarse."""
WEIGHTS = {"field": 4.0, "cell": 4.0, "on": 1.5, "color": 1.5, "present": 0.7, "absent": 0.5, "sum": 0.4}
"""How often a kind is asked where a page has it; 1 where nothing is said."""
NAMES_OF_THINGS = (*GOODS, *SUMS, *FIELDS, *MONTHS, *DAYS, *TEAMS, *GAUGES, *SIGNS)


@dataclass(frozen=True)
class Question:
    """One question about a page. ``boxes`` show the evidence, ``level`` is the budget meant to resolve it."""

    kind: str
    text: str
    answer: str
    boxes: tuple[tuple[int, int, int, int], ...]
    level: int


def word(rng: random.Random, kind: str, about: Sequence[str], wording: str) -> str:
    """The question of a kind in one of its wordings ("train" or "eval")."""
    more = MORE.get(kind, ()) if wording == "train" else ()
    return rng.choice((*WORDINGS[kind][wording], *more)).format(*about)


def ask(rng: random.Random, page: Mapping[str, Any], n: int, wording: str = "train",
        kinds: Sequence[str] | None = None, weights: Mapping[str, float] = WEIGHTS) -> list[Question]:  # fmt: skip
    """``n`` questions, kinds in shares of ``weights`` among what the page has; the same fact may be asked twice."""
    facts = askable(page)
    names = {f["about"][0]: f for f in page["facts"] if f["kind"] == "field"}
    if names:
        named = {"about": [], "answer": "", "boxes": [], "level": 64}
        facts += [{"kind": kind, **named} for kind in ("present", "absent")]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for one in facts:
        if kinds is None or one["kind"] in kinds:
            by_kind.setdefault(one["kind"], []).append(one)
    asked: list[Question] = []
    if not by_kind:
        return asked
    for kind in rng.choices(list(by_kind), [weights.get(k, 1.0) for k in by_kind], k=n):
        one = rng.choice(by_kind[kind])
        about, answer, boxes, level = one["about"], one["answer"], one["boxes"], one["level"]
        if kind in ("present", "absent"):
            printed = {span[0] for span in page["spans"]}
            here, missing = rng.choice(list(names)), rng.choice([w for w in NAMES_OF_THINGS if w not in printed])
            about, answer = [here], "yes"
            if kind == "absent":
                about, answer = rng.sample([here, missing], 2), missing
            elif rng.random() >= 0.6:
                about, answer = [missing], "no"
            if here in about:
                boxes, level = next(([s[1]], s[2]) for s in page["spans"] if s[0] == here)
        whole = tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in boxes)
        asked.append(Question(kind, word(rng, kind, about, wording), answer, whole, level))
    return asked


def lines(page: Mapping[str, Any]) -> list[list[str]]:
    """The print of a page block by block, line by line."""
    blocks = (page["spans"][slice(*block["spans"])] for block in page["blocks"])
    return [[span[0] for span in line] for block in blocks for line in block_lines(block)]


def entries(rng: random.Random, page: Mapping[str, Any],
            kinds: Sequence[str] = ("field", "cell")) -> list[tuple[str, str]]:  # fmt: skip
    """Names and values of a page in any order, as in a form to fill in: ("tea", "4.50"), ("mon north", "312").

    Of kind "color" the names are of things, of "on" of colours: ("exit", "green"), ("green", "25").
    """
    told = [(" ".join(f["about"]), f["answer"]) for f in askable(page) if f["kind"] in kinds]
    return rng.sample(told, len(told))


def transcript(page: Mapping[str, Any]) -> str:
    """All print in reading order, a line each; lines begin with a space, as words do for the tokenizer."""
    return "\n ".join(" ".join(line) for line in lines(page))
