"""The policy that is served: read from its folder or store, asked once for each question, replaced in one step."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from allocator.logged.explore import Exploration, Explorer, Taken

from ..asking.models import with_changes
from ..attending.planners import PolicyPlanner
from ..wrapping.saving import load_planner
from .store import Served, resolve

if TYPE_CHECKING:
    from allocator import Decision

    from ..config import ArrCocConfig
    from ..scene import Plan, Scene

FIXED = ("budgets", "patch_side", "realizer", "positions")
"""What the attachment to the model depends on, so that a reload may not change it."""


class Loaded(NamedTuple):
    """A policy that is ready to be served."""

    served: Served
    planner: PolicyPlanner
    explorer: Explorer


class Policies:
    """The served policy of one model.

    Parameters
    ----------
    source
        Folder of a saved policy, or of a store of versions, whose current one is served.
    exploration
        See `allocator.logged.explore`.
    model, processor
        As of :func:`arr_coc.wrap`; the model's weights are not looked at.
    allow
        As of :func:`arr_coc.wrapping.saving.load_planner`.
    changes
        Fields of the configuration in place of those saved with the policy, as far as they are free.

    Raises
    ------
    ValueError
        If there is no policy, or it can't be served or does not fit the model.
    """

    def __init__(
        self,
        source: Path,
        exploration: Exploration,
        model: Any,
        processor: Any,
        allow: Collection[str] = (),
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self.source, self.exploration, self._for, self._allow = source, exploration, (model, processor), allow
        self._changes = dict(changes or {})
        served = resolve(source)
        self.config, planner = self._read(served)
        self.loaded = self._explored(served, planner)

    @property
    def version(self) -> str:
        """Of the policy in use."""
        return self.loaded.served.version

    @property
    def folder(self) -> Path:
        """Of the policy in use."""
        return self.loaded.served.folder

    def once(self) -> Once:
        """A planner for one question, by the policy in use now."""
        return Once(self.loaded)

    def load(self) -> Loaded:
        """Read the policy that should be served now; any thread may do it, nothing changes yet.

        Raises
        ------
        ValueError
            If it can't be served by this attachment, or can't choose.
        """
        served = resolve(self.source)
        config, planner = self._read(served)
        for name in FIXED:
            mine, theirs = getattr(self.config, name), getattr(config, name)
            if mine != theirs:
                raise ValueError(f"version {served.version} has {name}={theirs!r}, not {mine!r}: start a new server")
        return self._explored(served, planner)

    def _read(self, served: Served) -> tuple[ArrCocConfig, Any]:
        config, planner = load_planner(served.folder, *self._for, allow=self._allow)
        return (with_changes(config, planner, self._changes) if self._changes else config), planner

    def _explored(self, served: Served, planner: Any) -> Loaded:
        if not isinstance(planner, PolicyPlanner):
            raise ValueError(f"{self.source} holds no learned policy, so there is nothing to serve; see arr-coc learn")
        explorer, budgets = Explorer(planner.policy, self.exploration), planner.config.budgets
        explorer.rehearse(budgets, planner.price / (6 * budgets[-1]))
        return Loaded(served, planner, explorer)


class Once:
    """Plans one question, exploring, and keeps the decision: questions that are planned side by side do not mix.

    Attributes
    ----------
    taken
        The decision, once planned.
    price, version
        Of the policy that it was made by.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._explorer = loaded.explorer
        self._planner = copy.copy(loaded.planner)
        planner: Any = self._planner
        planner.policy, planner.explore = self, True  # this stands where the planner expects its policy
        self.needs, self.price, self.version = loaded.planner.needs, loaded.planner.price, loaded.served.version
        self.taken: Taken | None = None

    def plan(self, scene: Scene) -> Plan:
        """As of `arr_coc.scene.Planner`."""
        return self._planner.plan(scene)

    def select(self, *args: Any, **kwargs: Any) -> Decision:
        """As of `allocator.Policy`."""
        self.taken = self._explorer.take(*args, **kwargs)
        return self.taken.decision
