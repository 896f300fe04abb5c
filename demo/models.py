"""The models that a visitor may choose from: each is loaded when it is first asked for."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from arr_coc import reference
from arr_coc.config import nearest
from arr_coc.families import known_families

from .host import Host

KEPT = 2
"""Models that stay in memory; the one that was asked longest ago makes room."""


class Models:
    """Hosts by name.

    Parameters
    ----------
    makers
        How each model is loaded; the first one is what visitors find.

    Raises
    ------
    ValueError
        If there is none.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Host]]) -> None:
        if not makers:
            raise ValueError("there is no model to show; name at least one")
        self._makers = dict(makers)
        self._loaded: OrderedDict[str, Host] = OrderedDict()
        self._loading = threading.Lock()

    @classmethod
    def named(
        cls,
        names: list[str],
        policy: str | None = None,
        device: str | None = None,
        base: Mapping[str, Any] | None = None,
    ) -> Models:
        """Models by name, as of `Host`; ``policy`` is the first one's."""
        return cls({
            name: partial(Host, name, policy if number == 0 else None, device, base)
            for number, name in enumerate(dict.fromkeys(names))
        })  # fmt: skip

    @property
    def names(self) -> list[str]:
        """What `__getitem__` knows."""
        return list(self._makers)

    @property
    def first(self) -> Host:
        """What a visitor finds."""
        return self[self.names[0]]

    def __getitem__(self, name: str) -> Host:
        """The host of a model, loaded if it is not yet.

        Raises
        ------
        ValueError
            If there is no such model here, or it can't be loaded.
        """
        if name not in self._makers:
            raise ValueError(f"the model {name!r} is not offered here. {nearest(name, self.names)}")
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = self._makers[name]()
            self._loaded.move_to_end(name)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def shipped() -> list[str]:
    """The models that come with ARR-COC, those whose weights are there."""
    return [name for name in reference.MODELS if (reference.path(name) / "model.safetensors").is_file()]


def on_disk(cache: Path | None = None) -> list[str]:
    """The models that come with ARR-COC, then those of supported families in the hub's cache; nothing is fetched.

    Parameters
    ----------
    cache
        Folder of the cache; by default where the hub's own tools keep it.
    """
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(cache).repos
    except (CacheNotFound, ValueError):  # no cache, or a file in its place
        return shipped()
    usable = (repo.repo_id for repo in repositories if repo.repo_type == "model" and _supported(repo.repo_path))
    return [*shipped(), *sorted(usable)]


def _supported(repository: Path) -> bool:
    """Whether some snapshot of a cached repository is whole enough to load, and of a family that is known."""
    for config in repository.glob("snapshots/*/config.json"):
        try:
            kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):  # torn downloads are common in a cache
            continue
        if kind in known_families() and any(config.parent.glob("*.safetensors")):
            return True
    return False
