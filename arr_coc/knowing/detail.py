"""Detail loss: the share of local signal energy that a resize to each budget's grid destroys.

The direct rate-distortion feature. It tells what 64 tokens would throw away, not whether that is worth having: noise
loses as much as text. The propositional score tells the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scene.patches import budget_grid, by_key
from .pixels import across, colour_planes, down, scene_pixels, there_and_back

if TYPE_CHECKING:
    from ..scene.contract import Scene

# Energy of rounding to 8 bits is far below this (2/255 per channel); a flatter cell has nothing to lose.
FLOOR = 3 * (2 / 255) ** 2


@dataclass(frozen=True)
class DetailLoss:
    """What each budget would destroy.

    Attributes
    ----------
    per_patch, per_cell
        ``[N, K]`` and ``[N, G, K]`` shares in [0, 1] of the local energy (squared deviation from the cell's mean,
        summed over colours). G is the largest number of glance cells; a patch with fewer has zeros behind them.
    """

    per_patch: Tensor
    per_cell: Tensor

    def attended(self, weights: Sequence[Tensor]) -> Tensor:
        """Loss where the question looks: the sum over cells of weight times loss.

        Parameters
        ----------
        weights
            Per patch ``[g_i]`` weights of its glance cells, as from `Scorer.cell_map`.

        Returns
        -------
        Tensor
            ``[N, K]``.
        """
        padded = self.per_cell.new_zeros(self.per_cell.shape[:2])
        for row, w in zip(padded, weights, strict=True):
            row[: w.numel()] = w.to(row)
        return torch.einsum("ng,ngk->nk", padded, self.per_cell)


def _pool(x: Tensor, cells: tuple[int, int]) -> Tensor:
    """``[n, c, H, W]`` -> ``[n, rows, columns]``: mean over each cell, sum over colours."""
    return F.adaptive_avg_pool2d(x, cells).sum(1)


@torch.no_grad()
def detail_loss(
    pixels: Tensor, native: tuple[int, int], grids: Sequence[tuple[int, int]], cells: tuple[int, int] = (8, 8)
) -> tuple[Tensor, Tensor]:
    """Energy that equal-sized patches lose at each grid, cell by cell.

    Parameters
    ----------
    pixels
        ``[n, 3, H, W]`` or ``[3, H, W]`` float RGB in [0, 1] at full detail.
    native
        Rows and columns of visual tokens at full detail; a token covers H / rows x W / columns pixels.
    grids
        K grids (rows, columns) of tokens, none larger than ``native``.
    cells
        Rows and columns of the cells in which energy is counted, normally the glance grid.

    Returns
    -------
    lost, energy
        ``[n, K, rows, columns]`` mean squared error per pixel and ``[n, rows, columns]`` local energy, both summed
        over RGB.

    Raises
    ------
    ValueError
        For pixels of another shape or with NaN or infinite values, or a grid larger than the native one.
    """
    x = pixels.float()
    x = x[None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[1] != 3 or x.numel() == 0:
        raise ValueError(f"pixels have shape {tuple(pixels.shape)}; they must be [n, 3, H, W] or [3, H, W].")
    if not bool(x.sum().isfinite()):
        raise ValueError("pixels hold NaN or infinite values; pass finite RGB in [0, 1].")
    for rows, columns in grids:
        if not (1 <= rows <= native[0] and 1 <= columns <= native[1]):
            raise ValueError(f"grid {rows} x {columns} must lie between 1 x 1 and the native grid {native}.")
    height, width = x.shape[-2:]
    x = colour_planes(x)
    # Roughly centred, for the sake of the difference of squares below.
    x.sub_(x[..., ::4, ::4].mean((2, 3), keepdim=True))
    means = F.adaptive_avg_pool2d(x, cells)
    energy = (_pool(x.square(), cells) - means.square().sum(1)).clamp_min(0)
    lost = []
    for rows, columns in grids:
        h, w = max(1, round(rows * height / native[0])), max(1, round(columns * width / native[1]))
        if (h, w) == (height, width):
            lost.append(torch.zeros_like(energy))
            continue
        back = across(x, there_and_back(width, w, "bicubic")) if w != width else x
        back = down(back, there_and_back(height, h, "bicubic")) if h != height else back
        lost.append(_pool((back - x).square_(), cells))
    return torch.stack(lost, 1), energy


@torch.no_grad()
def scene_detail_loss(scene: Scene) -> DetailLoss:
    """Detail loss of every patch at every arm of one question.

    Parameters
    ----------
    scene
        One question with pixels; arms are read from ``scene.costs``, cells from ``scene.glance_grids``.

    Returns
    -------
    DetailLoss
        On the device of the pixels, float32.
    """
    pixels = scene_pixels(scene, "detail loss")
    keys: list[Any] = []
    for patch, plane, cells, costs in zip(
        scene.patches, pixels, scene.glance_grids, scene.costs.tolist(), strict=True
    ):
        native = (patch.height, patch.width)
        # A realised cost names its grid: the best grid of that area is the one that was paid for.
        grids = tuple(budget_grid(*native, int(cost)) for cost in costs)
        keys.append((tuple(plane.shape), native, grids, tuple(cells)))
    count, arms = scene.costs.shape
    most = max((rows * columns for rows, columns in scene.glance_grids), default=0)
    device = pixels[0].device if pixels else None
    lost = torch.zeros(count, most, arms, device=device)
    energy = torch.zeros(count, most, 1, device=device)
    patch_lost, patch_energy = torch.zeros(count, arms, device=device), torch.zeros(count, 1, device=device)
    for (_, native, grids, cells), rows in by_key(keys).items():
        group_lost, group_energy = detail_loss(torch.stack([pixels[i] for i in rows]), native, grids, cells)
        group_lost, group_energy = group_lost.flatten(2).transpose(1, 2), group_energy.flatten(1)[..., None]
        lost[rows, : cells[0] * cells[1]] = group_lost
        energy[rows, : cells[0] * cells[1]] = group_energy
        patch_lost[rows], patch_energy[rows] = group_lost.mean(1), group_energy.mean(1)
    # Ringing can carry a neighbour's loss into a flat cell, hence the bound.
    return DetailLoss(
        per_patch=(patch_lost / (patch_energy + FLOOR)).clamp_max(1),
        per_cell=(lost / (energy + FLOOR)).clamp_max(1),
    )
