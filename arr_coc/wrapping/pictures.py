"""The last pictures: a question about a picture that was asked about before reads only its own words."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from operator import eq
from typing import Any

import numpy as np
import torch

from ..families import Features
from ..families.compat import output_cache, plain_cache, whole_cache
from ..realizing import Encoded, Grid, Realised
from .prefill import Reading

LOOKS = 8
"""So many of the last looks at a picture are kept, the glance among them."""


@dataclass
class Look:
    """Pictures with every patch at some grid: a glance, or what was answered from.

    Attributes
    ----------
    encoded
        What the tower ran on for it.
    reading
        The last prompt that the whole language model read with it, if its cache can be cropped.
    """

    encoded: Encoded
    reading: Reading | None

    @cached_property
    def storages(self) -> dict[int, int]:
        """Bytes of the memory that its tensors lie in, by its address."""
        parts: list[Any] = [(features.streams, features.output) for features in self.encoded.values()]
        if self.reading is not None:
            read = self.reading
            layers = [layer for layer in output_cache(read.output).layers if layer.is_initialized]
            parts += [read.inputs, read.features, read.output, [(each.keys, each.values) for each in layers]]
        return _storages(parts)


@dataclass
class Picture:
    """What is known of a question's pictures.

    Attributes
    ----------
    realised
        Their features with every patch at its floor.
    full
        The untouched model's features, where they were computed.
    looks
        By the grids of all patches, the latest last.
    kept
        What scorers have worked out from the pictures alone.
    """

    realised: Realised
    full: Features | None = None
    looks: dict[tuple[Grid, ...], Look] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict)

    @property
    def encoded(self) -> Encoded:
        """All that the tower has run on."""
        return {key: features for look in self.looks.values() for key, features in look.encoded.items()}

    def nearest(self, grids: Sequence[Grid]) -> Reading | None:
        """The reading that agrees with these grids for the most patches, from the first on; the latest of several."""
        read = [(grid, look.reading) for grid, look in self.looks.items() if look.reading is not None]
        if not read:
            return None
        return max(reversed(read), key=lambda one: sum(1 for _ in takewhile(bool, map(eq, one[0], grids))))[1]

    def add(self, grids: Sequence[Grid], encoded: Encoded, reading: Reading | None) -> None:
        """Note a look, and let go of the oldest one where there are too many."""
        before = self.looks.pop(tuple(grids), None)
        if reading is not None and not _croppable(reading):
            reading = None
        if before is not None:
            encoded, reading = before.encoded | encoded, reading or before.reading
        self.looks[tuple(grids)] = Look(encoded, reading)
        if len(self.looks) > LOOKS:
            self.forget()

    def forget(self) -> bool:
        """Let go of the oldest look but the latest; whether there was one."""
        if len(self.looks) > 1:
            del self.looks[next(iter(self.looks))]
            return True
        return False

    @property
    def size(self) -> int:
        """Bytes that its tensors take."""
        parts: list[Any] = [self.realised.streams, self.realised.like, self.kept]
        if self.full is not None:
            parts += [self.full.streams, self.full.output]
        found = _storages(parts)
        for look in self.looks.values():
            found |= look.storages
        return sum(found.values())


def _croppable(reading: Reading) -> bool:
    """Whether another prompt can go on from the keys and values of this one."""
    cache = output_cache(reading.output)
    return plain_cache(cache) and whole_cache(cache, reading.length)


def _storages(parts: Any) -> dict[int, int]:
    storages = [tensor.untyped_storage() for tensor in _tensors(parts)]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


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
        """Keep a picture, and let go of the ones that were used longest ago for it.

        If it is too large on its own, all its looks but the latest may go.
        """
        self._known.pop(key, None)
        size = picture.size
        while size > self.limit and picture.forget():
            size = picture.size
        if size <= self.limit:
            self._known[key] = size, picture
        while self.size > self.limit:
            self._known.popitem(last=False)
