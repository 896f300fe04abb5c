"""The loss of every stage with words: documents, transcripts of pictures, forms, questions and answers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import Qwen2_5_VLForConditionalGeneration

from .batches import IGNORE, Batch
from .run import Loss
from .vision import attend, rotate

DENSE = {"read": 1, "fill": 2, "pairs": 3, "paint": 4}
"""Blocks of many targets, scored token by token."""


def hidden_states(model: Qwen2_5_VLForConditionalGeneration, embedded: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The stock language model on packed rows, through its own modules in its own order: ``[B, L, width]``."""
    lm = model.model.language_model
    b, length, _ = embedded.shape
    x = embedded
    cos, sin = (c[:, None] for c in lm.rotary_emb(x, batch.positions))
    allowed = batch.mask()
    mask = torch.zeros(allowed.shape, dtype=x.dtype, device=x.device).masked_fill(~allowed, -1e9)
    for layer in lm.layers:
        attention = layer.self_attn
        size = attention.head_dim
        z = norm(layer.input_layernorm, x)

        def heads(y: torch.Tensor, size: int = size) -> torch.Tensor:
            return y.view(b, length, -1, size).transpose(1, 2)

        q = rotate(heads(attention.q_proj(z)), cos, sin)
        k = rotate(heads(attention.k_proj(z)), cos, sin)
        v = heads(attention.v_proj(z))
        read = attend(q.to(v.dtype), k.to(v.dtype), v, mask.to(v.dtype))
        x = x + attention.o_proj(read.transpose(1, 2).reshape(b, length, -1))
        x = x + layer.mlp(norm(layer.post_attention_layernorm, x))
    return norm(lm.norm, x)


def norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    """A stock RMS norm by the fused kernel."""
    return F.rms_norm(x, (x.shape[-1],), module.weight, module.variance_epsilon)


def answer_loss(model: Qwen2_5_VLForConditionalGeneration, batch: Batch, vision: torch.Tensor | None = None) -> Loss:
    """Cross entropy of transcripts, forms, colours and answers, in equal parts, and exact answers by kind.

    ``vision`` ``[image tokens, width]`` replaces the embeddings of image tokens.
    """
    embedded = model.model.language_model.embed_tokens(batch.ids)
    if vision is not None:
        embedded = embedded.masked_scatter((batch.ids == model.config.image_token_id)[..., None], vision)
    hidden = hidden_states(model, embedded, batch)
    scored = batch.labels != IGNORE
    labels = batch.labels[scored]
    logits = model.lm_head(hidden[scored]).float()
    each = F.cross_entropy(logits, labels, reduction="none")
    sorts = torch.tensor([[DENSE.get(k, 0) for k in kinds] for kinds in _even(batch.kinds)])
    row, _ = scored.nonzero(as_tuple=True)
    sort = sorts[row.cpu(), batch.block[scored].cpu() - 1].to(each.device)
    loss = torch.stack([each[sort == s].mean() for s in range(len(DENSE) + 1) if (sort == s).any()]).mean()
    metrics: dict[str, tuple[float, int]] = {}
    right = logits.argmax(-1) == labels
    for kind, s in DENSE.items():
        if (sort == s).any():
            metrics[kind] = (float(right[sort == s].sum()), int((sort == s).sum()))
    whole = torch.ones_like(batch.block, dtype=torch.bool)
    whole[scored] = right
    counts: dict[str, list[float]] = {}
    for i, kinds in enumerate(batch.kinds):
        for j, kind in enumerate(kinds, 1):
            if kind not in DENSE:
                counts.setdefault(kind, []).append(float(whole[i][batch.block[i] == j].all()))
    metrics |= {kind: (sum(v), len(v)) for kind, v in counts.items()}
    return loss, metrics


def _even(kinds: list[list[str]]) -> list[list[str]]:
    longest = max(map(len, kinds))
    return [row + [""] * (longest - len(row)) for row in kinds]
