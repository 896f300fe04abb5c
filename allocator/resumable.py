"""State of a policy: everything a resumed run needs to continue to the bit, in memory and in one file."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from .decision import plain
from .registry import make_policy
from .storage import read_state, write_state

if TYPE_CHECKING:
    from .policy import Policy

VERSION = 1  # of the saved format
_LARGEST = 2048  # a size that needs no tensor of its length to be believed


class Resumable:
    """The part of `allocator.policy.Policy` that saves and restores it.

    A method with state of its own overrides `_tensors` and `_load_tensors` (tensors), or `_extra` and `_load_extra`
    (plain data). A loader that fails may leave a part loaded; the old state is then put back.
    """

    name: ClassVar[str]
    generator: np.random.Generator
    rounds: int

    def config(self) -> dict[str, Any]:
        """Constructor arguments as plain data."""
        options = fields(self)  # type: ignore[arg-type]  # every method is a dataclass
        return {item.name: plain(getattr(self, item.name)) for item in options if item.init}

    def _tensors(self) -> dict[str, Tensor]:
        return {}

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        if tensors:
            raise ValueError(f"policy {self.name!r} has no tensors, the state holds {sorted(tensors)}")

    def _extra(self) -> dict[str, Any]:
        return {}

    def _load_extra(self, extra: dict[str, Any]) -> None:
        if extra:
            raise ValueError(f"policy {self.name!r} has no extra state, got {sorted(extra)}")

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to continue to the bit: plain data, and copies of the tensors."""
        return {
            "policy": self.name,
            "version": VERSION,
            "config": self.config(),
            "generator": self.generator.bit_generator.state,
            "rounds": self.rounds,
            "extra": self._extra(),
            "tensors": self._tensors(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        ValueError
            If the state is another method's, another configuration's or damaged; the policy is unchanged then.
        """
        wanted = {"policy", "version", "config", "generator", "rounds", "extra", "tensors"}
        if set(state) != wanted:
            raise ValueError(f"policy state must hold {sorted(wanted)}, got {sorted(state)}")
        if state["policy"] != self.name or state["version"] != VERSION:
            raise ValueError(
                f"state of policy {state['policy']!r} (format {state['version']}) does not fit "
                f"policy {self.name!r} (format {VERSION})"
            )
        free = {"seed", "device"}
        mine = {key: value for key, value in self.config().items() if key not in free}
        # A state may be older than an option; it was saved as if by the option's default.
        theirs = {item.name: plain(item.default) for item in fields(self) if item.name in mine}  # type: ignore[arg-type]
        theirs |= {key: value for key, value in state["config"].items() if key not in free}
        if mine != theirs:
            keys = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
            raise ValueError(f"the state was saved with other options: {keys} differ; build the policy with those")
        generator = np.random.default_rng()
        try:
            generator.bit_generator.state = state["generator"]
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise ValueError(f"the state's generator is damaged: {error}") from None
        tensors, extra = self._tensors(), self._extra()
        try:
            self._load_tensors(dict(state["tensors"]))
            self._load_extra(dict(state["extra"]))
            rounds = int(state["rounds"])
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            self._load_tensors(tensors)
            self._load_extra(extra)
            raise error if isinstance(error, ValueError) else ValueError(f"the state is damaged: {error}") from None
        # In place: a wrapper and its inner policy draw from one generator.
        self.generator.bit_generator.state = generator.bit_generator.state
        self.rounds = rounds

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the state to one safetensors file, atomically: a killed run leaves the old file or the new one.

        The tensors are safetensors; everything else is JSON in the file's metadata header.
        """
        return write_state(path, self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """Rebuild the policy that `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not a saved policy, or not one of this class.
        """
        state = read_state(path)
        try:
            _check_sizes(state["config"], max([_LARGEST, *(n for t in state["tensors"].values() for n in t.shape)]))
            policy = make_policy(state["policy"], **state["config"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path} holds no policy that can be rebuilt: {reason}") from None
        if not isinstance(policy, cls):
            raise ValueError(f"{path} holds a {policy.name!r} policy, not a {cls.__name__}")
        policy.load_state_dict(state)
        return policy


def _check_sizes(config: Any, largest: int) -> None:
    """Refuse a configuration that would take memory out of proportion to the tensors it came with."""
    if not isinstance(config, dict):
        raise ValueError(f"its configuration is a {type(config).__name__}")
    sizes = {key: config.get(key) or 0 for key in ("dim", "arms", "covariates", "width")}
    for key, value in sizes.items():
        if not isinstance(value, int) or value > largest:
            raise ValueError(f"{key}={value!r} does not fit its tensors, whose longest side is {largest}")
    if sizes["dim"] * sizes["arms"] + sizes["covariates"] > 2 * largest:
        raise ValueError(f"{sizes} do not fit its tensors, whose longest side is {largest}")
    for value in config.values():
        if isinstance(value, dict):
            _check_sizes(value, largest)
