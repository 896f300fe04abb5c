"""rescale: resize each patch to its budget's grid *before* the vision tower, so that the tower saves too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import cast

import torch

from ..families import Family, Features, RescalingFamily, Segment
from ..scene.patches import Patch
from .base import Encoded, Realised, Realizer, register_realizer
from .call import Call, Grid


@register_realizer
class Rescale(Realizer):
    """Patches of one image see each other in the tower, from where they stood ("joint").

    An image that is one patch is simply a smaller image: the model runs on it exactly as it would on that image, at
    that image's own positions, and a glance of it is reused. In an image of several patches every patch is encoded
    again when one of them changes, since all of them see it; where none does, the glance is reused. Towers that can't
    be told where a patch stood (``can_join`` of the family is False) get every patch of such an image as an image of
    its own.
    """

    name = "rescale"
    before_tower, joint = True, True

    def check(self, family: Family) -> None:
        if not family.can_rescale:
            raise ValueError(
                f"realizer={self.name!r} can't be used with this family of layout {type(family).__name__}: its tower "
                "takes pictures of one size. Use realizer='pool' or 'select'."
            )

    def bought(self, family: Family, patch: Patch, tokens: int) -> Grid:
        return cast(RescalingFamily, family).resized_grid(patch.height, patch.width, tokens)

    def reduce(self, call: Call, grids: Sequence[Grid], known: Encoded) -> Realised:
        parts: list[tuple[torch.Tensor, Features]] = []  # feature rows of the call, and what fills them
        segments: list[Segment] = []
        rows: list[torch.Tensor] = []
        keys: list[tuple[tuple[int, Grid], ...]] = []

        def fill(members: list[int], places: torch.Tensor, segment: Segment) -> None:
            key = tuple((i, grids[i]) for i in members)
            if key in known:
                parts.append((places, known[key]))
            else:
                keys.append(key)
                rows.append(places)
                segments.append(segment)

        joint = self.joint and call.family.can_join
        compact = [False] * len(call.entries)
        for entry, members in groupby(range(len(call.patches)), key=lambda i: call.patches[i].entry):
            group = list(members)
            if all(call.native(i, grids[i]) for i in group):
                fill(group, torch.arange(call.starts[entry], call.starts[entry + 1]), Segment((), (), False, entry))
                continue
            compact[entry] = len(group) == 1
            for segment in self._segments(call, group, joint):
                own = len(segment) == 1 and (not joint or len(group) == 1)
                patches, chosen = tuple(call.patches[i] for i in segment), tuple(grids[i] for i in segment)
                anchors = torch.cat([call.anchors(p, g) for p, g in zip(patches, chosen, strict=True)])
                fill(segment, anchors, Segment(patches, chosen, own, entry))
        encoded: Encoded = {}
        if segments:
            features = cast(RescalingFamily, call.family).encode_resized(call.model, call.inputs, segments)
            sizes = [len(places) for places in rows]
            split = zip(*(stream.split(sizes) for stream in features.streams), strict=True)
            encoded = {key: Features(one, features.output) for key, one in zip(keys, split, strict=True)}
            parts += zip(rows, encoded.values(), strict=True)
        where = torch.cat([filled for filled, _ in parts])
        if len(parts) > len(keys) or bool((where[1:] < where[:-1]).any()):
            order = where.argsort()
            streams = tuple(
                torch.cat(same)[order.to(same[0].device)]
                for same in zip(*(features.streams for _, features in parts), strict=True)
            )
        else:  # all was encoded just now, in order
            streams = features.streams
        keep = torch.zeros(call.starts[-1], dtype=torch.bool)
        keep[where] = True
        return Realised(keep, streams, parts[-1][1].output, None, compact, encoded)

    def _segments(self, call: Call, group: list[int], joint: bool) -> list[list[int]]:
        """Which patches of an entry share an attention segment: those of one view, or each its own."""
        if not joint:
            return [[i] for i in group]
        return [list(view) for _, view in groupby(group, key=lambda i: call.patches[i].view)]


@register_realizer
class RescaleSeparate(Rescale):
    """Every reduced image is encoded patch by patch, each its own attention segment.

    Unchanged patches reuse their glance, so the tower pays only for the chosen ones. The price: patches no longer see
    each other in the tower, which is not how the model was trained, unless its images are patches already.
    """

    name = "rescale-separate"
    joint = False
