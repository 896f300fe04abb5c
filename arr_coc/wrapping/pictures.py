"""The last pictures: a question about a picture that was asked about before reads only its own words."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..families import Features
from ..families.compat import output_cache, plain_cache
from ..realizing import Grid, Realised
from .prefill import Reading


@dataclass
class Picture:
    """What is known of a question's pictures.

    Attributes
    ----------
    realised
        Their features with every patch at its floor.
    full
        The untouched model's features, where they were computed.
    reading
        The last prompt about them that the whole language model read, if its cache can be cropped.
    kept
        What scorers have worked out from the pictures alone.
    """

    realised: Realised
    full: Features | None
    reading: Reading | None
    kept: dict[Any, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes that its tensors take."""
        reading = self.reading
        parts: list[Any] = [self.realised.streams, self.realised.like, self.kept]
        if self.full is not None:
            parts += [self.full.streams, self.full.output]
        if reading is not None:
            layers = [layer for layer in output_cache(reading.output).layers if layer.is_initialized]
            parts += [reading.inputs, reading.features, reading.output, [(each.keys, each.values) for each in layers]]
        storages = [tensor.untyped_storage() for tensor in _tensors(parts)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors inside of lists, tuples and mappings (a model's output is one)."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _add(digest: Any, value: Any) -> None:
    """All of a value, to the bit: what is printed of arrays and tensors are their corners."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist() if value.dtype == object else torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"{{{len(value)}".encode())
        for name in sorted(value):
            _add(digest, name)
            _add(digest, value[name])
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for part in value:
            _add(digest, part)
    elif value is None or isinstance(value, str | bytes | int | float):
        digest.update(f"{value!r},".encode())
    else:  # of what nobody knows no two are taken for the same
        digest.update(secrets.token_bytes())


class PictureCache:
    """The last pictures, as many as fit into so many bytes.

    Keyed by the pixels, to the bit, and by the grids of their floors; it belongs to one wrapped model.

    Parameters
    ----------
    limit
        Bytes; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._known: OrderedDict[bytes, tuple[int, Picture]] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes held now; never more than ``limit``."""
        return sum(size for size, _ in self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Let go of everything."""
        self._known.clear()

    def key(self, images: Mapping[str, Any], grids: Sequence[Grid]) -> bytes:
        """Of a question's image inputs."""
        digest = hashlib.blake2b(repr(list(grids)).encode(), digest_size=32)
        _add(digest, images)
        return digest.digest()

    def get(self, key: bytes) -> Picture | None:
        """What is known of a picture; it counts as used."""
        if key not in self._known:
            return None
        self._known.move_to_end(key)
        return self._known[key][1]

    def put(self, key: bytes, picture: Picture) -> None:
        """Keep a picture, and let go of the ones that were used longest ago for it."""
        reading = picture.reading
        if reading is not None and not plain_cache(output_cache(reading.output)):
            picture.reading = None
        self._known.pop(key, None)
        size = picture.size
        if size <= self.limit:
            self._known[key] = size, picture
        while self.size > self.limit:
            self._known.popitem(last=False)
