"""What a foreign model's configuration may declare: sizes that can be built, pictures that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .images import MAX_PIXELS

LARGEST = 2**40
"""Any number. Positions, vocabularies and pixels are far below it."""
MOST_PARTS = 2000
"""Layers, blocks or experts: each is an object, whether or not there are weights for it."""
LONGEST_SIDE = 20_000
"""Side of the pictures that an image processor makes, in pixels."""
_PARTS = ("layer", "depth", "block", "expert")


def check_config(name: str, values: Mapping[str, Any]) -> None:
    """Refuse a configuration that could not be built, before anything is.

    Raises
    ------
    ValueError
        Naming the key and its value.
    """
    for key, value in _numbers(values, ""):
        parts = isinstance(value, int) and any(word in key.rpartition(".")[2] for word in _PARTS)
        most = MOST_PARTS if parts else LARGEST
        if not math.isfinite(value) or abs(value) > most:
            raise ValueError(f"config.json of {name} says {key}={value!r:.40}; at most {most:,} can be")


def check_pictures(name: str, processor: Any) -> None:
    """Refuse an image processor that would make any picture huge.

    Raises
    ------
    ValueError
        Naming the key and its value.
    """
    images = getattr(processor, "image_processor", processor)
    found = {part: getattr(images, part, None) for part in ("size", "crop_size", "pad_size", "min_pixels")}
    counted = found.pop("min_pixels") is not None  # those of Qwen2-VL and its kin count pixels, not sides
    for part, size in found.items():
        edges = dict(size) if isinstance(size, Mapping) else {"": size} if isinstance(size, int | float) else {}
        edges = {edge: value for edge, value in edges.items() if isinstance(value, int | float)}
        for edge, value in edges.items():
            most = MAX_PIXELS if counted else LONGEST_SIDE
            if not 0 < value <= most:
                raise ValueError(f"the image processor of {name} says {part}.{edge}={value!r:.40}; at most {most:,}")
        if not counted and edges.get("height", 1) * edges.get("width", 1) > MAX_PIXELS:
            raise ValueError(f"the image processor of {name} makes pictures of {edges}, above {MAX_PIXELS:,} pixels")


def _numbers(value: Any, key: str) -> list[tuple[str, int | float]]:
    found: list[tuple[str, int | float]] = []
    pending = [(key, value)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, Mapping):
            pending += [(f"{key}.{name}".lstrip("."), item) for name, item in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(key, item) for item in value]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((key, value))
    return found
