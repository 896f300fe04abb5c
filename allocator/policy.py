"""The one contract of every method: `select` a super-arm, `update` from its reward, save and resume exactly.

A method is a small subclass of `Policy` that overrides one or two of four hooks:

    _score    values of every (patch, arm), before price and coverage
    _choose   from net values to a super-arm; by default the exact knapsack
    _features what the posterior regresses the reward on
    _learn    absorb rewards
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from .checks import Array, BoolArray, FloatArray, IntArray, count, floats, moderate
from .decision import Choice, Decision
from .knapsack.solver import KnapsackSolution, solve, solve_many
from .problem import Problem, pose
from .resumable import Resumable


@dataclass(kw_only=True, eq=False)
class Policy(Resumable):
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

    @property
    def reads(self) -> BoolArray | None:
        """``[d]``: the entries of a context that its choice can depend on; ``None`` says that all may count."""
        return None

    # The four hooks.

    def _score(self, problem: Problem) -> FloatArray:
        return np.zeros(problem.costs.shape)

    def _choose(self, problem: Problem, net: FloatArray) -> Choice:
        return self._answer(problem, solve(net, problem.costs, problem.limit, floor=problem.floor))

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
        problem = pose(
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
        undo = self._undo()
        try:
            return self._decide(problem)
        except (TypeError, ValueError):
            undo()
            raise

    def select_many(self, questions: Sequence[Mapping[str, Any]], **shared: Any) -> list[Decision]:
        """Choose for several images, whose numbers of patches may differ; the decisions of one `select` after another.

        Parameters
        ----------
        questions : sequence of mappings
            Arguments of `select` for each image, e.g. {"contexts": x, "limit": 800}.
        **shared
            Arguments that are the same for all, unless a question has its own.

        Returns
        -------
        list of Decision

        Raises
        ------
        TypeError, ValueError
            As in `select`, naming the image; then nothing was chosen and nothing is changed.
        """
        problems = []
        for image, question in enumerate(questions):
            given = {**shared, **question}
            if not given.pop("explore", True):
                given["temperature"] = 0.0
            try:
                problems.append(pose(self, **given))
            except (TypeError, ValueError) as error:
                raise type(error)(f"image {image}: {error}") from None
        undo, decisions = self._undo(), []
        try:
            if not self._separable():
                for problem in problems:
                    decisions.append(self._decide(problem))
                return decisions
            nets = [self._net(problem) for problem in problems]  # in order: a method may draw
            columns = ([getattr(problem, name) for problem in problems] for name in ("costs", "limit", "floor"))
            costs, limits, floors = columns
            found = solve_many(nets, costs, limits, floor=floors) if problems else []
            for problem, net, solution in zip(problems, nets, found, strict=True):
                decisions.append(self._decision(problem, net, self._answer(problem, solution)))
        except (TypeError, ValueError) as error:
            undo()
            named = str(error).startswith("image ")
            raise error if named else type(error)(f"image {len(decisions)}: {error}") from None
        return decisions

    def _separable(self) -> bool:
        """Whether choosing is the knapsack on net values and nothing more, so that many can be solved together."""
        return type(self)._choose is Policy._choose and type(self)._decide is Policy._decide

    def _undo(self) -> Callable[[], None]:
        """What puts back all that choosing changes, for a choice that fails half-way."""
        before = self.generator.bit_generator.state

        def undo() -> None:
            self.generator.bit_generator.state = before

        return undo

    def _net(self, problem: Problem) -> FloatArray:
        net = self._score(problem) - problem.price * problem.costs + problem.coverage
        # An arm that is really an earlier arm is worth what that one is; the oracle's tie-break then never picks it.
        return np.take_along_axis(net, problem.twin, axis=1)

    def _answer(self, problem: Problem, found: KnapsackSolution) -> Choice:
        drawn = self.randomised and problem.temperature > 0
        return Choice(
            index=found.index,
            log_propensity=None if drawn else 0.0,
            shadow_price=found.price,
            gap=found.gap,
        )

    def _decide(self, problem: Problem) -> Decision:
        net = self._net(problem)
        return self._decision(problem, net, self._choose(problem, net))

    def _decision(self, problem: Problem, net: FloatArray, choice: Choice) -> Decision:
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
            table=problem.costs,
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
            if not 0 < len(decision.index) == len(decision.contexts):
                raise ValueError(
                    f"a decision needs one context per patch and at least one patch, got {len(decision.contexts)} "
                    f"contexts and {len(decision.index)} patches"
                )
            for what in ("contexts", "covariates", "features"):
                if getattr(decision, what) is not None:
                    moderate(what, getattr(decision, what))
            moderate("reward", checked[-1])
            unknown = decision.index[(decision.index < 0) | (decision.index >= (self.arms or np.inf))]
            if len(unknown):
                raise ValueError(f"decision uses arm {int(unknown[0])}, but the policy has {self.arms} arms")
            table = decision.table
            if table is not None and self.arms and table.shape != (len(decision.index), self.arms):
                raise ValueError(
                    f"a decision's table of costs must have shape [{len(decision.index)}, {self.arms}], "
                    f"got {list(table.shape)}"
                )
            seen, sizes = (decision.contexts.shape[1], len(decision.covariates)), (self.dim, self.covariates)
            if seen != sizes if self.needs_model else self.dim is not None and seen[0] not in (0, self.dim):
                raise ValueError(
                    f"decision has {seen[0]} context features and {seen[1]} covariates, the policy {sizes[0]} and "
                    f"{sizes[1]}"
                )
        self._learn(decisions, checked)
        self.rounds += len(checked)
