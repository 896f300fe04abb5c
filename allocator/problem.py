"""What goes into a policy: one question, checked at the border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from .checks import Array, FloatArray, IntArray, floats, moderate, number
from .knapsack.solver import allowed_arms, as_costs, check_limit, floor_costs


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One validated question put to a policy: N patches, K arms.

    Attributes
    ----------
    contexts : FloatArray, shape [N, d]
    covariates : FloatArray, shape [m]
        Facts about the whole image or question; they shift the reward, not the choice.
    costs : IntArray, shape [N, K]
        What each arm really spends on each patch (tokens).
    limit : int or None
        Bound on the summed cost.
    price : float
        Reward units per unit of cost.
    temperature : float
        Scale of exploration; 0 is greedy.
    coverage : FloatArray, shape [N, K]
        Additive value outside the model (zero if not given).
    values : FloatArray, shape [N, K], or None
        Given values, for the methods that do not learn them.
    floor : IntArray, shape [N]
        Least cost each patch must be given (where it has an arm that dear).
    open : ndarray of bool, shape [N, K]
        False where an arm is below the floor, or repeats the positive cost of an earlier arm of its patch: then it is
        that same arm.
    twin : IntArray, shape [N, K]
        The arm that each arm really is: itself, or that earlier arm.
    """

    contexts: FloatArray
    covariates: FloatArray
    costs: IntArray
    limit: int | None
    price: float
    temperature: float
    coverage: FloatArray
    values: FloatArray | None
    floor: IntArray
    open: np.ndarray
    twin: IntArray


class Sizes(Protocol):
    """What `pose` has to know of a policy; see `Policy`."""

    name: ClassVar[str]
    needs_model: ClassVar[bool]
    dim: int | None
    arms: int | None
    covariates: int
    collapse: bool


def pose(
    policy: Sizes,
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
) -> Problem:
    """Check the arguments of `Policy.select` against each other and against the policy's sizes.

    Raises
    ------
    TypeError, ValueError
        For malformed input or an infeasible limit.
    """
    if contexts is None and policy.needs_model:
        raise ValueError(f"policy {policy.name!r} needs contexts [N, {policy.dim}]")
    x = None if contexts is None else floats("contexts", contexts, (None, policy.dim))
    given = None if values is None else floats("values", values, (None, policy.arms))
    rows = [len(a) for a in (x, given, costs if costs is not None and np.ndim(costs) == 2 else None) if a is not None]
    if not rows:
        raise ValueError("the number of patches is unknown: give contexts [N, d], values [N, K] or costs [N, K]")
    columns = [np.shape(a)[-1] for a in (given, costs) if a is not None and np.ndim(a) > 0]
    if policy.arms is None and not columns:
        raise ValueError("the number of arms is unknown: give arms= to make_policy, or costs, or values")
    shape = (rows[0], policy.arms or columns[0])
    x = np.zeros((shape[0], 0)) if x is None else x
    if given is not None:
        given = floats("values", given, shape)
    tokens = as_costs(np.zeros(shape[1], dtype=np.int64) if costs is None else costs, shape)
    if len(x) != shape[0]:
        raise ValueError(f"contexts has {len(x)} rows, but there are {shape[0]} patches")
    price = number("price", price, low=0.0)
    z = np.zeros(0) if covariates is None else floats("covariates", covariates, (None,))
    if policy.needs_model and len(z) != policy.covariates:
        raise ValueError(
            f"covariates must have shape [{policy.covariates}], got [{len(z)}]; make_policy(covariates=) sets it"
        )
    added = np.zeros(shape) if coverage is None else floats("coverage", coverage, shape)
    for name, array in (("contexts", x), ("covariates", z), ("coverage", added), ("values", given), ("price", price)):
        if array is not None:
            moderate(name, array)
    floors = np.zeros(shape[0], dtype=np.int64) if floor is None else floor_costs(floor, shape[0])
    allowed = allowed_arms(tokens, floors)
    own = np.arange(shape[1])
    twin = np.broadcast_to(own, shape)
    if policy.collapse and tokens.any():
        same = (tokens[:, :, None] == tokens[:, None, :]) & (tokens[:, :, None] > 0)
        twin = np.where(same, own, own[:, None]).min(axis=2)
    return Problem(
        contexts=x,
        covariates=z,
        costs=tokens,
        limit=check_limit(limit, int(np.where(allowed, tokens, tokens.max()).min(axis=1).sum()), shape[0]),
        price=price,
        temperature=number("temperature", temperature, low=0.0),
        coverage=added,
        values=given,
        floor=floors,
        open=(twin == own) & allowed,
        twin=twin,
    )
