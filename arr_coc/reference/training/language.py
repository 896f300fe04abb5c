"""Stage 2 of training, the language model: questions about whole pictures, under budgets as allocations give them.

A batch is a pure function of (seed, rank, step), so a resumed run sees exactly the batches of an unbroken one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import Qwen2VLForConditionalGeneration

from .. import vocabulary as V
from ..questions import KINDS, Question, ask, location
from ..world import GRIDS, LETTERS, PATCH, Picture, draw_picture, pick
from .grounding import grounding_loss
from .labels import IGNORE, cells
from .packed import TOKEN_GRIDS, Loss, encode_at, packed_forward, prefix, to_float

QUESTIONS = 16
"""Questions on one picture: they share its prompt, so they are cheap."""
LANGUAGE_TOKENS, VISION_TOKENS = 3200, 4800
"""Most tokens of a batch in the language model (after thinning) and in the tower."""
TRAINING_KINDS = KINDS | {"color": 1.4, "yesno": 2.0, "letter": 0.7}
COMPARING_KINDS = KINDS | {"compare": 30.0}
"""Comparisons come packed in some batches: they are the longest questions, and pad every other one beside them."""
GROUND_KEPT = 0.25
"""Share of the cells without a sign that a thinned prompt keeps."""
GROUNDING_WEIGHT = 0.4


def draw_budgets(rng: random.Random, n: int) -> list[int]:
    """Budgets as allocations give them: uniform, arbitrary, or a low ground with one or two patches raised."""
    u = rng.random()
    if u < 0.3:
        return [pick(rng, {64: 0.25, 128: 0.15, 256: 0.15, 400: 0.45})] * n
    if u < 0.5:
        return [rng.choice(list(TOKEN_GRIDS)) for _ in range(n)]
    budgets = [pick(rng, {64: 0.8, 128: 0.2}) for _ in range(n)]
    for i in rng.sample(range(n), min(n, rng.choice((1, 1, 2)))):
        budgets[i] = rng.choice((128, 256, 400, 400))
    return budgets


def draw_questions(
    rng: random.Random, picture: Picture, budgets: list[int], count: int, kinds: Mapping[str, float] = KINDS
) -> list[Question]:
    """``count`` questions of a mix of kinds.

    Those whose print the budgets cannot resolve are kept one time in four (comparisons, whose answer is then a coin,
    one time in twelve). Questions for a colour or shape rarely name their sign by the letter on it, so the ones that
    name it otherwise are kept one time in two.
    """
    questions: list[Question] = []
    for _ in range(40 * count):
        if len(questions) == count:
            break
        question = ask(rng, picture, pick(rng, kinds))
        if question is None:
            continue
        resolved = all(budgets[p] >= picture.signs[p][i].level for p, i in question.evidence)
        common = question.kind in ("color", "shape") and question.referents[0][0] not in LETTERS
        kept = 1.0 if resolved or question.level == 64 else 1 / 12 if question.kind == "compare" else 1 / 4
        if rng.random() < (kept / 2 if common else kept):
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
    length = 1 + max(len(question.text.split()) for asked in questions for question in asked)
    tokens = torch.full((len(questions), count, length), V.PAD)
    labels = torch.full_like(tokens, IGNORE)
    ids, positions, offsets = [], [], []
    for b, asked in enumerate(questions):
        head = prefix(places[b], grids[b])
        for j, question in enumerate(asked):
            words = [V.TOKEN[w] for w in question.text.split()]
            answer = V.TOKEN[question.answer]
            tokens[b, j, : len(words) + 1] = torch.tensor([*words, answer])
            labels[b, j, len(words) - 1 : len(words) + 1] = torch.tensor([answer, V.EOS])
        after = (head.end + torch.arange(length)).repeat(count).expand(3, -1)
        ids.append(head.ids)
        positions.append(torch.cat([head.positions, after], 1))
        offsets.append(head.offsets)
    return Batch(torch.stack(ids), torch.stack(positions, 1), tokens, labels, offsets)


class Thinned(NamedTuple):
    """Which ``K`` of the ``P`` prompt positions of each picture are kept."""

    kept: torch.Tensor  # [B, K], rising
    log_copies: torch.Tensor  # [B, K], log of how many positions each one stands for
    rows: torch.Tensor  # [B, P], where each position went; for a dropped one, where the next kept one did


def thin(always: torch.Tensor, share: float, draw: torch.Generator) -> Thinned:
    """Let a random share of the ground stand for all of it: prompts at full detail become several times cheaper.

    A kept cell of the ground counts in attention as often as cells it stands for, so that attention over the thinned
    prompt estimates attention over the whole one (importance sampling).

    Parameters
    ----------
    always
        ``[B, P]`` bool, positions that stay: text and the cells of signs.
    share
        Share of the other positions to keep, in (0, 1]; pictures with more signs keep fewer, so that all stay equally
        long.
    draw
        Source of randomness.
    """
    length, must = always.shape[1], always.sum(1)
    total = min(length, int((must + share * (length - must)).ceil().max()) + 1)
    order = torch.rand(always.shape, generator=draw).masked_fill(always, 2.0)
    kept = order.topk(total, 1).indices.sort(1).values
    keep = torch.zeros_like(always).scatter(1, kept, True)
    copies = ((length - must) / (total - must).clamp_min(1))[:, None].expand_as(kept)
    log_copies = torch.where(always.gather(1, kept), 0.0, copies.log())
    return Thinned(kept, log_copies, keep.cumsum(1) - keep.long())


def cells_of_signs(picture: Picture, budgets: Sequence[int]) -> torch.Tensor:
    """``[image tokens]`` bool: the cells under the signs of a picture and right beside them."""
    masks = []
    for signs, budget in zip(picture.signs, budgets, strict=True):
        mask = torch.zeros(TOKEN_GRIDS[budget], dtype=torch.bool)
        for sign in signs:
            mask[cells(sign.box, PATCH, TOKEN_GRIDS[budget], 0.6, 0.6)] = True
        masks.append(mask.flatten())
    return torch.cat(masks)


def language_loss(
    model: Qwen2VLForConditionalGeneration, seed: int, rank: int, step: int, progress: float
) -> Loss:
    """Sixteen questions on each of a few pictures, under budgets as allocations give them; the tower is frozen.

    Short prompts come first and now and then later; the ground is thinned (see ``thin``) but for the last tenth.
    ``progress`` is the share of the stage that is done; the batch depends on (seed, rank, step, progress) alone.
    """
    rng = random.Random(f"language/{seed}/{rank}/{step}")
    early, late = progress < 0.1, progress >= 0.9
    short = early or (not late and rng.random() < 0.25)
    grid = pick(rng, {(1, 1): 0.15, (1, 2): 0.2, (2, 1): 0.2, (2, 2): 0.45} if early else GRIDS)
    n = grid[0] * grid[1]
    mixture = [rng.choice((64, 64, 128))] * n if short else draw_budgets(rng, n)
    comparing = rng.random() < 0.35
    kinds = COMPARING_KINDS if comparing else TRAINING_KINDS
    level = 64 if short and (comparing or rng.random() < 0.5) else None
    share = 1.0 if late else GROUND_KEPT
    prompt = int(sum(mixture) * min(1.0, share + 0.15))
    size = min(16, LANGUAGE_TOKENS // (prompt + 14 * QUESTIONS), VISION_TOKENS // sum(mixture))
    pictures = [draw_picture(rng, "train", grid, level) for _ in range(max(1, size))]
    budgets = [rng.sample(mixture, n) for _ in pictures]
    questions = [draw_questions(rng, *shown, QUESTIONS, kinds) for shown in zip(pictures, budgets, strict=True)]
    pixels = to_float([patch for picture in pictures for patch in picture.patches()])
    with torch.no_grad():
        features = torch.cat(encode_at(model, pixels, [b for row in budgets for b in row]))
    places = [[location(grid, p) for p in range(n)]] * len(pictures)
    batch = answer_batch(places, [[TOKEN_GRIDS[b] for b in row] for row in budgets], questions)
    draw = torch.Generator().manual_seed(rng.getrandbits(62))
    image = batch.ids == V.IMAGE
    always = ~image
    always[image] = torch.cat([cells_of_signs(*shown) for shown in zip(pictures, budgets, strict=True)])
    thinned = thin(always, share, draw)
    kept, prompt = thinned.kept, batch.ids.shape[1]
    ids = batch.ids.gather(1, kept)
    vision = features[torch.zeros_like(image).scatter(1, kept, True)[image]]
    before, after = batch.positions[..., :prompt], batch.positions[..., prompt:]
    positions = torch.cat([before.gather(2, kept.expand(3, -1, -1)), after], 2)
    image_rows = torch.multinomial((ids == V.IMAGE).float(), 48, replacement=True, generator=draw)
    log_copies = None if late else thinned.log_copies
    packed = packed_forward(model, ids, vision, positions, batch.tokens, image_rows, log_copies=log_copies)
    scored = batch.labels != IGNORE
    logits = model.lm_head(packed.hidden[scored])
    loss = F.cross_entropy(logits, batch.labels[scored])
    if not late:
        grounding = grounding_loss(packed, pictures, budgets, questions, batch.offsets, thinned.rows, image_rows)
        loss = loss + GROUNDING_WEIGHT * grounding
    right = torch.ones_like(scored)
    right[scored] = logits.argmax(-1) == batch.labels[scored]
    return loss, count_right(right.all(-1), pictures, budgets, questions)


def count_right(
    right: torch.Tensor,
    pictures: Sequence[Picture],
    budgets: Sequence[Sequence[int]],
    questions: Sequence[Sequence[Question]],
) -> dict[str, tuple[float, int]]:
    """(Right answers, questions) by kind and size of print; "-" marks print that the budgets do not resolve."""
    counts: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for b, asked in enumerate(questions):
        for j, question in enumerate(asked):
            enough = all(budgets[b][p] >= pictures[b].signs[p][i].level for p, i in question.evidence)
            key = question.kind + ("" if enough else "-")
            if question.kind in ("number", "word") and enough:
                key += str(question.level)
            total, count = counts[key]
            counts[key] = (total + float(right[b, j]), count + 1)
    return dict(counts)
