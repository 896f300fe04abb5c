"""The probability of the right answer as a reward: graded where right or wrong is one bit.

It costs a second look (a teacher-forced pass over prompt and answer, with the same budgets), and it is a reward to
learn from, not a measure of a model: what people get is the answer that was generated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .rewards import GOLD, normalize_answer

if TYPE_CHECKING:
    from ..wrapping.wrapper import ArrCoc


def gold_answer(sample: Mapping[str, Any]) -> str:
    """The commonest answer of a sample, as it was written first.

    Raises
    ------
    ValueError
        If it has none.
    """
    given = sample.get("answers") or []
    written = [answer["answer"] if isinstance(answer, Mapping) else str(answer) for answer in given]
    if not any(text.strip() for text in written):
        raise ValueError(f"question {sample.get('question')!r} has no answers, which reward={GOLD!r} is taken from")
    counts = Counter(normalize_answer(text) for text in written if text.strip())
    (best, _), *_ = counts.most_common(1)
    return next(text for text in written if normalize_answer(text) == best)


@torch.no_grad()
def gold_probability(
    arr: ArrCoc, inputs: Mapping[str, Any], golds: Sequence[str], budgets: Sequence[Sequence[int]]
) -> list[float]:
    """Probability of each gold answer after its prompt: the product over its tokens.

    Parameters
    ----------
    arr
        The wrapped model.
    inputs
        B prompts with their images, left-padded, as `arr_coc.asking.ask.prepare` makes them.
    golds
        B answers.
    budgets
        B lists of nominal budgets, one per patch: those with which the model answered.

    Returns
    -------
    list of float
        B probabilities in [0, 1].

    Raises
    ------
    ValueError
        If an answer has no tokens.
    """
    tokenizer = getattr(arr.processor, "tokenizer", arr.processor)
    ids = inputs["input_ids"]
    pad = tokenizer.pad_token_id or 0
    tokens = [tokenizer(gold, add_special_tokens=False)["input_ids"] for gold in golds]
    for gold, answer in zip(golds, tokens, strict=True):
        if not answer:
            raise ValueError(f"the answer {gold!r} has no tokens; leave this question out")
    # Prompt and answer stay left-padded, so that every answer ends its row whatever is dropped before it.
    longest = max(map(len, tokens))
    longer = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.shape == ids.shape:
            wider = value.new_zeros(len(tokens), ids.shape[1] + longest)
            for row, part in enumerate(tokens):
                wider[row, longest - len(part) : wider.shape[1] - len(part)] = value[row]
                if name == "input_ids":
                    wider[row, : longest - len(part)] = pad
                    wider[row, -len(part) :] = torch.tensor(part)
                elif name == "attention_mask":
                    wider[row, -len(part) :] = 1
            longer[name] = wider
    logits = arr.model(**longer, allocation=[list(b) for b in budgets]).logits
    answer = longer["input_ids"][:, -longest:]
    logp = logits[:, -longest - 1 : -1].float().log_softmax(-1).gather(2, answer[..., None])[..., 0]
    there = torch.stack([torch.arange(longest) >= longest - len(part) for part in tokens]).to(logp.device)
    logp = logp.masked_fill(~there, 0.0)
    found: list[float] = logp.sum(1).exp().tolist()
    return found
