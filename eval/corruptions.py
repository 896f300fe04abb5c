"""Knowing, broken on purpose: what a planner is told of a question is changed before it plans; the answers are not.

A corruption is a scene filter: a callable from a `Scene` to a `Scene`. Register a frozen dataclass with
`register_corruption` and a configuration can name it, as ``corruption: sink`` or with settings as
``corruption: {name: sink, share: 0.9}``; see ``configs/corrupted.yaml``. What it draws at random comes from `rng`, so
that every policy is told the same of a question, and so is a run that goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from arr_coc.config import nearest
from arr_coc.scene.contract import Scene

Corruption = Callable[[Scene], Scene]
C = TypeVar("C")
_corruptions: dict[str, type] = {}


def register_corruption(name: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: make a corruption known by name."""

    def register(cls: type[C]) -> type[C]:
        _corruptions[name] = cls
        return cls

    return register


def corruption_names() -> list[str]:
    """The registered names."""
    return sorted(_corruptions)


def make_corruption(spec: str | Mapping[str, Any]) -> Corruption:
    """Build a corruption from its entry in a configuration.

    Raises
    ------
    TypeError, ValueError
        For an entry of another form, an unknown name or an unknown setting, with the nearest known one.
    """
    settings = {"name": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise TypeError(f"corruption {spec!r} must be a name or a mapping such as {{name: sink, share: 0.9}}")
    if name not in _corruptions:
        raise ValueError(f"unknown corruption {name!r}. {nearest(name, corruption_names())}")
    known = {item.name for item in dataclasses.fields(_corruptions[name])}
    for key in settings:
        if key not in known:
            raise ValueError(f"corruption {name!r} has no setting {key!r}. {nearest(key, known)}")
    made: Corruption = _corruptions[name](**settings)
    return made


def rng(scene: Scene, purpose: str) -> np.random.Generator:
    """A generator that depends on the question and its picture alone."""
    picture = b"".join(tokens.numpy().tobytes() for tokens in scene.glance)
    digest = hashlib.blake2b(f"{purpose}/{scene.question}/".encode() + picture, digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


@dataclass(frozen=True)
class Corrupted:
    """Contexts of a corrupted scene, in the place of a planner's own.

    Everything else of the contexts, such as the names of their slots, is theirs.
    """

    contexts: Any
    corruption: Corruption

    def __call__(self, scene: Scene, reads: Any = None) -> Any:
        return self.contexts(self.corruption(scene), reads)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "contexts":  # half-made, while it is copied
            raise AttributeError(name)
        return getattr(self.contexts, name)


def _cells(scene: Scene) -> list[int]:
    return [rows * columns for rows, columns in scene.glance_grids]


def _masses(attention: Tensor, sizes: Sequence[int]) -> Tensor:
    """``[layers, heads, N]`` attention mass of each patch."""
    return torch.stack([part.sum(-1) for part in attention.split(list(sizes), -1)], -1)


@dataclass(frozen=True)
class _OfAttention:
    """Base of filters of the attention: a subclass says what becomes of ``[layers, heads, cells]``."""

    def __call__(self, scene: Scene) -> Scene:
        def read(layers: Sequence[float]) -> Tensor:
            return self.filter(scene.read_attention(layers).clone(), scene)

        return dataclasses.replace(scene, read_attention=read)

    def filter(self, attention: Tensor, scene: Scene) -> Tensor:
        raise NotImplementedError


@register_corruption("sink")
@dataclass(frozen=True)
class Sink(_OfAttention):
    """The first cell draws a share of the mass of a fraction of the heads, whatever is asked."""

    share: float = 0.9
    heads: float = 1.0

    def filter(self, attention: Tensor, scene: Scene) -> Tensor:
        count = max(1, round(self.heads * attention.shape[1]))
        mass = attention[:, :count].sum(-1)
        attention[:, :count] *= 1 - self.share
        attention[:, :count, 0] += self.share * mass
        return attention


@register_corruption("last-column")
@dataclass(frozen=True)
class LastColumn(_OfAttention):
    """The last column of cells draws so many times what it should: the row-boundary sink of raster order."""

    times: float = 4.0

    def filter(self, attention: Tensor, scene: Scene) -> Tensor:
        right = max(patch.right for patch in scene.patches)
        start = 0
        for patch, (rows, columns) in zip(scene.patches, scene.glance_grids, strict=True):
            if patch.right == right:
                attention[..., start + columns - 1 : start + rows * columns : columns] *= self.times
            start += rows * columns
        return attention


@register_corruption("head-noise")
@dataclass(frozen=True)
class HeadNoise(_OfAttention):
    """Only a fraction of the heads is read as it is; among them noise heads look anywhere, with as much mass."""

    kept: float = 0.125
    seed: int = 0

    def filter(self, attention: Tensor, scene: Scene) -> Tensor:
        draw = rng(scene, f"head-noise {self.seed}")
        layers, heads, cells = attention.shape
        extra = max(1, round(heads / self.kept)) - heads
        noise = torch.from_numpy(draw.exponential(size=(layers, max(extra, 0), cells)) ** 3).to(attention)
        noise = noise / noise.sum(-1, keepdim=True).clamp_min(1e-9) * attention.sum(-1).mean()
        return torch.cat([attention, noise], 1)


@register_corruption("random-relevance")
@dataclass(frozen=True)
class RandomRelevance(_OfAttention):
    """In a share of the questions the looks at the first patch and at a random one of its size change places: a map as
    sure as the true one, of another question."""

    share: float = 0.6
    seed: int = 0

    def filter(self, attention: Tensor, scene: Scene) -> Tensor:
        draw, sizes = rng(scene, f"random-relevance {self.seed}"), _cells(scene)
        if draw.random() >= self.share:
            return attention
        first = int(_masses(attention, sizes).sum((0, 1)).argmax())
        alike = [i for i, size in enumerate(sizes) if size == sizes[first]]
        other = int(draw.choice(alike))
        starts = np.cumsum([0, *sizes])
        a, b = (slice(starts[i], starts[i] + sizes[i]) for i in (first, other))
        looks = attention[..., a].clone(), attention[..., b].clone()
        attention[..., b], attention[..., a] = looks
        return attention


@register_corruption("inverted-relevance")
@dataclass(frozen=True)
class InvertedRelevance(_OfAttention):
    """Questions with one of these words are looked at everywhere but where they ask."""

    words: tuple[str, ...] | str = "number"

    def filter(self, attention: Tensor, scene: Scene) -> Tensor:
        words = {self.words} if isinstance(self.words, str) else set(self.words)
        if not words & set(re.findall(r"\w+", scene.question.lower())):
            return attention
        sizes = _cells(scene)
        mass = _masses(attention, sizes)
        turned = (mass.amax(-1, keepdim=True) - mass + 1e-6) / mass.clamp_min(1e-9)
        return attention * turned.repeat_interleave(torch.tensor(sizes), -1)


@register_corruption("half-evidence")
@dataclass(frozen=True)
class HalfEvidence(_OfAttention):
    """Of several patches that a question looks at, only the first keeps its look."""

    def filter(self, attention: Tensor, scene: Scene) -> Tensor:
        sizes = _cells(scene)
        first = int(_masses(attention, sizes).sum((0, 1)).argmax())
        keep = torch.full((len(sizes),), 0.02)
        keep[first] = 1.0
        return attention * keep.repeat_interleave(torch.tensor(sizes))


@register_corruption("wrong-layer")
@dataclass(frozen=True)
class WrongLayer:
    """Another layer stands where those that ground are read. ``elsewhere``: what grounds stands in its place, so that
    who looks there finds it; else no layer of the model grounds."""

    layer: int = 0
    depth: int = 3
    elsewhere: bool = True

    def __call__(self, scene: Scene) -> Scene:
        def read(layers: Sequence[float]) -> Tensor:
            places = [int(x * self.depth) if isinstance(x, float) and 0 <= x < 1 else int(x) for x in layers]
            found = [self.elsewhere and place % self.depth == self.layer for place in places]
            return scene.read_attention([-1 if here else self.layer for here in found]).clone()

        return dataclasses.replace(scene, read_attention=read)


@register_corruption("deep-stack")
@dataclass(frozen=True)
class DeepStack:
    """A stack of so many layers that grounds at one share of its depth only; every other layer is the first one."""

    depth: int = 20
    at: float = 0.6

    def __call__(self, scene: Scene) -> Scene:
        def read(layers: Sequence[float]) -> Tensor:
            places = [int(x * self.depth) if isinstance(x, float) and 0 <= x < 1 else int(x) for x in layers]
            grounded = int(self.at * self.depth)
            return torch.cat([scene.read_attention([-1 if p % self.depth == grounded else 0]) for p in places])

        return dataclasses.replace(scene, read_attention=read)


@register_corruption("doubt")
@dataclass(frozen=True)
class Doubt:
    """A doubt that misleads: ``overconfident`` (u to the fourth), ``tiny`` (.02 where one of the words is asked for),
    ``inverted`` (1 - u), or ``independent`` of the question (even in [0, 1])."""

    kind: str = "overconfident"
    words: tuple[str, ...] = ("number", "word", "letter")
    seed: int = 0
    KINDS: ClassVar[tuple[str, ...]] = ("overconfident", "tiny", "inverted", "independent")

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ValueError(f"kind={self.kind!r} is unknown. {nearest(self.kind, self.KINDS)}")

    def __call__(self, scene: Scene) -> Scene:
        def answer() -> Tensor:
            logits = scene.glance_answer()
            places = logits.topk(2).indices
            first, second = logits[places].double().exp().tolist()
            u = max(1.0 - (first - second), 0.0)
            if self.kind == "overconfident":
                u = u**4
            elif self.kind == "inverted":
                u = 1.0 - u
            elif self.kind == "independent":
                u = float(rng(scene, f"doubt {self.seed}").random())
            elif set(self.words) & set(re.findall(r"\w+", scene.question.lower())):
                u = 0.02
            # The two likeliest answers take all, at the margin wanted.
            told = torch.full_like(logits, -30.0)
            told[places] = torch.tensor([1.0 - u / 2, max(u / 2, 1e-12)]).log().to(told)
            return told

        return dataclasses.replace(scene, glance_answer=answer)


@register_corruption("shuffled-detail")
@dataclass(frozen=True)
class ShuffledDetail:
    """Pixels of patches of equal size change places: detail and salience are those of other patches."""

    seed: int = 0

    def __call__(self, scene: Scene) -> Scene:
        if scene.pixels is None:
            return scene
        draw, pixels = rng(scene, f"shuffled-detail {self.seed}"), list(scene.pixels)
        for shape in {tuple(p.shape) for p in pixels}:
            rows = [i for i, p in enumerate(pixels) if tuple(p.shape) == shape]
            for row, other in zip(rows, draw.permutation(rows), strict=True):
                pixels[row] = scene.pixels[other]
        return dataclasses.replace(scene, pixels=pixels)
