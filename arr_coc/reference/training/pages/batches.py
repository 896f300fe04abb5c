"""Packed sequences: a page, then its transcript and questions side by side, each of which sees the page and itself.

One row of a batch is ``<begin> <user> <vision_start> cells <vision_end>`` and then blocks ``question <assistant>
answer <end>``, all starting at the same position: what the stock model sees when it is asked one of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...pages.lexicon import WORDS, number
from ...pages.questions import WEIGHTS, WORDINGS, ask, entries, transcript
from ...pages.tokenizer import ID

IGNORE = -100
FORMS = {"fill": ("field", "cell"), "paint": ("color", "on")}
"""Forms to fill in, with the kinds of facts that they ask for."""
Encode = Callable[[str], list[int]]


@dataclass
class Sample:
    """One row before padding."""

    ids: list[int]
    positions: np.ndarray  # [3, L]
    labels: list[int]
    block: list[int]  # 0 is the page
    kinds: list[str]  # of blocks 1..


def page_prefix(grid: tuple[int, int], extent: tuple[int, int] | None = None) -> tuple[list[int], np.ndarray, int]:
    """Ids, positions ``[3, P]`` of the prompt up to the question, and the next position, for a picture of ``grid``.

    ``extent`` spreads the cells over the rows and columns of a larger grid, as a shrunken picture keeps its places.
    """
    (rows, cols), (tall, wide) = grid, extent or grid
    ids = [ID["bos"], ID["user"], ID["vision_start"], *[ID["image"]] * (rows * cols), ID["vision_end"]]
    i = ((np.arange(rows) + 0.5) * tall / rows).astype(int).repeat(cols)
    j = np.tile(((np.arange(cols) + 0.5) * wide / cols).astype(int), rows)
    image = np.stack([np.full(rows * cols, 3), 3 + i, 3 + j])
    after = 3 + max(tall, wide)
    return ids, np.concatenate([np.arange(3)[None].repeat(3, 0), image, np.full((3, 1), after)], 1), after + 1


def text_prefix(rng: random.Random, page: Mapping[str, Any], encode: Encode) -> tuple[list[int], np.ndarray, int]:
    """The print of a page as tokens at their rows and columns: a document without a picture."""
    wide, high = rng.uniform(4.5, 7.5), rng.uniform(7, 12)
    placed = []
    for text, (left, top, right, bottom), *_ in page["spans"]:
        tokens = encode(" " + text)
        for k, token in enumerate(tokens):
            x = left + (right - left) * k / len(tokens)
            placed.append((int((top + bottom) / 2 / high), int(x / wide), token))
    placed.sort()
    rows = [3 + p[0] for p in placed]
    cols = [3 + p[1] for p in placed]
    ids = [ID["bos"], ID["user"], ID["vision_start"], *[p[2] for p in placed], ID["vision_end"]]
    after = max([*rows, *cols, 3]) + 1
    doc = np.array([[3] * len(placed), rows, cols]).reshape(3, -1)
    return ids, np.concatenate([np.arange(3)[None].repeat(3, 0), doc, np.full((3, 1), after)], 1), after + 1


def plain_prefix(page: Mapping[str, Any], encode: Encode) -> tuple[list[int], np.ndarray, int]:
    """The print of a page as ordinary text, line by line."""
    ids = [ID["bos"], ID["user"], ID["vision_start"], *encode(" " + transcript(page)), ID["vision_end"]]
    return ids, np.arange(len(ids))[None].repeat(3, 0), len(ids)


def repeated_pairs(rng: random.Random, encode: Encode, pairs: int = 32) -> Sample:
    """Words with a digit each, over and over in any order: a word that came before says which digit follows.

    Text repeats itself, which is how language models learn to look up; here nothing else can be learned.
    """
    vocabulary = WORDS[: rng.choice((10, 20, 40, len(WORDS)))]
    known = {name: str(rng.randint(0, 9)) for name in rng.sample(vocabulary, rng.randint(4, 10))}
    ids, labels, seen = [ID["bos"], ID["user"]], [IGNORE] * 2, set[str]()
    for name in rng.choices(list(known), k=pairs):
        value = encode(f" {known[name]}")[0]
        ids += [encode(f" {name}")[0], value]
        labels += [value if name in seen else IGNORE, IGNORE]
        seen.add(name)
    return Sample(ids, np.arange(len(ids))[None].repeat(3, 0), labels, [1] * len(ids), ["pairs"])


def word_list(rng: random.Random, longest: int = 16) -> dict[str, Any]:
    """A plain list of words with a number each, laid out in two columns: what looking up is learned from."""
    # Few different words in half of the lists: words are matched sooner where each is seen often.
    words = rng.sample(WORDS[: rng.choice((10, 20, len(WORDS)))], rng.randint(3, min(10, longest)))
    page: dict[str, Any] = {"spans": [], "facts": [], "blocks": [{"spans": [0, 2 * len(words)]}]}
    style = rng.choice(("two", "two", "count", "price")) if longest > 8 else "two"
    column, height = rng.uniform(60, 110), rng.uniform(10, 20)
    for i, name in enumerate(words):
        value, top = number(rng, style), i * height
        page["spans"].append([name, [4, top, 4 + 6 * len(name), top + 9], 64, "black", "white"])
        page["spans"].append([value, [column, top, column + 6 * len(value), top + 9], 64, "black", "white"])
        page["facts"].append({"kind": "field", "about": [name], "answer": value, "boxes": [], "level": 64})
    return page


def fill(
    rng: random.Random, page: Mapping[str, Any], prefix: tuple[list[int], np.ndarray, int], encode: Encode,
    room: int, reading: bool, kinds: Sequence[str] | None = None, wording: str = "train",
    filling: float = 0.5, weights: Mapping[str, float] = WEIGHTS,
) -> Sample:  # fmt: skip
    """A page with blocks until ``room`` text tokens are used: the transcript first if ``reading``, then questions.

    With probability ``filling`` they come after a form to fill in: names in any order, whose values are scored.
    """
    ids, positions, start = prefix
    ids, labels, block, asked = list(ids), [IGNORE] * len(ids), [0] * len(ids), list[str]()
    places = [positions]
    used, line = 0, encode("\n")[0]

    def add(kind: str, question: str, *answer: str) -> bool:
        """``answer`` is one text, or names (given, so not scored) and values in turn."""
        nonlocal used
        whole, scored = [*encode(" " + question), ID["assistant"]], [IGNORE] * (len(encode(" " + question)) + 1)
        for i, text in enumerate(answer):
            tokens = encode(f" {text}")
            given = len(answer) > 1 and i % 2 == 0
            if i and given:
                whole.append(line)
                scored.append(line)
            whole += tokens
            scored += [IGNORE] * len(tokens) if given else tokens
        whole.append(ID["eos"])
        scored.append(ID["eos"])
        if used + len(whole) > room:
            return False
        used += len(whole)
        ids.extend(whole)
        labels.extend([*scored[1:], IGNORE])  # the label of a position is the token after it
        asked.append(kind)
        block.extend([len(asked)] * len(whole))
        places.append(np.arange(start, start + len(whole))[None].repeat(3, 0))
        return True

    if reading and page["spans"]:
        add("read", rng.choice(WORDINGS["read"][wording]), transcript(page))
    for form, sort in FORMS.items():
        values = entries(rng, page, sort) if kinds is None or form == "fill" else []  # documents show no colours
        values = rng.choices(values, k=min(16, len(values))) if values else []  # else the last follows from the rest
        if len(values) > 1 and rng.random() < filling:
            add(form, rng.choice(WORDINGS[form][wording]), *(text for pair in values for text in pair))
    for question in ask(rng, page, 24, wording, kinds, weights):
        if not add(question.kind, question.text, question.answer):
            break
    return Sample(ids, np.concatenate(places, 1), labels, block, asked)


@dataclass
class Batch:
    """``B`` rows of ``L``: ids, positions ``[3, B, L]``, labels, block numbers (-1 pads), kinds of every row."""

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    block: torch.Tensor
    kinds: list[list[str]]

    def mask(self) -> torch.Tensor:
        """``[B, 1, L, L]`` bool: which position sees which."""
        b = self.block
        length = b.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=b.device).tril()
        same = (b[:, :, None] == b[:, None, :]) | ((b[:, None, :] == 0) & (b[:, :, None] >= 0))
        return (same & causal)[:, None]


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad on the right to the longest row."""
    length = max(len(s.ids) for s in samples)
    n = len(samples)
    ids = torch.full((n, length), ID["pad"])
    labels, block = torch.full((n, length), IGNORE), torch.full((n, length), -1)
    positions = torch.zeros(3, n, length, dtype=torch.long)
    for i, s in enumerate(samples):
        size = len(s.ids)
        ids[i, :size], labels[i, :size] = torch.tensor(s.ids), torch.tensor(s.labels)
        block[i, :size], positions[:, i, :size] = torch.tensor(s.block), torch.from_numpy(s.positions)
    return Batch(ids, positions, labels, block, [s.kinds for s in samples])
