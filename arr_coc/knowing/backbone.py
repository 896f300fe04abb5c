"""A pretrained timm backbone as a source of salience: contrast of features. Never random weights in silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import nearest
from ..scene.patches import by_key
from .pixels import resize


def _load(name: str) -> torch.nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"backbone={name!r} needs timm; install it with: pip install 'arr-coc[timm]'.") from error
    architecture = name.removeprefix("timm/").split(".")[0]
    if not timm.is_model(architecture):
        raise ValueError(f"timm has no model {name!r}. {nearest(architecture, timm.list_models())[:400]}")
    if not timm.models.is_model_pretrained(name):
        raise ValueError(
            f"timm has no pretrained weights for {name!r}, and random weights would make a random score; choose one "
            "of timm.list_models(pretrained=True), or pass a loaded module."
        )
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # whatever the hub client raises, the remedy is the same
        raise RuntimeError(
            f"The pretrained weights of {name!r} could not be loaded ({type(error).__name__}: {error}). Run once with "
            "network access so that they are cached, or pass a timm module that you loaded from a local file as "
            "backbone=. Random weights are never used."
        ) from error
    return model.eval()


class Backbone:
    """Feature contrast from a timm model.

    Parameters
    ----------
    model
        Name of a timm model with pretrained weights, or a loaded timm module in evaluation mode.

    Raises
    ------
    ImportError, ValueError, RuntimeError
        If timm, the name or the weights are not to be had.
    TypeError
        If the module is not a timm model.
    """

    def __init__(self, model: str | torch.nn.Module) -> None:
        self.model: Any = _load(model) if isinstance(model, str) else model
        if not hasattr(self.model, "forward_features"):
            raise TypeError(f"backbone={type(model).__name__} must be a timm model name or a timm module.")
        if self.model.training:
            raise ValueError("The backbone is in training mode; call backbone.eval() before passing it.")
        config = getattr(self.model, "pretrained_cfg", None) or {}
        self.size: tuple[int, int] = tuple(config.get("input_size", (3, 224, 224)))[1:]
        self.mean, self.std = (torch.tensor(config.get(k, d)) for k, d in (("mean", [0.5] * 3), ("std", [0.5] * 3)))

    @torch.no_grad()
    def contrast(self, pixels: Sequence[Tensor]) -> Tensor:
        """`feature_contrast` of patches.

        Parameters
        ----------
        pixels
            N tensors ``[3, H, W]`` in [0, 1].

        Returns
        -------
        Tensor
            ``[N]`` in [0, 2], on the device of the pixels.
        """
        x = torch.empty(len(pixels), 3, *self.size, device=pixels[0].device)
        for rows in by_key([p.shape for p in pixels]).values():
            x[rows] = resize(torch.stack([pixels[i] for i in rows]), *self.size, mode="bicubic")
        x = (x - self.mean.to(x)[:, None, None]) / self.std.to(x)[:, None, None]
        weight = next(self.model.parameters())
        features = self.model.forward_features(x.to(weight)).to(x)
        if features.ndim == 4:  # convolutional; timm's channels-last hierarchical models say so
            last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
            tokens = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
        else:
            tokens = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
        return feature_contrast(list(tokens))


def feature_contrast(tokens: Sequence[Tensor]) -> Tensor:
    """Root mean square cosine distance of a patch's features to the mean feature of all patches.

    Parameters
    ----------
    tokens
        Per patch ``[t_i, D]`` features.

    Returns
    -------
    Tensor
        ``[N]`` in [0, 2].
    """
    units = [F.normalize(t.float(), dim=-1) for t in tokens]
    centre = F.normalize(torch.cat(units).mean(0), dim=0)
    return torch.stack([(1 - unit @ centre).square().mean().sqrt() for unit in units])
