"""Stage 2 of training, the language model: questions about whole pictures, under budgets as allocations give them.

A batch is a pure function of (seed, rank, step), so a resumed run sees exactly the batches of an unbroken one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import Qwen2VLForConditionalGeneration

from arr_coc.reference import vocabulary as V
from arr_coc.reference.grounding import grounding_loss
from arr_coc.reference.labels import IGNORE
from arr_coc.reference.packed import TOKEN_GRIDS, Loss, encode_at, packed_forward, prefix, to_float
from arr_coc.reference.questions import KINDS, Question, ask, location
from arr_coc.reference.world import GRIDS, Picture, draw_picture, pick

QUESTION_LENGTH = 21
"""Words of the longest question (a comparison of two signs by place: 20) and its answer."""
GROUNDING_WEIGHT = 0.4


def draw_budgets(rng: random.Random, n: int) -> list[int]:
    """Budgets as allocations give them: uniform, arbitrary, or a low ground with one or two patches raised."""
    u = rng.random()
    if u < 0.2:
        return [pick(rng, {64: 0.35, 128: 0.2, 256: 0.15, 400: 0.3})] * n
    if u < 0.4:
        return [rng.choice(list(TOKEN_GRIDS)) for _ in range(n)]
    budgets = [pick(rng, {64: 0.8, 128: 0.2}) for _ in range(n)]
    for i in rng.sample(range(n), min(n, rng.choice((1, 1, 2)))):
        budgets[i] = rng.choice((128, 256, 400, 400))
    return budgets


def draw_questions(rng: random.Random, picture: Picture, budgets: list[int], count: int) -> list[Question]:
    """``count`` questions; those whose print the budgets cannot resolve are kept one time in four."""
    questions: list[Question] = []
    for _ in range(40 * count):
        if len(questions) == count:
            break
        question = ask(rng, picture, pick(rng, KINDS))
        if question is None:
            continue
        resolved = all(budgets[p] >= picture.signs[p][i].level for p, i in question.evidence)
        if resolved or question.level == 64 or rng.random() < 0.25:
            questions.append(question)
    fallback = Question("is there a sign ?", "yes", "yesno", 64, (), ((),))
    while len(questions) < count:
        questions.append(rng.choice(questions) if questions else fallback)
    return questions


class Batch(NamedTuple):
    """``B`` pictures of equal prompt length ``P`` with ``Q`` questions each of up to ``T`` tokens."""

    ids: torch.Tensor  # [B, P]
    positions: torch.Tensor  # [3, B, P + Q * T]
    tokens: torch.Tensor  # [B, Q, T]: question and answer
    labels: torch.Tensor  # [B, Q, T]: answer and end where they are to be predicted, else -100
    offsets: list[list[int]]  # [B, N]: prompt index of each patch's first image token


def answer_batch(
    places: Sequence[Sequence[tuple[str, str]]],
    grids: Sequence[Sequence[tuple[int, int]]],
    questions: Sequence[Sequence[Question]],
) -> Batch:
    """Tensors for ``packed_forward`` and the labels, from each picture's places, token grids and questions."""
    count = len(questions[0])
    tokens = torch.full((len(questions), count, QUESTION_LENGTH), V.PAD)
    labels = torch.full_like(tokens, IGNORE)
    ids, positions, offsets = [], [], []
    for b, asked in enumerate(questions):
        head = prefix(places[b], grids[b])
        for j, question in enumerate(asked):
            words = [V.TOKEN[w] for w in question.text.split()]
            answer = V.TOKEN[question.answer]
            tokens[b, j, : len(words) + 1] = torch.tensor([*words, answer])
            labels[b, j, len(words) - 1 : len(words) + 1] = torch.tensor([answer, V.EOS])
        after = (head.end + torch.arange(QUESTION_LENGTH)).repeat(count).expand(3, -1)
        ids.append(head.ids)
        positions.append(torch.cat([head.positions, after], 1))
        offsets.append(head.offsets)
    return Batch(torch.stack(ids), torch.stack(positions, 1), tokens, labels, offsets)


def language_loss(
    model: Qwen2VLForConditionalGeneration, seed: int, rank: int, step: int, progress: float
) -> Loss:
    """A dozen questions on each of a few pictures, under budgets as allocations give them; the tower is frozen.

    ``progress`` is the share of the stage that is done; the batch depends on (seed, rank, step, progress) alone.
    """
    rng = random.Random(f"language/{seed}/{rank}/{step}")
    early = progress < 0.12
    small = {(1, 1): 0.15, (1, 2): 0.2, (2, 1): 0.2, (2, 2): 0.45}
    grid = pick(rng, small if early or rng.random() < 0.1 else GRIDS)
    n = grid[0] * grid[1]
    mixture = [rng.choice((64, 64, 128))] * n if early else draw_budgets(rng, n)
    size = max(1, min(16, (3200 if early else 4200) // (sum(mixture) + 12 * QUESTION_LENGTH)))
    pictures = [draw_picture(rng, "train", grid) for _ in range(size)]
    budgets = [rng.sample(mixture, n) for _ in pictures]
    questions = [draw_questions(rng, picture, b, 12) for picture, b in zip(pictures, budgets, strict=True)]
    pixels = to_float([patch for picture in pictures for patch in picture.patches()])
    with torch.no_grad():
        features = encode_at(model, pixels, [b for row in budgets for b in row])
    places = [[location(grid, p) for p in range(n)]] * size
    batch = answer_batch(places, [[TOKEN_GRIDS[b] for b in row] for row in budgets], questions)
    draw = torch.Generator().manual_seed(rng.getrandbits(62))
    image = (batch.ids == V.IMAGE).nonzero()[:, 1].view(size, -1)
    image_rows = image.gather(1, torch.randint(image.shape[1], (size, 48), generator=draw))
    packed = packed_forward(model, batch.ids, torch.cat(features), batch.positions, batch.tokens, image_rows)
    scored = batch.labels != IGNORE
    logits = model.lm_head(packed.hidden[scored])
    loss = F.cross_entropy(logits, batch.labels[scored])
    if progress < 0.9:
        grounding = grounding_loss(packed, pictures, budgets, questions, batch.offsets, image_rows)
        loss = loss + GROUNDING_WEIGHT * grounding
    right = torch.ones_like(scored)
    right[scored] = logits.argmax(-1) == batch.labels[scored]
    metrics: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for b, asked in enumerate(questions):
        for j, question in enumerate(asked):
            enough = all(budgets[b][p] >= pictures[b].signs[p][i].level for p, i in question.evidence)
            key = question.kind + ("" if enough else "-")
            if question.kind in ("number", "word") and enough:
                key += str(question.level)
            total, count = metrics[key]
            metrics[key] = (total + float(right[b, j].all()), count + 1)
    return loss, dict(metrics)
