"""Doubt about the answer that a glance gives: between candidates, not between their spellings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": " "})  # how tokenizers write blanks and line ends inside tokens


class Doubt:
    """Margin between the two likeliest candidates of the answer's first token.

    A model that hesitates between "Yes", "yes" and " yes" does not hesitate. Tokens that differ in case and in blanks
    around them alone are one candidate, with the sum of their probabilities.

    Parameters
    ----------
    tokenizer
        Any with ``convert_ids_to_tokens`` and a length; without one every token is a candidate of its own.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        known = callable(getattr(tokenizer, "convert_ids_to_tokens", None)) and hasattr(tokenizer, "__len__")
        self.tokenizer: Any = tokenizer if known else None
        self._groups: Tensor | None = None

    def __call__(self, log_probabilities: Tensor) -> tuple[float, float]:
        """Doubt u and probability e of all other answers, from ``[V]`` log-probabilities; both in [0, 1].

        u is one less the margin between the two likeliest: between "yes" and "no" at 70 to 30 it is 0.6, where e, at
        most one half there, would call that surer than a name picked at 60 from a hundred.
        """
        chances = log_probabilities.float().exp()
        if self.tokenizer is not None:
            groups = self.groups(len(chances)).to(chances.device)
            chances = torch.zeros_like(chances).index_add_(0, groups, chances)
        first, second = chances.topk(2).values.tolist()
        return max(1.0 - (first - second), 0.0), max(1.0 - first, 0.0)

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
            self._groups = torch.tensor(found)
        return self._groups
