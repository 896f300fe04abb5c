"""Agreement with full detail as a reward: no labels, at the price of a second answer.

It says what the model can see, not what is true: where full detail is wrong, being wrong alike is rewarded. Rewards
from labels cannot be had for the questions that a deployed model is asked; this one can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..asking.ask import answers
from .rewards import vqa_accuracy

if TYPE_CHECKING:
    from ..wrapping.wrapper import ArrCoc


@torch.no_grad()
def agreement(
    arr: ArrCoc,
    inputs: Mapping[str, Any],
    predictions: Sequence[str],
    budgets: Sequence[Sequence[int]],
    **length: int,
) -> list[float]:
    """Whether each answer is the one that the model gives at full detail.

    Parameters
    ----------
    arr
        The wrapped model; what it remembers of its last call is that call's again afterwards.
    inputs
        B prompts with their images, as `arr_coc.asking.ask.prepare` makes them.
    predictions, budgets
        B answers, and the nominal budgets, one per patch, with which they were given.
    length
        Limits of generation, those of the answers.

    Returns
    -------
    list of float
        1 where the answers are the same after the normalisation of VQA accuracy, else 0. An answer that was given at
        full detail agrees with itself, and is not asked for again.
    """
    most = arr.config.budgets[-1]
    if all(budget == most for each in budgets for budget in each):
        return [1.0] * len(predictions)
    last = arr.last
    sequences = arr.model.generate(**inputs, do_sample=False, allocation=[[most] * len(b) for b in budgets], **length)
    arr.last = last
    full = answers(arr.processor, inputs["input_ids"], sequences)
    return [vqa_accuracy(p, [f] * 10) for p, f in zip(predictions, full, strict=True)]
