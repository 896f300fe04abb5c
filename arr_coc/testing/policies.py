"""The contract of a policy of the allocator."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from allocator import Decision, Policy, make_policy

from .base import require

N, D, M = 5, 6, 2
COSTS = np.array([[64, 128, 256, 400]] * 3 + [[64, 128, 182, 182], [42, 42, 42, 42]])
LIMIT = 700


def check_policy(policy: str | Callable[[], Policy], **options: Any) -> None:
    """Hold a policy to its contract, on questions of five patches with four budgets.

    Parameters
    ----------
    policy
        A registered name, or a function that makes a fresh policy. A name is built with ``dim=6, arms=4,
        covariates=2, seed=3`` and the options.
    options
        Of a policy that is named.

    Raises
    ------
    Broken
        If a decision breaks the limit or the costs; if two of one seed decide differently; if a saved one goes on
        otherwise than one that never stopped; if a greedy choice changes the state; or if a reward that is not finite
        is learned from.
    """

    def build() -> Policy:
        if callable(policy):
            return policy()
        return make_policy(policy, **{"dim": D, "arms": 4, "covariates": M, "seed": 3, **options})

    name = build().name
    check_decisions(build(), name)
    left, right = (_played(build(), 8) for _ in range(2))
    require(_same(left, right), f"policy {name!r}: two of one seed decide differently; draw from self.generator alone")
    check_resumed(build, name)
    one = build()
    _played(one, 5)
    before = _frozen(one)
    if name != "random":  # it has no greedy choice
        a, b = (ask(one, 9, explore=False) for _ in range(2))
        require(_same([a], [b]) and _frozen(one) == before, f"policy {name!r}: a greedy choice draws or learns")
    decision = ask(one, 9)
    before = _frozen(one)
    try:
        one.update(decision, reward_for(one, decision, float("nan")))
    except ValueError:
        pass
    else:
        require(one.feedback == "none", f"policy {name!r} learns from a reward that is not a number")
    require(_frozen(one) == before, f"policy {name!r}: a refused reward leaves a trace")


def check_decisions(policy: Policy, name: str) -> None:
    """`check_policy`, the decisions: feasible, complete, and plain data."""
    for number, decision in enumerate(_played(policy, 6)):
        told = f"policy {name!r}, decision {number + 1}: "
        require(decision.policy == name, f"{told}it is signed by {decision.policy!r}")
        require(
            decision.index.shape == (N,) and decision.index.dtype == np.int64, f"{told}index must be int64 of [{N}]"
        )
        right = (decision.costs == COSTS[np.arange(N), decision.index]).all()
        require(right, f"{told}costs are not those of the arms it chose")
        within = decision.cost == decision.costs.sum() <= LIMIT
        require(within, f"{told}{decision.cost} tokens break the limit {LIMIT}")
        fits = decision.values.shape == COSTS.shape and np.isfinite(decision.values).all()
        require(fits, f"{told}values must be finite, of shape {COSTS.shape}")
        again = Decision.from_dict(json.loads(json.dumps(decision.to_dict())))
        require(_same([again], [decision]), f"{told}it does not survive a log")
    require(policy.rounds == 6, f"policy {name!r} counts {policy.rounds} rewards instead of 6")


def check_resumed(build: Callable[[], Policy], name: str) -> None:
    """`check_policy`, the state: a saved policy goes on to the bit, and nothing else lies in its folder."""
    whole, first = build(), build()
    _played(whole, 7)
    _played(first, 7)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "deep" / "policy.safetensors"
        first.save(file)
        resumed = Policy.load(file)
        kept = [path.name for path in file.parent.iterdir()]
    require(type(resumed) is type(whole), f"policy {name!r} is loaded as a {type(resumed).__name__}")
    same = _same(_played(whole, 7, 7), _played(resumed, 7, 7)) and _frozen(whole) == _frozen(resumed)
    require(same, f"policy {name!r}: saved and loaded, it goes on otherwise than one that never stopped")
    require(kept == ["policy.safetensors"], f"policy {name!r} leaves {kept} where it is saved")


def problem(seed: int = 0) -> dict[str, Any]:
    """Contexts, covariates, costs and limit of one question."""
    rng = np.random.default_rng(seed)
    return {"contexts": rng.normal(size=(N, D)), "covariates": rng.normal(size=M), "costs": COSTS, "limit": LIMIT}


def ask(policy: Policy, seed: int = 0, **more: Any) -> Decision:
    """A decision on that question; the oracle is told values, as it must be."""
    values = np.random.default_rng(seed).normal(size=COSTS.shape) if policy.name == "oracle" else None
    return policy.select(**{**problem(seed), **more}, values=values)


def reward_for(policy: Policy, decision: Decision, value: float) -> Any:
    """A reward in the form that the policy learns from: one per patch, or one for all."""
    return np.full(len(decision.index), value) if policy.feedback == "semi" else value


def _played(policy: Policy, rounds: int, start: int = 0) -> list[Decision]:
    decisions = []
    for t in range(start, start + rounds):
        decision = ask(policy, t)
        policy.update(decision, reward_for(policy, decision, float(np.sin(t))))
        decisions.append(decision)
    return decisions


def _frozen(policy: Policy) -> tuple[Mapping[str, Any], dict[str, bytes]]:
    state = dict(policy.state_dict())
    tensors = {name: tensor.numpy().tobytes() for name, tensor in state.pop("tensors").items()}
    return copy.deepcopy(state), tensors


def _same(left: list[Decision], right: list[Decision]) -> bool:
    return [json.dumps(d.to_dict()) for d in left] == [json.dumps(d.to_dict()) for d in right]
