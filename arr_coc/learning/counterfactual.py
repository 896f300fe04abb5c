"""What else one question could have been answered with: the same question, other allocations, paired rewards.

The rewards of different questions differ mostly by how hard these are. Differences within a question do not: a few
hundred say what thousands of single rewards can't, and they tell a wrong reading from a hard question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..asking.ask import answers, prepare

if TYPE_CHECKING:
    from ..wrapping.wrapper import ArrCoc

Score = Callable[[Any, list[str], list[list[int]]], Sequence[float]]
"""From B prepared inputs, answers and budgets to B rewards."""


def chosen(share: float, seed: int, episode: int) -> bool:
    """Whether an episode belongs to the share; the same in a run that broke off and goes on."""
    return bool(np.random.default_rng([seed, episode]).random() < share)


def alternatives(
    scores: Mapping[str, Sequence[float]], patches: int, budgets: Sequence[int], seed: int, episode: int
) -> dict[str, list[int]]:
    """Allocations that say most about where the evidence is.

    Parameters
    ----------
    scores
        Per reading ``[N]`` scores.
    patches
        Their number N.
    budgets
        The K budgets, rising.
    seed, episode
        Of the random patch.

    Returns
    -------
    dict
        ``"floor"``, ``"full"``, ``"first by NAME"`` (full detail for the patch that a reading puts first, the floor
        for the rest) and ``"random"`` (the same for any patch), each N budgets.
    """
    least, most = budgets[0], budgets[-1]

    def raised(patch: int) -> list[int]:
        return [most if i == patch else least for i in range(patches)]

    found = {"floor": [least] * patches, "full": [most] * patches}
    found |= {f"first by {name}": raised(int(np.argmax(values))) for name, values in scores.items() if len(values)}
    return found | {"random": raised(int(np.random.default_rng([seed, episode, 1]).integers(patches)))}


@torch.no_grad()
def compare(
    arr: ArrCoc,
    sample: Mapping[str, Any],
    others: Mapping[str, list[int]],
    score: Score,
    reward: float,
    **length: int,
) -> dict[str, dict[str, float]]:
    """Answer one question with other allocations.

    Parameters
    ----------
    arr
        The wrapped model; what it remembers of its last call is that call's again afterwards.
    sample
        Its ``image`` and ``question``.
    others
        See `alternatives`; allocations that are alike are answered once.
    score
        The reward.
    reward
        The one that the chosen allocation has earned.
    length
        Limits of generation.

    Returns
    -------
    dict
        Per name ``reward``, ``gain`` over the chosen allocation's, and ``tokens``.
    """
    unlike = list({tuple(budgets): None for budgets in others.values()})
    allocation = [list(budgets) for budgets in unlike]
    inputs = prepare(arr.processor, [sample["image"]] * len(unlike), [sample["question"]] * len(unlike))
    inputs = inputs.to(arr.model.device)
    last = arr.last
    sequences = arr.model.generate(**inputs, do_sample=False, allocation=allocation, **length)
    tokens = [record.tokens for record in arr.last]
    texts = answers(arr.processor, inputs["input_ids"], sequences)
    values = score(inputs, texts, allocation)
    arr.last = last
    earned = dict(zip(unlike, zip(values, tokens, strict=True), strict=True))
    return {
        name: {"reward": float(value), "gain": float(value) - reward, "tokens": spent}
        for name, budgets in others.items()
        for value, spent in [earned[tuple(budgets)]]
    }
