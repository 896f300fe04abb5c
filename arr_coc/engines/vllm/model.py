"""The model inside the engine: vLLM's transformers backend, whose images may carry a grid for each of their patches.

An item without grids takes the backend's own way, untouched. One with grids is realised by the same code as in the
wrapper, tower, resizing, positions and all, so that no family is described twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from vllm.model_executor.models.transformers import (
    MultiModalDummyInputsBuilder,
    MultiModalProcessingInfo,
    MultiModalProcessor,
)
from vllm.model_executor.models.transformers.causal import CausalMixin
from vllm.model_executor.models.transformers.moe import MoEMixin
from vllm.model_executor.models.transformers.multimodal import MultiModalMixin
from vllm.multimodal import MULTIMODAL_REGISTRY

from ...families import family_for
from ...realizing import make_realizer
from ...realizing.base import Realised
from ...realizing.call import Call, Grid
from ...realizing.rescale import Rescale
from ...realizing.splice import positions_of
from ..prompt import compact_entries, kept_rows, kept_tokens
from .kept import Kept
from .names import ENTRIES, GRIDS, NAMED, OPTION

_NOT_INPUTS = ("num_image_patches", GRIDS, ENTRIES, NAMED)


class Budgets:
    """Mixed into a multi-modal model of the transformers backend."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        backend: Any = super()
        backend.__init__(vllm_config=vllm_config, prefix=prefix)
        me: Any = self
        options = getattr(me.config, OPTION, None) or {}
        self.budget_family = family_for(me.model)
        self.budget_realizer = make_realizer(options.get("realizer", "auto"), self.budget_family)
        self.budget_side = int(options.get("patch_side", 20))
        self.budget_positions = options.get("positions", "auto")
        self.levels = DeepStack.of(me)
        self.kept = Kept.by_environment()

    def load_weights(self, weights: Any) -> Any:
        """As of the backend; features of other weights are forgotten."""
        self.kept.clear()
        backend: Any = super()
        return backend.load_weights(weights)

    def _call(self, inputs: Mapping[str, Any], ids: torch.Tensor) -> Call:
        me: Any = self
        given = {**inputs, "input_ids": ids[None], "attention_mask": torch.ones_like(ids[None])}
        given["mm_token_type_ids"] = (given["input_ids"] == self.budget_family.image_token(me.model)).int()
        return Call(me.model, self.budget_family, given, self.budget_side)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Features of a batch of items, one tensor ``[tokens, D]`` each."""
        grids, names = kwargs.pop(GRIDS, None), kwargs.pop(NAMED, None)
        ours = grids is not None or self.levels is not None or ENTRIES in kwargs
        if not ours or "pixel_values" not in kwargs:
            backend: Any = super()
            return backend.embed_multimodal(**kwargs)
        me: Any = self
        inputs = {name: value for name, value in kwargs.items() if name not in _NOT_INPUTS}
        entries = self.budget_family.layout(me.model, inputs)
        if grids is None:  # full detail, where the backend's own way knows no DeepStack, or one entry per item
            call = self._encoded(inputs, [entry.count for entry in entries])
            chosen: list[Grid] = [(patch.height, patch.width) for patch in call.patches]
            owners = [patch.entry for patch in call.patches]
            counts = kwargs[ENTRIES].flatten().tolist() if ENTRIES in kwargs else [1] * len(entries)
            edges = [0, *accumulate(counts)]
            members = [sum(first <= owner < last for owner in owners) for first, last in pairwise(edges)]
            return _per_item(call, self.budget_realizer.realize(call, chosen), members)
        labels = [name.tolist() for name in names]
        found = [self.kept.of(label) for label in labels]
        missing = [number for number, features in enumerate(found) if features is None]
        if missing:
            if len(missing) < len(found):  # an item with grids is one entry
                inputs = self.budget_family.take(me.model, inputs, missing)
            call = self._encoded(inputs, [entries[number].count for number in missing])
            own = [[(int(rows), int(columns)) for rows, columns in grids[number].tolist()] for number in missing]
            encoded = _per_item(call, self.budget_realizer.realize(call, sum(own, [])), [len(part) for part in own])
            for number, features in zip(missing, encoded, strict=True):
                found[number] = features
                if labels[number][-1]:
                    self.kept.put(labels[number], features)
        return found

    def _encoded(self, inputs: Mapping[str, Any], counts: Sequence[int]) -> Call:
        """The call of image inputs without a prompt, ``counts`` placeholders for each entry."""
        me: Any = self
        device = inputs["pixel_values"].device
        moved = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in inputs.items()}
        return self._call(moved, torch.full((sum(counts),), self.budget_family.image_token(me.model)))

    def embed_input_ids(
        self, input_ids: torch.Tensor, multimodal_embeddings: Any = None, *, is_multimodal: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embeddings of the tokens of a step, with the features in their places."""
        if self.levels is not None and multimodal_embeddings is not None and len(multimodal_embeddings):
            multimodal_embeddings = self.levels.put(multimodal_embeddings, is_multimodal, len(input_ids))
        backend: Any = super()
        found: torch.Tensor = backend.embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        backend: Any = super()
        output = backend.forward(*args, **kwargs)
        if self.levels is not None:
            self.levels.clear()
        return output

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[torch.Tensor, int]:
        """Positions ``[3, L]`` of a prompt, and by how much later tokens are shifted."""
        features = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        if not any({GRIDS, ENTRIES} & set(feature.data or {}) for feature in features):
            backend: Any = super()
            return backend.get_mrope_input_positions(input_tokens, mm_features)
        me: Any = self
        sizes = torch.cat([feature.data["image_grid_thw"].data.reshape(-1, 3) for feature in features]).cpu()
        if (smaller := self._smaller(features)) is not None:
            return self._own_positions(input_tokens, smaller)
        # The layout asks the pixels for no more than their number.
        inputs = {"image_grid_thw": sizes, "pixel_values": torch.empty(int(sizes.prod(1).sum()), 0)}
        token = self.budget_family.image_token(me.model)
        entries = self.budget_family.layout(me.model, inputs)
        bare = self._call(inputs, torch.full((sum(entry.count for entry in entries),), token))
        grids = _grids(bare, features)
        keep = kept_rows(bare, grids)
        counts = [int(part.sum()) for part in keep.split([entry.count for entry in entries])]
        full = _expanded(input_tokens, token, counts, [entry.count for entry in entries])
        call = self._call(inputs, torch.tensor(full))
        compact = compact_entries(call, grids, isinstance(self.budget_realizer, Rescale))
        realised = Realised(keep, (), None, None, compact)
        stays = kept_tokens(call, keep)
        placed, deltas = positions_of(call, realised, self.budget_positions, stays[None], 0)
        assert placed is not None and deltas is not None  # only models with M-RoPE are asked
        return placed[:, 0, stays], int(deltas[0])

    def _smaller(self, features: Sequence[Any]) -> torch.Tensor | None:
        """``[entries, 3]`` sizes of the smaller images that a prompt's entries are; None if some are cut in patches.

        At its own positions, an image of one patch is the very image that the model would see at that size.
        """
        if not isinstance(self.budget_realizer, Rescale) or self.budget_positions == "keep":
            return None
        me: Any = self
        merge, sizes = int(getattr(me.config.vision_config, "spatial_merge_size", 1)), []
        for feature in features:
            own = feature.data["image_grid_thw"].data.reshape(-1, 3)
            if GRIDS in feature.data:
                grids = feature.data[GRIDS].data
                if len(grids) != len(own) or int(own[:, 0].max()) > 1:
                    return None
                own = torch.cat([own[:, :1], merge * grids.to(own)], 1)
            sizes.append(own)
        return torch.cat(sizes).cpu()

    def _own_positions(self, tokens: Sequence[int], sizes: torch.Tensor) -> tuple[torch.Tensor, int]:
        """The model's own positions ``[3, L]`` of a prompt with images of these sizes, and the shift behind it."""
        me: Any = self
        ids = torch.tensor(tokens)[None]
        images = (ids == self.budget_family.image_token(me.model)).int()
        inputs = {"input_ids": ids, "image_grid_thw": sizes, "mm_token_type_ids": images}
        found = self.budget_family.positions(me.model, inputs, torch.ones_like(ids))
        assert found is not None  # only models with M-RoPE are asked
        return found[0][:, 0], int(found[1][0])


class DeepStack:
    """Features that join the hidden states behind the first layers of the decoder (Qwen3-VL).

    The transformers backend has no place for them. They travel behind an item's features,
    ``[tokens, D (1 + levels)]``, wait here for the step's forward pass, and a hook behind each of those layers adds
    them.
    """

    def __init__(self, model: Any, levels: int) -> None:
        rows = model.vllm_config.scheduler_config.max_num_batched_tokens
        self.width, self.used = int(model.text_config.hidden_size), 0
        self.rows = [
            torch.zeros(rows, self.width, dtype=model.model_config.dtype, device=model.device_config.device)
            for _ in range(levels)
        ]
        for level, layer in enumerate(model.model.get_decoder().layers[:levels]):
            layer.register_forward_hook(self._hook(level))

    @classmethod
    def of(cls, model: Any) -> DeepStack | None:
        """For a model with such levels, else None."""
        indices = getattr(model.config.vision_config, "deepstack_visual_indexes", None)
        return cls(model, len(indices)) if indices else None

    def _hook(self, level: int) -> Any:
        def add(module: Any, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = hidden + self.rows[level][: hidden.shape[-2]]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return add

    def put(self, features: Sequence[torch.Tensor], places: torch.Tensor | None, tokens: int) -> list[torch.Tensor]:
        """Keep the levels of a step's features, and return what belongs into the embeddings."""
        assert places is not None
        joined = torch.cat(list(features))
        for level, rows in enumerate(self.rows):
            rows[:tokens] = 0
            rows[:tokens][places[:tokens]] = joined[:, (level + 1) * self.width : (level + 2) * self.width].to(rows)
        self.used = tokens
        return [part[:, : self.width] for part in features]

    def clear(self) -> None:
        """Forget a step."""
        if self.used:
            for rows in self.rows:
                rows[: self.used] = 0
            self.used = 0


def _per_item(call: Call, realised: Realised, patches: Sequence[int]) -> list[torch.Tensor]:
    """The features of every item, given how many patches each has."""
    counts = [int(part.sum()) for part in realised.keep.split([entry.count for entry in call.entries])]
    sizes, first = [], 0
    for number in patches:
        own = {patch.entry for patch in call.patches[first : first + number]}
        sizes.append(sum(counts[entry] for entry in own))
        first += number
    return list(torch.cat(realised.streams, 1).split(sizes))


def _grids(call: Call, features: Sequence[Any]) -> list[Grid]:
    """Per patch of a prompt its grid; an item without any is at full detail."""
    grids: list[Grid] = []
    for feature in features:
        if GRIDS in feature.data:
            grids += [(int(rows), int(columns)) for rows, columns in feature.data[GRIDS].data.tolist()]
            continue
        first = call.patches[len(grids)].entry
        entries = range(first, first + len(feature.data["image_grid_thw"].data.reshape(-1, 3)))
        grids += [(patch.height, patch.width) for patch in call.patches if patch.entry in entries]
    return grids


def _expanded(tokens: Sequence[int], image: int, kept: Sequence[int], full: Sequence[int]) -> list[int]:
    """A shortened prompt with all placeholders back: entry by entry, where its kept ones stand."""
    ids: list[int] = []
    entry, inside = 0, 0
    for token in tokens:
        if token == image:
            inside += 1
            if inside == kept[entry]:
                ids += [image] * full[entry]
                entry, inside = entry + 1, 0
        else:
            ids.append(token)
    return ids


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=MultiModalProcessingInfo, dummy_inputs=MultiModalDummyInputsBuilder
)
class BudgetedVLM(Budgets, MultiModalMixin, CausalMixin):
    """A vision-language model with dense layers."""


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=MultiModalProcessingInfo, dummy_inputs=MultiModalDummyInputsBuilder
)
class BudgetedMoEVLM(Budgets, MoEMixin, MultiModalMixin, CausalMixin):
    """One with mixtures of experts."""
