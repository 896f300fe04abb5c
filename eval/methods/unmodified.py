"""The model as it was: at full detail, without evidence, and on a smaller image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from .base import Method, register_method, wanted_share
from .fixed import Same

if TYPE_CHECKING:
    from arr_coc.learning.tasks import Sample

    from ..model.bench import Answer, Bench


@register_method("full")
@dataclass(kw_only=True)
class Full(Method):
    """The detached model at full detail: the reference in accuracy, tokens and time."""

    def answer(self, bench: Bench, samples: Sequence[Sample]) -> list[Answer]:
        return bench.untouched(samples)


@register_method("blind")
@dataclass(kw_only=True)
class Blind(Method):
    """What the question alone is worth: the image is flat mid-grey of the same size, every patch at the floor.

    The prompt keeps its form, so that a model that never saw a text-only prompt is not punished for the form. The
    tokens it spends are reported, although they carry nothing.
    """

    def answer(self, bench: Bench, samples: Sequence[Sample]) -> list[Answer]:
        grey = [Image.new("RGB", sample["image"].size, (128, 128, 128)) for sample in samples]
        return bench(samples, [Same(bench.budgets[0])] * len(samples), images=grey)


@register_method("downsample")
@dataclass(kw_only=True)
class Downsample(Method):
    """The detached model on a smaller image: the largest one, same aspect, whose tokens do not exceed the share.

    The baseline that most published methods lose to. Where the processor's grid is coarse it spends less than the
    share allows; where size changes nothing, it spends full detail. Both are reported as spent.
    """

    share: float | None = None

    def prepare(self, bench: Bench) -> None:
        self._share = wanted_share(self, bench)
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}

    def answer(self, bench: Bench, samples: Sequence[Sample]) -> list[Answer]:
        for sample in samples:
            size = sample["image"].size
            if size not in self._sizes:  # a processor goes by an image's size alone
                self._sizes[size] = self._smaller(bench, size, sample["question"])
        images = [_resized(sample["image"], self._sizes[sample["image"].size]) for sample in samples]
        return bench.untouched(samples, images=images)

    def _smaller(self, bench: Bench, size: tuple[int, int], question: str) -> tuple[int, int]:
        def tokens(size: tuple[int, int]) -> int:
            return bench.tokens(Image.new("RGB", size), question)

        full, smallest = tokens(size), _scaled(size, 0.0)
        if self._share >= 1 or tokens(smallest) >= full:
            return size  # nothing to save, or the processor gives this image the same tokens at every size
        low, high, best = 0.0, 1.0, smallest
        for _ in range(8):  # the scale to half a percent
            middle = (low + high) / 2
            candidate = _scaled(size, middle)
            if tokens(candidate) <= self._share * full:
                low, best = middle, candidate
            else:
                high = middle
        return best


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """A size at a scale of its sides, the shorter side at least 28 pixels (processors refuse less)."""
    scale = max(scale, min(1.0, 28 / min(size)))
    width, height = (max(1, math.floor(side * scale)) for side in size)
    return width, height
