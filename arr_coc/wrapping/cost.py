"""What glance and look cost, before anybody looks: operations counted from a model's modules and one call's layout.

Matrix products only, two operations for each multiplication; weights are not read, so a model on the meta device
serves as well as a loaded one. Norms, activations, embeddings and the scorers are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..realizing.base import Realizer
from ..realizing.call import Call, Grid
from .prefill import WORTHWHILE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ELSEWHERE = ("audio", "vqmodel", "generation")
"""Beginnings of the names of modules that no image goes through."""
_CHOSEN = ("num_experts_per_tok", "moe_k", "moe_topk", "num_selected_experts")


@dataclass(frozen=True)
class Operations:
    """Operations of a model.

    Attributes
    ----------
    token
        Of its language model for each token read.
    pair
        Of its language model's full-attention layers for each pair of tokens that see one another.
    sliding, window
        The same of its sliding layers, and their window in tokens.
    tower, tower_pair
        Of its vision tower for each of the tower's own tokens, and for each pair of them in one segment.
    tower_local
        Of the tower's windowed layers for each token.
    merger
        Of what turns tower tokens into visual tokens, for each visual token.
    last_token, last_pair, last_sliding
        What a pass of which only the last token's end is read leaves out in the last layer (see
        `arr_coc.wrapping.passes`): a part of ``token``, ``pair`` and ``sliding``.
    """

    token: float
    pair: float
    sliding: float
    window: int
    tower: float
    tower_pair: float
    tower_local: float
    merger: float
    last_token: float = 0.0
    last_pair: float = 0.0
    last_sliding: float = 0.0

    @classmethod
    def of(cls, model: PreTrainedModel) -> Operations:
        """Count a model's; of experts only those that a token is sent to."""
        text, vision = model.config.get_text_config(), getattr(model.config, "vision_config", None)
        decoder, base = model.get_decoder(), model.base_model
        experts, chosen = _first(text, _EXPERTS), _first(text, _CHOSEN)
        active = chosen / experts if experts and chosen else 1.0
        heads = text.num_attention_heads
        width = 4.0 * heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)
        kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
        sliding = sum("sliding" in kind for kind in kinds)
        full = sum("attention" in kind and "linear" not in kind for kind in kinds) - sliding

        inside = set(decoder.modules())
        others = [m for m in base.modules() if m not in inside and m is not base and not inside & set(m.modules())]
        lists = [m for m in others if isinstance(m, nn.ModuleList) and len(m)]
        layers: Any = max(lists, key=len, default=nn.ModuleList())
        outside = sum(
            _products(child)
            for name, child in base.named_children()
            if not inside & set(child.modules()) and not name.startswith(_ELSEWHERE)
        )
        own = _products(layers)
        # Pixels are cut into the tower's tokens by a convolution whose steps are as long as it is wide.
        cuts = {m for part in others for m in part.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)}
        cut = sum(_products(m) for m in cuts - set(layers.modules()) if m.kernel_size == m.stride)
        channels = _first(vision, ("hidden_size", "embed_dim", "d_model")) if vision is not None else 0
        channels = getattr(vision, "embed_dim", None) or channels  # qwen2_vl calls its output hidden_size
        whole = getattr(vision, "fullatt_block_indexes", None)
        windowed = len(layers) - len(whole) if whole else 0
        area = (vision.window_size // vision.patch_size) ** 2 if windowed and vision is not None else 0
        return cls(
            token=_products(decoder.layers, active),
            pair=width * full,
            sliding=width * sliding,
            window=int(getattr(text, "sliding_window", None) or 0),
            tower=own + cut,
            tower_pair=4.0 * channels * (len(layers) - windowed),
            tower_local=4.0 * channels * windowed * area,
            merger=outside - own - cut,
            **_left_out(decoder, kinds[-1], active, width),
        )

    def read(self, new: float, past: float = 0, whole: bool = True) -> float:
        """Reading ``new`` tokens of a prompt after ``past`` that have been read; all that the last layer makes of them
        or, where not ``whole``, what the last token needs."""
        seen, part = past + new / 2, 0.0 if whole else 1.0
        token, pair, sliding = (
            made - part * left
            for made, left in (
                (self.token, self.last_token), (self.pair, self.last_pair), (self.sliding, self.last_sliding)
            )
        )  # fmt: skip
        return new * (token + pair * seen + sliding * min(seen, self.window or seen))

    def encode(self, segments: Sequence[float], visual: float) -> float:
        """Running the tower on segments of so many of its tokens, which become ``visual`` tokens."""
        alone = self.tower + self.tower_local
        return sum(n * (alone + self.tower_pair * n) for n in segments) + self.merger * visual


@dataclass(frozen=True)
class Forecast:
    """What one question will cost.

    Attributes
    ----------
    patches, tokens, floor
        Patches, visual tokens at full detail, and with every patch at its floor.
    words
        Other tokens of the prompt.
    untouched
        Operations of tower and prefill in the model as it is.
    glance
        Those of the glance; no more are needed where nothing is raised.
    looks
        Per patch those of glance and look where it is raised to full detail.
    tower
        The share of the tower in the untouched model's.
    given
        Those of the same tokens if nobody had to look: every patch at its floor, and one patch raised.
    reading
        Those of the language model in the glance.
    taken_over
        Those that a look is spared by what the glance has read: the mean over patches.
    """

    patches: int
    tokens: int
    floor: int
    words: int
    untouched: float
    glance: float
    looks: tuple[float, ...]
    tower: float
    given: tuple[float, float]
    reading: float
    taken_over: float

    @property
    def raised(self) -> float:
        """Those of glance and look where one patch is raised to full detail: the mean over patches."""
        return _mean(self.looks)

    @property
    def pays(self) -> bool:
        """Whether glance and look cost less than the untouched model, with one patch raised."""
        return self.raised < self.untouched


def forecast(call: Call, realizer: Realizer, floors: Sequence[Grid], operations: Operations) -> Forecast:
    """What glance and look will cost on one question (a call of one sample).

    Parameters
    ----------
    call
        The question.
    realizer
        How its patches are reduced.
    floors
        The grid of each patch at its floor.
    operations
        Of its model.
    """
    full = [patch.native for patch in call.patches]
    low = [rows * columns for rows, columns in floors]
    image = call.placeholders[0].cpu()
    glue = call.starts[-1] - sum(full)
    keep = torch.zeros(call.starts[-1], dtype=torch.bool)
    for patch, grid in zip(call.patches, floors, strict=True):
        keep[call.anchors(patch, grid)] = True
    kept = call.without_orphans(keep | _glue(call)) if glue else keep
    spare, words = int(kept.sum()) - sum(low), int((~image).sum())
    ratio = call.family.tower_tokens(call.model, call.inputs) / max(call.starts[-1], 1)
    tower = [ratio * entry.count for entry in call.entries]
    encoding = operations.encode(tower, call.starts[-1])
    untouched = encoding + operations.read(words + call.starts[-1])

    def encoded(raised: int | None, known: bool) -> float:
        """The tower's work with one patch raised, or none; ``known`` after a glance."""
        if not realizer.before_tower:
            return 0.0 if known else encoding
        joint = realizer.joint and call.family.can_join
        segments: dict[Any, list[int]] = {}
        for index, patch in enumerate(call.patches):
            segments.setdefault((patch.entry, patch.view) if joint else index, []).append(index)
        sizes = [
            sum(full[i] if i == raised else low[i] for i in members)
            for members in segments.values()
            if not known or raised in members
        ]
        return operations.encode([ratio * size for size in sizes], sum(sizes))

    reading = operations.read(words + sum(low) + spare, whole=False)
    glance = encoded(None, False) + reading
    places = image.nonzero().squeeze(1)
    before = kept.cumsum(0) - kept.long()
    looks, given, spared = [], [], []
    for index, patch in enumerate(call.patches):
        total = words + spare + sum(low) - low[index] + full[index]
        row = int(call.rows(patch)[0, 0])
        if realizer.before_tower and realizer.joint and call.family.can_join:
            row = call.starts[patch.entry] + call.entries[patch.entry].views[patch.view].first
        shared = int((~image[: int(places[row])]).sum()) + int(before[row]) if call.family.causal else 0
        shared = shared if shared >= WORTHWHILE * total else 0
        unread, whole = (operations.read(total - n, n, whole=False) for n in (shared, 0))
        looks.append(glance + encoded(index, True) + unread)
        given.append(encoded(index, False) + whole)
        spared.append(whole - unread)
    alone = glance, _mean(given)
    return Forecast(
        len(full),
        sum(full),
        sum(low),
        words,
        untouched,
        glance,
        tuple(looks),
        encoding / untouched,
        alone,
        reading,
        _mean(spared),
    )


def _glue(call: Call) -> torch.Tensor:
    """``[rows]`` bool: which feature rows belong to no patch."""
    glue = torch.ones(call.starts[-1], dtype=torch.bool)
    for patch in call.patches:
        glue[call.rows(patch).reshape(-1)] = False
    return glue


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _left_out(decoder: nn.Module, kind: str, active: float, width: float) -> dict[str, float]:
    """What is left out of the last layer, of a kind of attention: all but the last token's attention and what follows
    it, save its projections."""
    layers: Any = decoder.layers
    mlp = getattr(layers[-1], "mlp", None)
    if getattr(layers[-1], "self_attn", None) is None or not isinstance(mlp, nn.Module):
        return {}
    sliding = "sliding" in kind
    return {
        "last_token": _products(mlp, active), "last_pair": 0.0 if sliding else width,
        "last_sliding": width if sliding else 0.0,
    }  # fmt: skip


def _products(module: nn.Module, active: float = 1.0) -> float:
    """Operations of a module's matrix products for one token."""
    total = 0.0
    for name, part in module.named_modules():
        if isinstance(part, nn.Embedding):
            continue
        share = active if "experts" in name.split(".") else 1.0
        inputs, outputs = getattr(part, "in_features", None), getattr(part, "out_features", None)
        if isinstance(inputs, int) and isinstance(outputs, int):  # quantised weights are packed: their shape says less
            total += share * inputs * outputs
        else:
            total += share * sum(p.numel() for p in part.parameters(recurse=False) if p.ndim > 1)
    return 2 * total


def _first(config: Any, names: Sequence[str]) -> int:
    """The first of the settings that a config has, or 0."""
    return next((int(getattr(config, name)) for name in names if getattr(config, name, None)), 0)
