"""A training-time forward pass: many questions about one picture share its prefix, and attention scores come back.

It runs the stock model's own modules in the stock model's order, and is tested to give the stock model's logits. What
it adds is block masking (question j sees the picture and itself, never question i), which makes a picture's prefix pay
for a dozen answers, and the raw attention scores that the grounding loss supervises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Qwen2VLForConditionalGeneration

from .. import vocabulary as V
from ..model import PIXEL_MEAN, PIXEL_STD, VIT_PATCH

TOKEN_GRIDS = {64: (8, 8), 128: (8, 16), 256: (16, 16), 400: (20, 20)}
"""Rows and columns of tokens that each budget gives a patch."""

Loss = tuple[torch.Tensor, dict[str, tuple[float, int]]]
"""A loss and its metrics: name -> (sum, count)."""


def to_float(images: Sequence[np.ndarray]) -> torch.Tensor:
    """``n`` images ``[H, W, 3]`` uint8 as ``[n, 3, H, W]`` float32 in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def to_tokens(pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Patches ``[n, 3, H, W]`` in [0, 1], resized (bicubic, antialiased) to ``grid`` and cut.

    Returns ``[n * rows * cols, 192]``.
    """
    rows, cols = grid
    size = (rows * VIT_PATCH, cols * VIT_PATCH)
    x = (pixels - PIXEL_MEAN) / PIXEL_STD
    if x.shape[-2:] != size:
        x = F.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False)
    x = x.reshape(len(x), 3, rows, VIT_PATCH, cols, VIT_PATCH)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3 * VIT_PATCH**2)


def encode(model: Qwen2VLForConditionalGeneration, pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The tower on ``n`` patches of equal grid, each its own attention segment: ``[n, rows * cols, width]``."""
    thw = torch.tensor([[1, *grid]] * len(pixels))
    out = model.model.visual(to_tokens(pixels, grid), grid_thw=thw)
    return out.pooler_output.view(len(pixels), grid[0] * grid[1], -1)


def encode_at(
    model: Qwen2VLForConditionalGeneration, pixels: torch.Tensor, budgets: Sequence[int]
) -> list[torch.Tensor]:
    """The tower on patches ``[n, 3, H, W]`` with a budget each: ``n`` times ``[budget, width]``."""
    features: list[torch.Tensor] = [torch.empty(0)] * len(budgets)
    for budget in set(budgets):
        chosen = [i for i, b in enumerate(budgets) if b == budget]
        for i, f in zip(chosen, encode(model, pixels[chosen], TOKEN_GRIDS[budget]), strict=True):
            features[i] = f
    return features


class Prefix(NamedTuple):
    """The prompt up to the question."""

    ids: torch.Tensor  # [P]
    positions: torch.Tensor  # [3, P], for M-RoPE
    offsets: list[int]  # of each patch's first image token
    end: int  # the position of the first word after it


def prefix(places: Sequence[tuple[str, str]], grids: Sequence[tuple[int, int]]) -> Prefix:
    """The prompt that shows patches of these token grids at these places."""
    ids, positions, offsets, at = [V.BOS], [torch.zeros(3, 1, dtype=torch.long)], [], 1

    def text(*tokens: int) -> None:
        nonlocal at
        ids.extend(tokens)
        positions.append(torch.arange(at, at + len(tokens)).expand(3, -1))
        at += len(tokens)

    for (row, col), (rows, cols) in zip(places, grids, strict=True):
        text(V.TOKEN[row], V.TOKEN[col], V.VISION_START)
        offsets.append(len(ids))
        ids.extend([V.IMAGE] * (rows * cols))
        i, j = torch.arange(rows).repeat_interleave(cols), torch.arange(cols).repeat(rows)
        positions.append(torch.stack([torch.full_like(i, at), at + i, at + j]))
        at += max(rows, cols)
        text(V.VISION_END)
    return Prefix(torch.tensor(ids), torch.cat(positions, 1), offsets, at)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of queries or keys ``[B, heads, L, size]``."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


@dataclass
class Packed:
    """Hidden states of the question tokens ``[B, Q, T, width]`` and, per layer, what grounding reads.

    ``question_scores[l]`` is ``[B, heads, Q * T, P + T]``: scaled scores of every question token over the prefix and
    its own question. ``image_scores`` is ``[B, R, P]``: scores of ``image_head`` in layer 0 for the image rows asked
    for.
    """

    hidden: torch.Tensor
    question_scores: list[torch.Tensor] = field(default_factory=list)
    image_scores: torch.Tensor | None = None


def packed_forward(
    model: Qwen2VLForConditionalGeneration,
    ids: torch.Tensor,
    vision: torch.Tensor,
    positions: torch.Tensor,
    questions: torch.Tensor,
    image_rows: torch.Tensor | None = None,
    image_head: int = 3,
    log_copies: torch.Tensor | None = None,
) -> Packed:
    """Run the language model on ``B`` prefixes of equal length, each with ``Q`` questions of ``T`` tokens.

    Parameters
    ----------
    model
        The reference VLM.
    ids
        ``[B, P]``, the prefixes.
    vision
        ``[image tokens of the batch, width]``, what the tower gave for them.
    positions
        ``[3, B, P + Q * T]``.
    questions
        ``[B, Q, T]``.
    image_rows
        ``[B, R]``, prefix positions whose layer-0 scores in ``image_head`` are wanted.
    image_head
        Which head that is.
    log_copies
        ``[B, P]``, log of how many prefix positions each one stands for (see ``language.thin``): attention counts it
        that many times. None: each for itself.
    """
    lm = model.model.language_model
    (b, p), (q, t) = ids.shape, questions.shape[1:]
    embedded = lm.embed_tokens(ids).masked_scatter((ids == V.IMAGE)[..., None], vision)
    x = torch.cat([embedded, lm.embed_tokens(questions).view(b, q * t, -1)], 1)
    cos, sin = (c[:, None] for c in lm.rotary_emb(x, positions))
    causal = torch.ones(t, t, dtype=torch.bool).tril()
    lowest = torch.finfo(x.dtype).min
    over_picture = None
    if log_copies is not None:
        future = torch.ones(p, p, dtype=torch.bool).triu(1)
        over_picture = log_copies[:, None, None].masked_fill(future, lowest)
    result = Packed(x)
    for depth, layer in enumerate(lm.layers):
        attention, last = layer.self_attn, depth == len(lm.layers) - 1
        h, size = attention.config.num_attention_heads, attention.head_dim
        z = layer.input_layernorm(x)

        def heads(y: torch.Tensor, h: int = h, size: int = size) -> torch.Tensor:
            return y.view(b, -1, h, size).transpose(1, 2)

        k, v = rotate(heads(attention.k_proj(z)), cos, sin), heads(attention.v_proj(z))
        skip = p if last else 0  # nothing reads the prefix after the last layer
        query = rotate(heads(attention.q_proj(z[:, skip:])), cos[:, :, skip:], sin[:, :, skip:])
        asked = query[:, :, p - skip :]
        over_prefix = asked @ k[:, :, :p].transpose(2, 3) * size**-0.5
        if log_copies is not None:
            over_prefix = over_prefix + log_copies[:, None, None]
        blocks = asked.reshape(b, h, q, t, size) @ k[:, :, p:].reshape(b, h, q, t, size).transpose(3, 4)
        over_question = (blocks * size**-0.5).masked_fill(~causal, lowest).view(b, h, q * t, t)
        scores = torch.cat([over_prefix, over_question], -1)
        result.question_scores.append(scores)
        if depth == 0 and image_rows is not None:
            rows = query[:, image_head].gather(1, image_rows[..., None].expand(-1, -1, size))
            image = (rows @ k[:, image_head, :p].transpose(1, 2)) * size**-0.5
            if log_copies is not None:
                image = image + log_copies[:, None]
            result.image_scores = image.masked_fill(torch.arange(p) > image_rows[..., None], lowest)
        mass = scores.softmax(-1)
        own = mass[..., p:].view(b, h, q, t, t) @ v[:, :, p:].reshape(b, h, q, t, size)
        read = mass[..., :p] @ v[:, :, :p] + own.view(b, h, q * t, size)
        if last:
            x = x[:, p:]
        else:
            picture = F.scaled_dot_product_attention(
                query[:, :, :p], k[:, :, :p], v[:, :, :p], over_picture, is_causal=over_picture is None
            )
            read = torch.cat([picture, read], 2)
        x = x + attention.o_proj(read.transpose(1, 2).reshape(b, -1, h * size))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    result.hidden = lm.norm(x).view(b, q, t, -1)
    return result
