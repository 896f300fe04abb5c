"""Questions are words: none may spell a control token, and in a prompt they are found without template, roles and
placeholders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

_HEADER = re.compile(r"\s*(system|developer|user|human|assistant|model|tool)\s*(?::|\n|$)\s*", re.IGNORECASE)
_INLINE = re.compile(r"(?<![A-Z])(SYSTEM|USER|HUMAN|ASSISTANT|GPT)\s*:\s*")
_USER = {"user", "human"}


@dataclass
class _Run:
    """Text tokens between two special tokens or role headers."""

    turn: int
    role: str
    images: int  # image tokens seen before it
    ids: list[int]


def find_question(
    prompt: torch.Tensor, image_token: int, special: set[int], tokenizer: Any
) -> tuple[str, torch.Tensor]:
    """The question of a prompt.

    The words of the last user turn: those after its last image, or else those before it. A prompt without role
    headers is one user turn.

    Parameters
    ----------
    prompt
        ``[L]`` token ids without padding.
    image_token
        Id of the image placeholder.
    special
        Further ids that are no words.
    tokenizer
        Decodes the words; ``None`` leaves roles unrecognised and the text empty.

    Returns
    -------
    (str, LongTensor)
        The question in words and its ``[Q]`` token ids; both are empty if nothing is asked.
    """
    runs = [run for run in _runs(prompt.tolist(), image_token, special, tokenizer) if run.role in _USER]
    turn = [run for run in runs if run.turn == runs[-1].turn]
    images = int((prompt == image_token).sum())
    after = [run for run in turn if run.images == images]

    def words(some: list[_Run]) -> str:
        return " ".join(tokenizer.decode(run.ids).strip() for run in some).strip() if tokenizer is not None else ""

    # A full stop after the last image is no question: the words are then those around the images.
    chosen = after if (re.search(r"\w", words(after)) if tokenizer is not None else after) else turn
    text = words(chosen)
    if tokenizer is not None and not text:
        chosen = []
    ids = prompt.new_tensor([token for run in chosen for token in run.ids])
    return text, ids


def _runs(ids: list[int], image_token: int, special: set[int], tokenizer: Any) -> list[_Run]:
    runs: list[_Run] = []
    words: list[int] = []
    turn, role, images = 0, "user", 0

    def close() -> None:
        nonlocal turn, role
        for new_role, part in _split_roles(words, tokenizer):
            if new_role is not None:
                turn, role = turn + 1, new_role
            if part:
                runs.append(_Run(turn, role, images, part))
        words.clear()

    for token in ids:
        if token == image_token or token in special:
            if words:
                close()
            images += token == image_token
        else:
            words.append(token)
    close()
    return runs


def _split_roles(words: list[int], tokenizer: Any) -> list[tuple[str | None, list[int]]]:
    """Split text tokens at role headers: (the role that begins, or None; tokens)."""
    if tokenizer is None or not words:
        return [(None, list(words))]
    ends, text = [], ""
    for token in words:
        text += tokenizer.decode([token])
        ends.append(len(text))
    headers = list(_INLINE.finditer(text))
    first = _HEADER.match(text)
    if first and not (headers and headers[0].start() < first.end()):
        headers.insert(0, first)
    parts: list[tuple[str | None, list[int]]] = []
    start, role = 0, None
    for header in headers:
        parts.append((role, [w for w, end in zip(words, ends, strict=True) if start < end <= header.start()]))
        start, role = header.end(), header.group(1).lower()
    parts.append((role, [w for w, end in zip(words, ends, strict=True) if end > start]))
    return parts


def check_question(processor: Any, question: str) -> None:
    """Refuse a question that would be no words to the model.

    A special token of the tokenizer, or a placeholder that the processor replaces, would end the turn, move the
    picture or stand for another one; no tokenizer can be told to read it as words in one part of a prompt only.

    Parameters
    ----------
    processor
        Processor or tokenizer.
    question
        What a person asks.

    Raises
    ------
    ValueError
        If it is empty, or spells such a token, which is then named.
    """
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"the question {question!r} is empty; write one, such as 'what color is the sign ?'")
    for token in control_tokens(processor):
        if token in question:
            raise ValueError(
                f"the question contains {token!r}, a control token of the model; leave it out, or write it another way"
            )


def control_tokens(processor: Any) -> list[str]:
    """What is no word to a processor or tokenizer: its special tokens, and the placeholders of pictures."""
    tokenizer = getattr(processor, "tokenizer", processor)
    added = (getattr(tokenizer, "added_tokens_decoder", None) or {}).values()
    tokens = {str(token) for token in added if getattr(token, "special", False)}
    tokens |= set(getattr(tokenizer, "all_special_tokens", None) or ())
    tokens |= {value for name, value in vars(processor).items() if name.endswith("_token") and isinstance(value, str)}
    return sorted((token for token in tokens if token.strip()), key=lambda token: (-len(token), token))
