"""Perspectival knowing: what stands out, before any question is asked.

Maps without a weight, in units of contrast: centre-surround differences of intensity and opponent colours (Itti, Koch
and Niebur, "A model of saliency-based visual attention", PAMI 1998), the distance to the mean colour of all patches of
the question (Achanta et al., "Frequency-tuned salient region detection", CVPR 2009), and as a factor the spectral
residual (Hou and Zhang, "Saliency detection: a spectral residual approach", CVPR 2007). Patches of one view are put
together first, so a patch is seen in its surroundings. The contrast of features can take the place of the maps: those
of the wrapped model's own glance, or of a pretrained backbone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import nearest
from ..scene.patches import by_key, by_view
from .backbone import Backbone, feature_contrast
from .base import Scorer
from .pixels import resize, scene_pixels

if TYPE_CHECKING:
    from ..scene.contract import Scene

VARIANTS = ("maps", "glance")
PIXELS_PER_TOKEN = 1.6  # 32 pixels for 20 tokens: four per glance cell, and 96 for three patches in a row
FAINT = 0.02  # contrast that counts as nothing in particular


def _span(start: int, stop: int) -> tuple[int, int]:
    first = round(PIXELS_PER_TOKEN * start)
    return first, max(first + 1, round(PIXELS_PER_TOKEN * stop))


def opponents(x: Tensor) -> Tensor:
    """``[..., 3, h, w]`` RGB to intensity, red-green and blue-yellow, each with a range of one."""
    r, g, b = x.unbind(-3)
    return torch.stack([(r + g + b) / 3, (r - g) / 2, b / 2 - (r + g) / 4], -3)


def contrast_map(x: Tensor, mean: Tensor) -> Tensor:
    """Centre-surround contrast at two radii, and distance to a mean colour.

    Parameters
    ----------
    x
        ``[n, 3, h, w]`` opponent channels.
    mean
        ``[3]`` mean of the same channels over all views of the question.

    Returns
    -------
    Tensor
        ``[n, h, w]`` mean of the three contrasts, 0 for a flat view of the mean colour.
    """
    height, width = x.shape[-2:]

    def blurred(step: int) -> Tensor:
        return resize(resize(x, max(1, height // step), max(1, width // step)), height, width)

    centre = x
    grounds = (blurred(6), blurred(16), mean[:, None, None])
    return torch.stack([(centre - ground).square().sum(1).sqrt() for ground in grounds]).mean(0)


def spectral_residual(x: Tensor) -> Tensor:
    """Spectral residual of the intensity, with a mean of one per view.

    Parameters
    ----------
    x
        ``[n, h, w]`` intensity.

    Returns
    -------
    Tensor
        ``[n, h, w]``; one everywhere for a flat view.
    """
    height, width = x.shape[-2:]
    # Mirrored, so that the wrap-around of the Fourier transform invents no edges at the border.
    wide = torch.cat([x, x.flip(-1)], -1)
    spectrum = torch.fft.fft2(torch.cat([wide, wide.flip(-2)], -2))
    amplitude = spectrum.abs()
    # A quarter of a grey level: amplitudes below it are rounding, and must neither be levelled up nor have a phase.
    raised = amplitude + amplitude.shape[-1] * amplitude.shape[-2] / 255 / 4
    log = raised.log()
    ring = F.pad(log, (1, 1, 1, 1), mode="circular")
    rows = ring[..., :-2, :] + ring[..., 1:-1, :] + ring[..., 2:, :]
    around = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
    back = torch.fft.ifft2((log - around).exp() * spectrum / raised)
    energy = back.abs().square()[..., :height, :width]
    smooth = resize(resize(energy, max(1, height // 2), max(1, width // 2)), height, width).clamp_min(0)
    mean = smooth.mean((1, 2), keepdim=True)
    return torch.where(mean > 1e-12, smooth / mean.clamp_min(1e-12), torch.ones_like(smooth))


class Perspectival(Scorer):
    """Salience of each patch among the patches of its question.

    A patch whose salience equals the mean of the question scores about one half, a flat image zero.

    Parameters
    ----------
    variant
        ``"maps"``, or ``"glance"`` for the contrast of a patch's glance tokens to the mean one of the question.
    backbone
        ``None`` for the variant; a timm model name, whose pretrained weights must be at hand; or a
        loaded timm module in evaluation mode. The score is then the contrast of a patch's features to the mean
        feature of the question.
    residual
        Weigh the contrast by the spectral residual.
    """

    name = "perspectival"

    def __init__(
        self, variant: str = "maps", backbone: str | torch.nn.Module | None = None, residual: bool = True
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant={variant!r} is unknown. {nearest(variant, VARIANTS)}")
        if variant == "glance" and backbone is not None:
            raise ValueError(
                f"variant='glance' reads the wrapped model's own features; leave backbone={backbone!r} out."
            )
        self.variant, self.needs = variant, frozenset({"glance" if variant == "glance" else "pixels"})
        self.backbone = None if backbone is None else Backbone(backbone)
        self.residual = residual

    def score(self, scene: Scene) -> Tensor:
        """``[N]`` scores; see the class."""
        if not scene.patches:
            return torch.zeros(0)
        if self.variant == "glance":
            salience, faint = feature_contrast(scene.glance), 1e-3
        elif self.backbone is not None:
            salience, faint = self.backbone.contrast(scene_pixels(scene, self.name)), 1e-3
        else:
            maps = self.maps(scene)
            salience, faint = torch.zeros(len(maps), device=maps[0].device), FAINT
            for rows in by_key([m.shape for m in maps]).values():
                # Between mean and maximum: a small object counts, one odd pixel does not.
                salience[rows] = torch.stack([maps[i] for i in rows]).square().mean((1, 2)).sqrt()
        return salience / (salience + salience.mean() + faint)

    @torch.no_grad()
    def maps(self, scene: Scene) -> list[Tensor]:
        """Salience map of each patch, about 1.6 pixels per visual token.

        Returns
        -------
        list of Tensor
            N tensors ``[h, w]``, in units of contrast.
        """
        pixels = scene_pixels(scene, self.name)
        spans = [(*_span(p.top, p.bottom), *_span(p.left, p.right)) for p in scene.patches]
        small: list[Tensor] = list(pixels)
        for (_, height, width), rows in by_key(
            [(p.shape, b - t, r - le) for p, (t, b, le, r) in zip(pixels, spans, strict=True)]
        ).items():
            for i, plane in zip(rows, resize(torch.stack([pixels[i] for i in rows]), height, width), strict=True):
                small[i] = plane
        views = by_view(scene.patches)
        canvases = []
        for rows in views.values():
            height, width = max(spans[i][1] for i in rows), max(spans[i][3] for i in rows)
            canvas = small[rows[0]].new_zeros(3, height, width)
            for i in rows:
                top, bottom, left, right = spans[i]
                canvas[:, top:bottom, left:right] = small[i]
            canvases.append(opponents(canvas))
        mean = torch.cat([c.flatten(1) for c in canvases], 1).mean(1)
        salience = list(canvases)
        for rows in by_key([c.shape for c in canvases]).values():
            batch = torch.stack([canvases[i] for i in rows])
            contrast = contrast_map(batch, mean)
            if self.residual:
                contrast = contrast * (1 + spectral_residual(batch[:, 0])) / 2
            for i, plane in zip(rows, contrast, strict=True):
                salience[i] = plane
        found = list(pixels)
        for plane, rows in zip(salience, views.values(), strict=True):
            for i in rows:
                top, bottom, left, right = spans[i]
                found[i] = plane[top:bottom, left:right]
        return found
