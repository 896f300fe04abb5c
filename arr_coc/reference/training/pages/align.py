"""Alignment: visual tokens take the place of the words that they show, in the language model's own embedding space.

What contrastive pretraining does for a tower (CLIP, LiT) with one caption a picture, done with the printed words and
digits of every cell: the embeddings are those that the language model learned from text, and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from transformers import Qwen2_5_VLForConditionalGeneration

from ...pages.lexicon import CHARACTERS, NUMBER_ID, WORDS
from .pool import Pool
from .run import Loss
from .tower import tower_batch
from .vision import angles, project, trunk

SHARPNESS = 8.0
"""Logit of a visual token that equals the embedding of its word."""


def token_tables(encode: Callable[[str], list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token of every word label and of every character label (0 where there is none)."""
    words = [0, *(encode(" " + word)[0] for word in WORDS), 0]
    characters = [0, *(encode("0" + c)[-1] for c in CHARACTERS)]
    return torch.tensor(words), torch.tensor(characters)


def align_loss(
    model: Qwen2_5_VLForConditionalGeneration, tables: tuple[torch.Tensor, torch.Tensor], pools: tuple[Pool, Pool],
    step: int, progress: float, tokens: int = 4800,
) -> Loss:  # fmt: skip
    """Which word or digit a cell shows, among all tokens, and the distance of its visual token to their embedding.

    The distance is in units of the embeddings' own size; cells that show nothing are to be zero.
    """
    words, characters = tables
    rows, labels, grid, extent = tower_batch(*pools, 1, step, max(progress, 0.7), tokens)
    tower, table = model.model.visual, model.model.language_model.embed_tokens.weight.detach()
    states = trunk(tower, rows, *angles(tower, grid, extent=extent))
    seen = project(tower, states).float().flatten(0, 1)
    left, right, cover, word, _ = labels
    known = (word >= 0) & (left >= 0) & (right >= 0) & (cover >= 0)
    is_word = (word > 0) & (word < NUMBER_ID)
    is_number = word == NUMBER_ID
    wanted = torch.zeros_like(seen)
    wanted[is_word] = table[words[word[is_word]]]
    for place in (left, right):
        here = is_number & (place > 0)
        wanted[here] += table[characters[place[here]]]
    size = table[words[words > 0]].pow(2).mean()
    each = (seen - wanted).pow(2).mean(-1) / size
    shown = wanted.abs().sum(-1) > 0
    # Cells without print are hardly held at zero: held firmly, they lost the colour of their ground.
    loss = each[known & shown].mean() + 0.02 * each[known & ~shown].mean()
    single = known & (is_word | (is_number & (left > 0) & (right == 0)))
    target = torch.where(is_word, words[word.clamp_min(0)], characters[left.clamp_min(0)])
    scale = SHARPNESS / table[words[words > 0]].pow(2).sum(-1).mean()
    loss = loss + F.cross_entropy(scale * (seen[single] @ table.T), target[single])
    near = (F.normalize(seen, dim=-1) @ F.normalize(table, dim=-1).T).argmax(-1)
    metrics = {}
    for name, here in (
        ("word", single & is_word),
        ("digit", single & is_number),
    ):
        if here.any():
            metrics[f"{name}@{grid[0]}x{grid[1]}"] = (float((near[here] == target[here]).sum()), int(here.sum()))
    return loss, metrics
