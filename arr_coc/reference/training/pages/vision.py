"""The tower on a batch of equal pictures, through the stock model's own modules in the stock model's order.

The stock forward loops over the pictures of a batch; where all are of one size, one attention call does for all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...pages.model import PIXEL_MEAN, PIXEL_STD, VIT_PATCH


def to_rows(pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Pictures ``[n, 3, H, W]`` in [0, 1], resized (bicubic, antialiased) to ``grid`` tokens and cut.

    Returns ``[n, rows * cols, 192]``.
    """
    rows, cols = grid
    size = (rows * VIT_PATCH, cols * VIT_PATCH)
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)
    x = ((pixels - PIXEL_MEAN) / PIXEL_STD).reshape(len(pixels), 3, rows, VIT_PATCH, cols, VIT_PATCH)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(len(pixels), rows * cols, 3 * VIT_PATCH**2)


def angles(
    tower: Any, grid: tuple[int, int], device: torch.device | str = "cpu", extent: tuple[int, int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary cosines and sines of a grid, ``[rows * cols, head size]`` each.

    ``extent`` spreads its cells over the places of a grid of so many rows and columns: each stands at the centre of
    the area that it covers. Towers are made robust to scale by such changes of coordinates (DINOv3, 2025).
    """
    axes = []
    for n, whole in zip(grid, extent or grid, strict=True):
        axes.append((torch.arange(n, device=device) + 0.5) * (whole / n) - 0.5)
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    cos, sin = tower.rotary_pos_emb(places, places)
    return cos, sin


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of queries or keys ``[B, heads, L, size]``."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Attention of ``[B, heads, L, size]``; on a CPU, short rows in bfloat16 are twice as fast in plain products."""
    if q.device.type != "cpu" or q.shape[-2] > 500 or not torch.is_autocast_enabled("cpu"):
        return F.scaled_dot_product_attention(q, k, v, mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1, dtype=scores.dtype) @ v


def encode(tower: Any, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rows ``[n, L, 192]`` of ``n`` equal pictures to visual tokens ``[n, L, width]``."""
    return project(tower, trunk(tower, rows, cos, sin))


def project(tower: Any, x: torch.Tensor) -> torch.Tensor:
    """The projector: states of the tower to visual tokens."""
    seen: torch.Tensor = tower.merger.mlp(tower.merger.ln_q(x))
    return seen


def trunk(tower: Any, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """What the tower makes of rows, before the projector."""
    n, length, _ = rows.shape
    weight = tower.patch_embed.proj.weight
    x = rows @ weight.reshape(weight.shape[0], -1).T
    for block in tower.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(n, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin), qkv[2]
        read = attend(q.to(v.dtype), k.to(v.dtype), v)
        x = x + attention.proj(read.transpose(1, 2).reshape(n, length, -1))
        x = x + block.mlp(block.norm2(x))
    return x


def to_float(images: np.ndarray) -> torch.Tensor:
    """``n`` images ``[n, H, W, 3]`` uint8 as ``[n, 3, H, W]`` float32 in [0, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255
