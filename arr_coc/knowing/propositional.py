"""Propositional knowing: how much information a patch holds, in bits.

Plain entropy can't do it: white noise has more than any page of text. What noise lacks is *predictability*: the
orientation of the gradient at one pixel says nothing about the orientation two pixels away. So the Shannon entropy H
of the gradient-orientation histogram counts only in so far as the field shares information I with its neighbourhood
(mutual information of orientations two pixels apart, the first term of the excess entropy of Feldman and Crutchfield,
"Structural information in two-dimensional patterns", Phys. Rev. E 67, 2003):

    bits = H * r / (r + R0),    r = I / H.

A flat patch and a slow ramp have H = 0, noise has I = 0, text and textured objects have both. Multi-scale: the median
over the octaves counts, so structure must persist over octaves, which blurred noise does not.

The entropy of the intensity histogram is offered but takes no part in the score: noise and ramps have the most of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scene.patches import by_key
from .base import Scorer
from .detail import DetailLoss, detail_loss, scene_detail_loss
from .pixels import colour_planes, resize, scene_pixels

if TYPE_CHECKING:
    from ..scene.contract import Scene

__all__ = ["DetailLoss", "Propositional", "detail_loss", "orientation_bits", "scene_detail_loss"]

BINS = 8  # orientations in half a turn (a power of two); with the state "flat" an alphabet of nine
STATES = BINS + 1
FLAT = 6 * (2 / 255) ** 2  # squared diagonal differences, summed over colours, below which a pixel counts as flat
STEP = 2  # pixels between the two members of a pair; the 2 x 2 gradient kernels of a pair don't overlap
REACH = 3  # pixels within which an edge must fall to half its energy; a ramp does not
R0 = 0.05  # predictability at which entropy counts half; text has .04 to .2, white noise below .002
SIDE = 128  # pixels of the analysis along the longer side of a patch (doubled while the patch is finer than that)
SHORTEST = 32


def _entropy(p: Tensor) -> Tensor:
    """Entropy in bits over the last dimension."""
    return -torch.special.xlogy(p, p).sum(-1) / math.log(2)


def _counts(symbols: Tensor, size: int) -> Tensor:
    """``[n, size]`` histogram of ``symbols [n, m]``; sums of ones, hence exact in any order."""
    zeros = torch.zeros(symbols.shape[0], size, device=symbols.device)
    return zeros.scatter_add_(1, symbols, torch.ones_like(symbols, dtype=zeros.dtype))


def _orientations(x: Tensor) -> Tensor:
    """``x [n, c, h, w]`` -> ``[n, h-1, w-1]`` symbols: 0 flat, else 1 + orientation bin.

    Gradients of the colour planes are joined by their structure tensor (Di Zenzo 1986), so an edge between colours of
    equal luminance counts.
    """
    # Roberts' cross: differences along the two diagonals of a 2 x 2 square, the tightest gradient there is.
    u, v = x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]
    uu, vv, uv = _dot(u, u), _dot(v, v), _dot(u, v)
    energy = uu + vv
    # Half a bin of offset puts horizontal and vertical edges in the middle of their bins.
    turn = torch.atan2(uv.mul_(2), uu.sub_(vv)).mul_(BINS / (2 * math.pi)).add_(BINS / 2 + 0.5)
    symbol = turn.to(torch.uint8).bitwise_and_(BINS - 1).add_(1)
    wide = F.pad(energy[:, None], (REACH,) * 4, mode="replicate")[:, 0]
    across = torch.minimum(wide[:, REACH:-REACH, : -2 * REACH], wide[:, REACH:-REACH, 2 * REACH :])
    along = torch.minimum(wide[:, : -2 * REACH, REACH:-REACH], wide[:, 2 * REACH :, REACH:-REACH])
    # Flat: a gradient below the floor, or a ramp, whose gradient is still there a few pixels on.
    lowest = torch.minimum(across, along).mul_(2)
    return symbol.mul_(energy >= lowest.clamp_min_(FLAT))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum over colours of products, ``[n, c, h, w]`` twice -> ``[n, h, w]``."""
    total = a[:, 0] * b[:, 0]
    for i in range(1, a.shape[1]):
        total.addcmul_(a[:, i], b[:, i])
    return total


def _pairs(symbols: Tensor) -> Tensor:
    """``[n, h, w]`` symbols -> ``[n, 2, 81]`` counts of horizontal and of vertical pairs."""
    across = symbols[:, :, :-STEP] * STATES + symbols[:, :, STEP:]  # below 81: bytes will do
    down = symbols[:, :-STEP] * STATES + symbols[:, STEP:]
    return torch.stack([_counts(pairs.long().flatten(1), STATES**2) for pairs in (across, down)], 1)


@torch.no_grad()
def orientation_bits(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy of the gradient-orientation field and the part that it shares with its neighbourhood.

    Parameters
    ----------
    counts
        ``[..., 2, 81]`` counts of pairs of orientations, horizontal and vertical neighbours.

    Returns
    -------
    entropy, shared
        ``[...]`` bits each. ``shared`` is the mutual information of the two orientations of a pair, mean of both
        directions, with the Miller-Madow correction for finite samples.
    """
    size = counts.sum(-1)
    joint = (counts / size[..., None]).unflatten(-1, (STATES, STATES))
    first, second, both = joint.sum(-1), joint.sum(-2), joint.flatten(-2)
    used = [(p > 0).sum(-1) for p in (first, second, both)]
    bias = (used[0] + used[1] - used[2] - 1) / (2 * size * math.log(2))
    entropy = _entropy(first)
    shared = entropy + _entropy(second) - _entropy(both) + bias
    return entropy.mean(-1), shared.mean(-1).clamp_min(0)


def _analysis_size(height: int, width: int) -> tuple[int, int]:
    """Size at which a patch is analysed: always a little below its own, so the same picture at twice the size gets the
    same octaves plus one finer."""
    longer = max(height, width)
    side = SIDE * 2 ** max(0, math.floor(math.log2(0.8 * longer / SIDE) + 1e-9))
    scale = side / longer
    return max(SHORTEST, round(height * scale)), max(SHORTEST, round(width * scale))


class Propositional(Scorer):
    """Predictable entropy of the gradient-orientation field, as a share of log2(9) bits.

    Nothing is relative to other patches: a score means the same in every image. Measured on planted truth: blank and
    ramps 0, white noise below .03 at any contrast, text from .1 (one small number) to .6 (a
    page). Not perfect: impulses and blurred noise reach .1 to .2, a soft light .1, and foliage reads as noise.
    """

    name = "propositional"
    needs = frozenset({"pixels"})

    def score(self, scene: Scene) -> Tensor:
        """``[N]`` scores; see the class."""
        pixels = scene_pixels(scene, self.name)
        scores = torch.zeros(len(pixels), device=pixels[0].device if pixels else None)
        for rows in by_key([tuple(p.shape) for p in pixels]).values():
            scores[rows] = self.bits(torch.stack([pixels[i] for i in rows])) / math.log2(STATES)
        return scores.clamp(0, 1)

    @staticmethod
    def bits(pixels: Tensor) -> Tensor:
        """Predictable entropy of equal-sized patches.

        Parameters
        ----------
        pixels
            ``[n, 3, H, W]`` RGB in [0, 1].

        Returns
        -------
        Tensor
            ``[n]`` bits in [0, log2(9)].
        """
        height, width = _analysis_size(*pixels.shape[-2:])
        x, counts = colour_planes(pixels.float()), []
        for octave in range(3 + round(math.log2(max(height, width) / SIDE))):
            x = resize(x, height >> octave, width >> octave, "area" if octave else "bilinear")
            counts.append(_pairs(_orientations(x)))
        entropy, shared = orientation_bits(torch.stack(counts))
        return (entropy * shared / (shared + R0 * entropy + 1e-9)).quantile(0.5, dim=0)
