"""A contrastive image-text model (CLIP, Radford et al. 2021; SigLIP, Zhai et al. 2023) through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scene.patches import by_key
from .pixels import resize


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoProcessor

    try:
        # Said, because transformers else asks on the terminal whether a folder's code may run.
        model = AutoModel.from_pretrained(name, trust_remote_code=False).eval()
        return model, AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise RuntimeError(
            f"The image-text model {name!r} could not be loaded ({type(error).__name__}: {error}). Give a local "
            "folder with weights and processor, run once with network access so that they are cached, or pass a "
            "loaded model and processor."
        ) from error


class Paired:
    """Similarity of patches to a question.

    Parameters
    ----------
    model
        Name or folder for transformers, or a loaded CLIP- or SigLIP-like model in evaluation mode.
    processor
        Its processor; required with a loaded model, ignored with a name.

    Raises
    ------
    RuntimeError
        If a named model can't be loaded.
    TypeError, ValueError
        If a loaded model is of another kind, lacks its processor or is in training mode.
    """

    def __init__(self, model: Any, processor: Any = None) -> None:
        if isinstance(model, str):
            model, processor = _load(model)
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise TypeError(
                f"model={type(model).__name__} gives no image and text features; use a CLIP or SigLIP model."
            )
        if processor is None:
            raise ValueError("A loaded image-text model needs its processor; pass processor=.")
        if model.training:
            raise ValueError("The image-text model is in training mode; call model.eval() before passing it.")
        self.model, self.processor = model, processor
        size = model.config.vision_config.image_size
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        images = getattr(processor, "image_processor", None)
        self.mean = torch.tensor(getattr(images, "image_mean", None) or [0.5] * 3)
        self.std = torch.tensor(getattr(images, "image_std", None) or [0.5] * 3)

    @torch.no_grad()
    def shares(self, pixels: Sequence[Tensor], question: str) -> Tensor:
        """Softmax over patches of the scaled similarities.

        Parameters
        ----------
        pixels
            N tensors ``[3, H, W]`` in [0, 1].
        question
            In words.

        Returns
        -------
        Tensor
            ``[N]`` float32, adding up to one.
        """
        weight = next(self.model.parameters())
        x = torch.empty(len(pixels), 3, *self.size, device=pixels[0].device)
        for rows in by_key([p.shape for p in pixels]).values():
            x[rows] = resize(torch.stack([pixels[i] for i in rows]), *self.size, mode="bicubic")
        x = (x - self.mean.to(x)[:, None, None]) / self.std.to(x)[:, None, None]
        text = self.processor(text=[question], padding="max_length", truncation=True, return_tensors="pt")
        images = _pooled(self.model.get_image_features(pixel_values=x.to(weight)))
        words = _pooled(self.model.get_text_features(**{k: v.to(weight.device) for k, v in text.items()}))
        cosine = F.normalize(images, dim=-1) @ F.normalize(words, dim=-1)[0]
        return (cosine * self.model.logit_scale.float().exp()).softmax(0).to(x.device)


def _pooled(features: Any) -> Tensor:
    pooled: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return pooled.float()
