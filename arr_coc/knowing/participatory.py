"""Participatory knowing: how strongly this question is coupled to each patch.

The coupling is only meaningful in an aligned space, so each variant borrows one: the wrapped model's own attention
(read from q and k over the glance, DESIGN of "glance attention"; compare Zhang et al., "MLLMs know where to look",
ICLR 2025), the wrapped model's embedding space, or a contrastive image-text model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import nearest
from .base import Scorer
from .reading import SHARES

if TYPE_CHECKING:
    from ..scene.contract import Scene

VARIANTS = ("attention", "embedding", "siglip", "clip")


PLACES = ("first", "between", "last")
"""Patches by their place in the prompt: sinks stand at its ends."""


def place_of(cell: int, rows: int, columns: int) -> int:
    """Where a cell of a grid lies on a grid of 8 x 8, in raster order: the resolution of a position prior."""
    row, column = divmod(cell, columns)
    return row * 8 // rows * 8 + column * 8 // columns


def word_map(tokens: Tensor, words: Tensor, sharpness: float = 10.0) -> Tensor:
    """Similarity of glance tokens to the words of a question that single some of them out.

    No list of function words, which would tie this to one language and tokenizer. A word that no token prefers says
    nothing about where to look, so each word counts by its *selectivity*: how far its best token stands above its mean
    over all tokens.

    Parameters
    ----------
    tokens
        ``[G, D]`` glance tokens of one question.
    words
        ``[Q, D]`` input embeddings of the question's words.
    sharpness
        Inverse temperature of the weights: a word with 0.1 more selectivity weighs e times as much at 10.

    Returns
    -------
    Tensor
        ``[G]`` weighted mean of centred cosines, cut at zero: in [0, 1].
    """
    # Both sides are centred: what all tokens or all words share would make every cosine alike.
    tokens = F.normalize(tokens.float() - tokens.float().mean(0), dim=-1)
    words = words.to(tokens)
    words = F.normalize(words - words.mean(0) if len(words) > 1 else words, dim=-1)
    cosine = words @ tokens.T
    weight = ((cosine.amax(1) - cosine.mean(1)) * sharpness).softmax(0)
    return (weight @ cosine.clamp_min(0)).clamp(0, 1)


def attention_map(attention: Tensor, sizes: Sequence[int], sharp: bool, peak: bool = False) -> Tensor:
    """Attention of several layers, joined and normalised.

    Parameters
    ----------
    attention
        ``[L, H, G]`` attention mass of each layer's heads on each glance token, or ``[n, G]`` of single heads.
    sizes
        Glance tokens per patch; they add up to G.
    sharp
        Weigh each head by the square of the largest mass it lays on one patch. A head that always looks at the same
        cell, a sink, weighs most then: for models whose heads were trained to ground. Else each layer is the mean of
        its heads, normalised, and layers count alike.
    peak
        Join layers by their maximum instead of their mean.

    Returns
    -------
    Tensor
        ``[G]``, adding up to one: where a look at the image goes.
    """
    maps = attention.float()
    if not bool(maps.sum().isfinite()):
        raise ValueError("The glance attention holds NaN or infinite values; check the model's weights and dtype.")
    if sharp:
        maps = maps.flatten(0, -2)
        mass = torch.stack([part.sum(-1) for part in maps.split(list(sizes), -1)], -1)
        maps = maps * mass.amax(-1, keepdim=True).square()
    else:
        maps = maps.mean(-2) if maps.ndim == 3 else maps
        maps = maps / maps.sum(-1, keepdim=True).clamp_min(1e-12)
    joined = maps.amax(0) if peak else maps.mean(0)
    total = joined.sum()
    return joined / total if total > 0 else torch.full_like(joined, 1 / joined.numel())


def _tensor(name: str, numbers: Any) -> Tensor | None:
    try:
        return None if numbers is None else torch.tensor(numbers, dtype=torch.float32)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{name}={str(numbers)[:80]} must be numbers ({error})") from error


def _finite(numbers: Tensor, least: float) -> bool:
    return bool(((numbers >= least) & numbers.isfinite()).all())


class Participatory(Scorer):
    """Coupling of question and patch.

    Parameters
    ----------
    variant
        ``"attention"``: share of the last prompt token's attention that falls on the patch; adds up to one over the
        patches of a question. ``"embedding"``: largest centred cosine between a glance token of the patch and the
        words that single tokens out. ``"siglip"``, ``"clip"``: share of the patch in the softmax of image-text
        similarities.
    layers
        Layers of the language model whose attention is read: negative ones count from the end, and a float in [0, 1)
        is a share of the depth. The glance pass stops after the last one. By default the band of depth where
        pretrained models ground, or what the model brings of its own (see `arr_coc.knowing.reading`).
    heads
        ``"mean"``: all heads of a layer alike; ``"sharp"`` gives more weight to heads that look at one patch; or a
        list of (layer, head) pairs, in which case ``layers`` is ignored. See `attention_map`.
    weights
        One per layer, not negative: the map is then the weighted mean of the layers'.
    prior
        ``[3, 64]`` how many times its even share each place draws whatever is asked (see `PLACES` and `place_of`): the
        map is divided by it. Both come from `arr_coc.calibrate`.
    model, processor
        For ``"siglip"`` and ``"clip"``: a name or folder for transformers, or a loaded model with its processor.

    Raises
    ------
    ValueError, TypeError
        For an unknown variant, no layers, malformed heads, or a missing or superfluous model.
    """

    name = "participatory"
    reads_question = True

    def __init__(
        self,
        variant: str = "attention",
        layers: Sequence[float] = SHARES,
        heads: str | Sequence[tuple[int, int]] = "mean",
        weights: Sequence[float] | None = None,
        prior: Sequence[Sequence[float]] | None = None,
        model: Any = None,
        processor: Any = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant={variant!r} is unknown. {nearest(variant, VARIANTS)}")
        paired = variant in ("siglip", "clip")
        if paired is not (model is not None):
            rule = "needs model=, a name or a loaded model" if paired else "uses the wrapped model; leave model= out"
            raise ValueError(f"variant={variant!r} {rule}.")
        if isinstance(heads, str):
            if heads not in ("mean", "sharp"):
                raise ValueError(f"heads={heads!r} must be 'mean', 'sharp' or a list of (layer, head) pairs.")
            self.layers, self.heads = tuple(layers), None
        else:
            self.heads = [(int(layer), int(head)) for layer, head in heads]
            self.layers = tuple(sorted({layer for layer, _ in self.heads}))
        if not self.layers:
            raise ValueError(f"layers={layers!r}, heads={heads!r} name no layer to read; give at least one.")
        self.variant, self.sharp = variant, heads == "sharp"
        self.weights, self.prior = _tensor("weights", weights), _tensor("prior", prior)
        if self.weights is not None and (
            heads != "mean" or self.weights.shape != (len(self.layers),) or not _finite(self.weights, 0)
        ):
            raise ValueError(
                f"weights={weights!r} must be one finite number >= 0 for each of layers={layers!r}, heads='mean'."
            )
        if self.prior is not None and (self.prior.shape != (len(PLACES), 64) or not _finite(self.prior, 1e-9)):
            raise ValueError(f"prior must hold {len(PLACES)} x 64 positive finite numbers; see arr_coc.calibrate.")
        self.more_readings = ("peak",) if variant == "attention" else ()
        self.needs = frozenset({"pixels"} if paired else {"glance"})
        if paired:
            from .paired import Paired

            self.paired = Paired(model, processor)

    def score(self, scene: Scene) -> Tensor:
        """``[N]`` scores; see the class."""
        cells = self.cell_map(scene)
        if not cells:
            return torch.zeros(0)
        if self.variant == "embedding":
            return torch.stack([c.amax() for c in cells])
        return torch.stack([c.sum() for c in cells]).clamp(0, 1)

    @torch.no_grad()
    def cell_map(self, scene: Scene) -> list[Tensor]:
        """Coupling of every glance cell.

        Returns
        -------
        list of Tensor
            Per patch ``[g_i]``, in the raster order of its glance grid. For ``"attention"`` all cells of the question
            add up to one; an image-text model sees whole patches, so its share is spread evenly over the cells.
        """
        sizes = [rows * columns for rows, columns in scene.glance_grids]
        if not sizes:
            return []
        if self.variant in ("siglip", "clip"):
            from .pixels import scene_pixels

            shares = self.paired.shares(scene_pixels(scene, self.variant), scene.question)
            return [share.expand(size) / size for share, size in zip(shares, sizes, strict=True)]
        if self.variant == "embedding":
            if len(scene.question_embeddings) == 0:
                raise ValueError("The question has no words; ask one, or use a policy that needs no question.")
            joined = word_map(torch.cat(list(scene.glance)), scene.question_embeddings)
        else:
            joined = self._less_prior(self._joined(scene, sizes), scene)
        return list(joined.split(sizes))

    def _joined(self, scene: Scene, sizes: Sequence[int]) -> Tensor:
        attention = self._attention(scene, sizes)
        if self.weights is None:
            return attention_map(attention, sizes, self.sharp)
        maps = torch.stack([attention_map(layer[None], sizes, False) for layer in attention])
        return self.weights @ maps / self.weights.sum().clamp_min(1e-12)

    def _less_prior(self, joined: Tensor, scene: Scene) -> Tensor:
        if self.prior is None:
            return joined
        last = len(scene.glance_grids) - 1
        drawn = [
            self.prior[0 if i == 0 else 2 if i == last else 1, place_of(cell, rows, columns)]
            for i, (rows, columns) in enumerate(scene.glance_grids)
            for cell in range(rows * columns)
        ]
        relative = joined / torch.stack(drawn)
        return relative / relative.sum().clamp_min(1e-12)

    def readings(self, scene: Scene) -> dict[str, Tensor]:
        """``peak``: as the score, with the maximum over layers (or single heads) in the place of their mean."""
        sizes = [rows * columns for rows, columns in scene.glance_grids]
        if not self.more_readings or not sizes:
            return {}
        joined = attention_map(self._attention(scene, sizes), sizes, sharp=False, peak=True)
        joined = self._less_prior(joined, scene)
        return {"peak": torch.stack([part.sum() for part in joined.split(sizes)])}

    def _attention(self, scene: Scene, sizes: Sequence[int]) -> Tensor:
        attention = scene.read_attention(self.layers)
        if attention.shape[-1] != sum(sizes):
            raise ValueError(f"read_attention gave {attention.shape[-1]} cells, the glance grids {sum(sizes)}.")
        if self.heads is not None:
            attention = torch.stack([attention[self.layers.index(layer), head] for layer, head in self.heads])
        return attention
