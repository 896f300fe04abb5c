"""The one contract of every method: `select` a super-arm, `update` from its reward, save and resume exactly.

A method is a small subclass of `Policy` that overrides one or two of four hooks:

    _score    values of every (patch, arm), before price and coverage
    _choose   from net values to a super-arm; by default the exact knapsack
    _features what the posterior regresses the reward on
    _learn    absorb rewards
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from allocator.checks import Array, FloatArray, IntArray, count, floats
from allocator.decision import Choice, Decision, plain
from allocator.knapsack import solve
from allocator.posterior import LARGEST
from allocator.problem import Problem, pose
from allocator.registry import make_policy
from allocator.storage import read_state, write_state

VERSION = 1  # of the saved format


@dataclass(kw_only=True, eq=False)
class Policy:
    """Base of all methods.

    Parameters
    ----------
    dim : int, optional
        Context dimension d; learning methods require it.
    arms : int, optional
        Number of arms K per patch (arm 0 is the floor); learning methods require it.
    covariates : int
        Number m of covariates.
    collapse : bool
        Treat arms of one patch that cost the same, positive amount as one arm (the first). On ragged patches several
        budgets are the same allocation. Arms without costs are never collapsed.
    seed : int
        Seed of this instance's generator; nothing global is touched.
    """

    name: ClassVar[str] = ""
    feedback: ClassVar[Literal["none", "full", "semi"]] = "none"
    needs_model: ClassVar[bool] = False  # whether dim and arms must be given
    randomised: ClassVar[bool] = False  # values are drawn, so the oracle's choice has no closed-form propensity

    dim: int | None = None
    arms: int | None = None
    covariates: int = 0
    collapse: bool = True
    seed: int = 0
    generator: np.random.Generator = field(init=False, repr=False)
    rounds: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        for option in ("dim", "arms"):
            if getattr(self, option) is not None:
                count(option, getattr(self, option))
            elif self.needs_model:
                raise ValueError(f"policy {self.name!r} needs {option}=; it learns a model of that size")
        count("covariates", self.covariates, low=0)
        self.generator = np.random.default_rng(count("seed", self.seed, low=0))

    # The four hooks.

    def _score(self, problem: Problem) -> FloatArray:
        return np.zeros(problem.costs.shape)

    def _choose(self, problem: Problem, net: FloatArray) -> Choice:
        found = solve(net, problem.costs, problem.limit, floor=problem.floor)
        drawn = self.randomised and problem.temperature > 0
        return Choice(
            index=found.index,
            log_propensity=None if drawn else 0.0,
            shadow_price=found.price,
            gap=found.gap,
        )

    def _features(self, contexts: FloatArray, covariates: FloatArray, index: IntArray) -> FloatArray | None:
        return None

    def _learn(self, decisions: Sequence[Decision], rewards: list[FloatArray]) -> None:
        return None

    # The contract.

    def select(
        self,
        contexts: Array | None = None,
        covariates: Array | None = None,
        costs: Array | None = None,
        limit: float | None = None,
        price: float = 0.0,
        temperature: float = 1.0,
        coverage: Array | None = None,
        *,
        values: Array | None = None,
        floor: Array | None = None,
        explore: bool = True,
    ) -> Decision:
        """Choose one arm per patch.

        Parameters
        ----------
        contexts : array-like or Tensor, shape [N, d]
            One row per patch; methods that do not learn may go without.
        covariates : array-like, shape [m], optional
            Facts about the image or question as a whole.
        costs : array-like of int, shape [K] or [N, K], optional
            Cost of each arm, in tokens; free if None.
        limit : float, optional
            Bound on the summed cost.
        price : float
            Reward units per unit of cost, not negative.
        temperature : float
            Multiplies the method's exploration; 0 is greedy.
        coverage : array-like, shape [N, K], optional
            Additive value outside the model; it must be separable, so the oracle stays exact.
        values : array-like, shape [N, K], optional
            Given values, for "heuristic" and "oracle".
        floor : int or array-like of int, shape [N], optional
            Least cost a patch must be given: a fairness floor. A patch without so dear an arm takes its dearest.
        explore : bool
            False is short for temperature 0: evaluation without exploration.

        Returns
        -------
        Decision

        Raises
        ------
        TypeError, ValueError
            For malformed input or an infeasible limit; nothing is changed then.
        """
        return self._decide(
            pose(
                self,
                contexts,
                covariates,
                costs,
                limit,
                price,
                temperature if explore else 0.0,
                coverage,
                values=values,
                floor=floor,
            )
        )

    def _decide(self, problem: Problem) -> Decision:
        net = self._score(problem) - problem.price * problem.costs + problem.coverage
        # An arm that is really an earlier arm is worth what that one is; the oracle's tie-break then never picks it.
        net = np.take_along_axis(net, problem.twin, axis=1)
        choice = self._choose(problem, net)
        spent = problem.costs[np.arange(len(choice.index)), choice.index]
        if (spent < np.minimum(problem.floor, problem.costs.max(axis=1))).any():
            raise ValueError(f"the allocation of policy {self.name!r} gives a patch less than its floor")
        return Decision(
            policy=self.name,
            index=choice.index,
            costs=spent,
            values=net,
            log_propensity=choice.log_propensity,
            probabilities=choice.probabilities,
            features=self._features(problem.contexts, problem.covariates, choice.index),
            contexts=problem.contexts,
            covariates=problem.covariates,
            price=problem.price,
            shadow_price=choice.shadow_price,
            gap=choice.gap,
        )

    def update(self, decision: Decision, reward: Any) -> None:
        """Learn from one reward: a scalar, or one number per patch for semi-bandit methods.

        Raises
        ------
        TypeError, ValueError
            For a malformed decision or reward; the policy is unchanged then.
        """
        self.update_many([decision], [reward])

    def update_many(self, decisions: Sequence[Decision], rewards: Sequence[Any]) -> None:
        """Learn from several rewards in order; same result as one `update` each, but factorises only once.

        Raises
        ------
        TypeError, ValueError
            If any decision or reward is malformed; then none of them is learned.
        """
        if len(decisions) != len(rewards):
            raise ValueError(f"one reward per decision: got {len(decisions)} decisions and {len(rewards)} rewards")
        checked = []
        for decision, reward in zip(decisions, rewards, strict=True):
            if not isinstance(decision, Decision):
                raise TypeError(f"decision must be a Decision, got {type(decision).__name__}")
            shape = (len(decision.index),) if self.feedback == "semi" else ()
            if np.ndim(reward) != len(shape) and self.feedback != "none":
                raise ValueError(
                    f"policy {self.name!r} learns from "
                    + ("one reward per patch" if shape else "one scalar reward per decision")
                    + f" ({self.feedback}-bandit feedback), got shape {list(np.shape(reward))}"
                )
            checked.append(floats("reward", reward, shape if self.feedback != "none" else np.shape(reward)))
            if max(np.abs(a).max(initial=0.0) for a in (decision.contexts, checked[-1])) > LARGEST:
                raise ValueError("contexts or reward are too large to square without overflow; rescale them to 1")
            if self.arms is not None and (decision.index.min() < 0 or decision.index.max() >= self.arms):
                raise ValueError(f"decision uses arm {int(decision.index.max())}, but the policy has {self.arms} arms")
            if self.dim is not None and decision.contexts.shape[1] not in (0, self.dim):
                raise ValueError(f"decision has {decision.contexts.shape[1]} context features, the policy {self.dim}")
        self._learn(decisions, checked)
        self.rounds += len(checked)

    # State.

    def config(self) -> dict[str, Any]:
        """Constructor arguments as plain data."""
        return {item.name: plain(getattr(self, item.name)) for item in fields(self) if item.init}

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
        theirs = {key: value for key, value in state["config"].items() if key not in free}
        if mine != theirs:
            keys = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
            raise ValueError(f"the state was saved with other options: {keys} differ; build the policy with those")
        generator = np.random.default_rng()
        try:
            generator.bit_generator.state = state["generator"]
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"the state's generator is damaged: {error}") from None
        self._load_tensors(dict(state["tensors"]))
        self._load_extra(dict(state["extra"]))
        # In place: a wrapper and its inner policy draw from one generator.
        self.generator.bit_generator.state = generator.bit_generator.state
        self.rounds = int(state["rounds"])

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
        policy = make_policy(state["policy"], **state["config"])
        if not isinstance(policy, cls):
            raise ValueError(f"{path} holds a {policy.name!r} policy, not a {cls.__name__}")
        policy.load_state_dict(state)
        return policy
