"""Doubt about the answer that a glance gives: between candidates, not between their spellings."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

_LABEL = re.compile(r"(?:^|[\s(])([A-H])[.):]\s")  # "A. a dog", "(B) a cat", "C: a cow"
YES_NO = ("yes", "no")
LEAST = 0.1
"""Probability that options must have between them before they are weighed against each other alone."""
_SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": " "})  # how tokenizers write blanks and line ends inside tokens


class Doubt:
    """Margin between the two likeliest candidates of the answer's first token.

    A model that hesitates between "Yes", "yes" and " yes" does not hesitate. Tokens that differ in case and in blanks
    around them alone are one candidate, with the sum of their probabilities. Where the question lists options ("A. a
    dog B. a cat"), or the two likeliest candidates are "yes" and "no", only these are weighed against each other: what
    a model puts on beginning with "The" is no doubt about which.

    Parameters
    ----------
    tokenizer
        Any with ``convert_ids_to_tokens`` and a length; without one every token is a candidate of its own.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        known = callable(getattr(tokenizer, "convert_ids_to_tokens", None)) and hasattr(tokenizer, "__len__")
        self.tokenizer: Any = tokenizer if known else None
        self._groups: Tensor | None = None
        self._spelt: dict[str, int] = {}

    def __call__(self, log_probabilities: Tensor, question: str = "") -> tuple[float, float]:
        """Doubt u and probability e of all other answers, from ``[V]`` log-probabilities; both in [0, 1].

        u is one less the margin between the two likeliest: between "yes" and "no" at 70 to 30 it is 0.6, where e, at
        most one half there, would call that surer than a name picked at 60 from a hundred.
        """
        chances = log_probabilities.float().exp()
        if self.tokenizer is not None:
            groups = self.groups(len(chances)).to(chances.device)
            chances = torch.zeros_like(chances).index_add_(0, groups, chances)
            chances = self._among_options(chances, question)
        first, second = chances.topk(2).values.tolist()
        return max(1.0 - (first - second), 0.0), max(1.0 - first, 0.0)

    def _among_options(self, chances: Tensor, question: str) -> Tensor:
        labels = sorted(set(_LABEL.findall(question)))
        listed = len(labels) > 1 and labels == [chr(ord("A") + i) for i in range(len(labels))]
        places = [self._spelt.get(word.casefold()) for word in (labels if listed else YES_NO)]
        if None in places or (not listed and set(chances.topk(2).indices.tolist()) != set(places)):
            return chances
        kept = torch.zeros_like(chances)
        kept[places] = chances[places]
        total = kept.sum()
        return kept / total if total >= LEAST else chances

    def groups(self, size: int) -> Tensor:
        """``[size]`` per token the first one that spells the same."""
        if self._groups is None or len(self._groups) != size:
            known = min(size, len(self.tokenizer))
            first: dict[str, int] = {}
            found = list(range(size))
            for number, token in enumerate(self.tokenizer.convert_ids_to_tokens(list(range(known)))):
                text = str(token or "").translate(_SPACES).strip().casefold()
                if text:
                    found[number] = first.setdefault(text, number)
            self._groups, self._spelt = torch.tensor(found), first
        return self._groups
