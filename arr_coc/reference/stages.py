"""The two stages of training: what one step's batch is and what its loss is.

A batch is a pure function of (seed, rank, step), so a resumed run sees exactly the batches of an unbroken one.
"""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from arr_coc.reference import vocabulary as V
from arr_coc.reference.labels import ATTRIBUTES, IGNORE, dense_labels, evidence_cells, resolved_cells
from arr_coc.reference.packed import Packed, encode, packed_forward, prefix
from arr_coc.reference.questions import KINDS, Question, ask, location
from arr_coc.reference.world import COLORS, CONTENTS, GRIDS, LEVELS, PATCH, PRINT_SIZES, WORDS, Box, Picture, Sign
from arr_coc.reference.world import draw_patch, draw_picture, draw_print, draw_sign, font, ground, pick, place

TOKEN_GRIDS = {64: (8, 8), 128: (8, 16), 256: (16, 16), 400: (20, 20)}
SHARPNESS = 10.0
"""Logit per unit of code amplitude; a code counts as present above an amplitude of one half."""
FINE = ("tens", "units", "word", "dots")
UNRESOLVED_WEIGHT = 0.2
"""Weight of print that the budget cannot resolve: enough to learn doubt, too little to drown what can be read."""
ATTRIBUTE_WEIGHT = {"shape": 1.0, "color": 0.6, "letter": 1.0, "tens": 1.5, "units": 1.5, "word": 1.5, "dots": 1.2}

Loss = tuple[torch.Tensor, dict[str, tuple[float, int]]]
"""A loss and running metrics: name -> (sum, count)."""


def to_float(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


# ---------------------------------------------------------------- stage 1: the tower


def crowded_canvas(rng: random.Random, size: int, levels: dict[int, float]) -> tuple[np.ndarray, list[Sign]]:
    """A canvas crowded with signs and loose print: far more glyphs per token than a patch of the world has."""
    x, y = rng.randint(0, PATCH - size), rng.randint(0, PATCH - size)
    canvas = ground(rng, (1, 1), "train").crop((x, y, x + size, y + size))
    draw, taken, signs = ImageDraw.Draw(canvas), list[Box](), list[Sign]()
    small, loose = size < PATCH, 8 if size < PATCH else 7
    contents = {"number": 0.5, "word": 0.35, "dots": 0.15} if small else CONTENTS
    for _ in range(rng.choice((0, 2, 3, 4)) if small else rng.choice((1, 3, 4, 5))):
        content = pick(rng, contents)
        level = pick(rng, levels) if content in ("number", "word") else None
        sign = draw_sign(rng, draw, taken, rng.choice(list(COLORS)), size, content, level, small)
        if sign is not None:
            signs.append(sign)
    for _ in range(loose):
        content, level = rng.choice(("number", "word")), pick(rng, levels)
        value = str(rng.randint(10, 99)) if content == "number" else rng.choice(WORDS)
        points = rng.choice(PRINT_SIZES[level])
        width = font(points, True).getlength(value.upper()) + 2
        corner = place(rng, taken, size, width, points + 2, 1)
        if corner is not None:
            box = draw_print(rng, draw, value.upper(), points, corner[0] + width / 2, corner[1] + points / 2 + 1)
            signs.append(Sign("", "", content, value, level, box, box))
    return np.asarray(canvas), signs


def single_patch(rng: random.Random) -> tuple[np.ndarray, list[Sign]]:
    canvas: Image.Image = ground(rng, (1, 1), "train")
    signs = draw_patch(rng, canvas, rng.sample(list(COLORS), rng.choices((1, 2), (0.4, 0.6))[0]))
    return np.asarray(canvas), signs


def dense_loss(features: torch.Tensor, labels: torch.Tensor, resolved: torch.Tensor, key: str) -> Loss:
    """Cross entropy of code amplitudes against the dense labels.

    ``features`` ``[cells, width]``, ``labels`` ``[attributes, cells]``, ``resolved`` ``[cells]`` bool.
    """
    total, metrics = features.new_zeros(()), {}
    for attribute, label in zip(ATTRIBUTES, labels, strict=True):
        shown, absent = label > 0, label == 0
        if not shown.any():
            continue
        amplitude = features @ V.class_codes(attribute).T
        none = torch.full_like(amplitude[:, :1], 0.5)
        logits = SHARPNESS * torch.cat([none, amplitude], 1)
        present = SHARPNESS * (features @ V.codes()[f"kind/{V.KIND_OF[attribute]}"] - 0.5)
        weight = torch.ones_like(amplitude[:, 0])
        if attribute in FINE:
            weight[~resolved] = UNRESOLVED_WEIGHT
        read = F.cross_entropy(logits[shown], label[shown], reduction="none") * weight[shown]
        loss = read.mean() + F.cross_entropy(logits[absent], label[absent])
        gate = F.softplus(-present[shown]).mean() + F.softplus(present[absent]).mean()
        total = total + ATTRIBUTE_WEIGHT[attribute] * loss + 0.3 * gate
        counted = shown & resolved if attribute in FINE else shown
        right = (logits[counted].argmax(-1) == label[counted]).sum().item()
        if counted.any():
            metrics[f"{attribute}@{key}"] = (right, int(counted.sum()))
    return total, metrics


def tower_loss(model, seed: int, rank: int, step: int, progress: float) -> Loss:
    """One batch of about 3,200 visual tokens: crowded canvases at first, then more and more patches of the world."""
    rng = random.Random(f"tower/{seed}/{rank}/{step}")
    crops, crowds = (0.6, 0.3) if progress < 0.15 else (0.3, 0.4) if progress < 0.6 else (0.15, 0.35)
    u = rng.random()
    if u < crops:
        grid, size = rng.choices(((10, 10), (8, 8)), (0.65, 0.35))[0], 80
        n, budget, key = 3200 // (grid[0] * grid[1]), 400 if grid[0] == 10 else 256, f"crop{grid[0]}"
        drawn = [crowded_canvas(rng, size, {400: 0.6, 256: 0.4}) for _ in range(n)]
    else:
        budget = pick(rng, {64: 0.25, 128: 0.2, 256: 0.25, 400: 0.3})
        grid, size, key = TOKEN_GRIDS[budget], PATCH, str(budget)
        n = min(32, 3200 // budget)
        crowded = u < crops + crowds
        drawn = [crowded_canvas(rng, size, LEVELS) if crowded else single_patch(rng) for _ in range(n)]
    labels = np.stack([dense_labels(signs, size, grid) for _, signs in drawn], 1)
    resolved = np.stack([resolved_cells(signs, size, grid, budget) for _, signs in drawn])
    features = encode(model, to_float([image for image, _ in drawn]), grid).flatten(0, 1)
    return dense_loss(features, torch.from_numpy(labels).flatten(1), torch.from_numpy(resolved).flatten(), key)


# ---------------------------------------------------------------- stage 2: the language model

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
    while len(questions) < count:
        questions.append(rng.choice(questions) if questions else Question("is there a sign ?", "yes", "yesno", 64, (), ((),)))
    return questions


def answer_batch(places, grids, questions: list[list[Question]]):
    """Tensors for ``packed_forward`` and the labels: ids, positions, question tokens, labels ``[B, Q, T]``, patch offsets per picture."""
    count = len(questions[0])
    tokens = torch.full((len(questions), count, QUESTION_LENGTH), V.PAD)
    labels = torch.full_like(tokens, IGNORE)
    ids, positions, offsets = [], [], []
    for b, asked in enumerate(questions):
        head, where, offset, at = prefix(places[b], grids[b])
        for j, question in enumerate(asked):
            words = [V.TOKEN[w] for w in question.text.split()]
            answer = V.TOKEN[question.answer]
            tokens[b, j, : len(words) + 1] = torch.tensor([*words, answer])
            labels[b, j, len(words) - 1 : len(words) + 1] = torch.tensor([answer, V.EOS])
        ids.append(head)
        positions.append(torch.cat([where, (at + torch.arange(QUESTION_LENGTH)).repeat(count).expand(3, -1)], 1))
        offsets.append(offset)
    return torch.stack(ids), torch.stack(positions, 1), tokens, labels, offsets


def grounding_loss(packed: Packed, pictures, budgets, questions, offsets, length: int, image_rows) -> torch.Tensor:
    """-log attention mass on the known evidence, for the heads that shall ground.

    At "?": layer 0 head 0 reads the words that name the (last) referent, head 1 the kind of question, head 2 the other referent of a
    comparison; layers 1 and 2 read the evidence cells, head 0 those of the last referent and head 1 those of the first. In layer 0, head 3 of
    every image cell reads the two words that place its patch. Where there is nothing to read, the beginning of the prompt.
    """
    wanted: dict[tuple[int, int], list[tuple[int, int, list[int]]]] = defaultdict(list)
    for b, asked in enumerate(questions):
        for j, question in enumerate(asked):
            words = question.text.split()
            row, own = j * QUESTION_LENGTH + len(words) - 1, [length + k for k in range(len(words))]
            last = question.referents[-1]
            near = [own[k] for k in range(len(words)) if words[k] in last and len(words) - k <= 4]
            wanted[0, 0].append((b, row, near or [0]))
            head = {"compare": ("larger",), "yesno": ("there",), "count": ("many",)}.get(question.kind, (question.kind,))
            kind = [own[k] for k in range(len(words)) if words[k] in head and (k < 3 or question.kind == "compare")]
            if kind:
                wanted[0, 1].append((b, row, kind))
            far = [own[k] for k in range(len(words)) if question.kind == "compare" and words[k] in question.referents[0] and len(words) - k > 4]
            wanted[0, 2].append((b, row, far or [0]))
            sought = []
            for p, i in question.evidence if question.kind in ("compare", "yesno") else question.evidence[:1]:
                kind_of = "number" if question.kind == "compare" else question.kind
                found = evidence_cells(pictures[b].signs[p][i], kind_of, PATCH, TOKEN_GRIDS[budgets[b][p]])
                sought.append((offsets[b][p] + found).tolist())
            if question.kind != "compare":
                sought = [[k for cells in sought for k in cells]]
            for layer in (1, 2):
                wanted[layer, 0].append((b, row, (sought[-1] if sought else []) or [0]))
                wanted[layer, 1].append((b, row, (sought[0] if sought else []) or [0]))
    total = packed.hidden.new_zeros(())
    for (layer, head), rows in wanted.items():
        index = torch.tensor([(b, row) for b, row, _ in rows])
        scores = packed.question_scores[layer][index[:, 0], head, index[:, 1]]
        allowed = torch.zeros(scores.shape, dtype=torch.bool)
        for r, (_, _, keys) in enumerate(rows):
            allowed[r, keys] = True
        total = total - (scores.masked_fill(~allowed, -1e9).logsumexp(-1) - scores.logsumexp(-1)).mean()
    scores = packed.image_scores
    starts = torch.tensor(offsets)  # [B, N]
    patch = torch.searchsorted(starts, image_rows, right=True) - 1
    first = starts.gather(1, patch)[..., None]
    mass = scores.gather(2, torch.cat([first - 3, first - 2], -1)).logsumexp(-1) - scores.logsumexp(-1)
    return total - 2 * mass.mean()


def language_loss(model, seed: int, rank: int, step: int, progress: float) -> Loss:
    """About a dozen questions on each of a few pictures, under budgets as allocations give them; the tower is frozen."""
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
    features: list[torch.Tensor] = [torch.empty(0)] * (size * n)
    pixels = to_float([patch for picture in pictures for patch in picture.patches()])
    flat = [b for row in budgets for b in row]
    with torch.no_grad():
        for budget in set(flat):
            chosen = [i for i, b in enumerate(flat) if b == budget]
            for i, f in zip(chosen, encode(model, pixels[chosen], TOKEN_GRIDS[budget]), strict=True):
                features[i] = f
    places = [[location(grid, p) for p in range(n)]] * size
    ids, positions, tokens, labels, offsets = answer_batch(places, [[TOKEN_GRIDS[b] for b in row] for row in budgets], questions)
    draw = torch.Generator().manual_seed(rng.getrandbits(62))
    image = (ids == V.IMAGE).nonzero()[:, 1].view(size, -1)
    image_rows = image.gather(1, torch.randint(image.shape[1], (size, 48), generator=draw))
    packed = packed_forward(model, ids, torch.cat(features), positions, tokens, image_rows)
    scored = labels != IGNORE
    logits = model.lm_head(packed.hidden[scored])
    loss = F.cross_entropy(logits, labels[scored])
    if progress < 0.9:
        loss = loss + GROUNDING_WEIGHT * grounding_loss(packed, pictures, budgets, questions, offsets, ids.shape[1], image_rows)
    right = torch.ones_like(scored)
    right[scored] = logits.argmax(-1) == labels[scored]
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
