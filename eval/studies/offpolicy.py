"""Off-policy evaluation put to the test: what an old policy's log says a new policy is worth, and what it is worth."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from allocator.logged import estimators as ope
from allocator.policies.full_bandit.boltzmann import Boltzmann
from allocator.storage import replace_file
from arr_coc.attending.planners import PolicyPlanner, Recorder
from arr_coc.learning.rewards import make_reward
from arr_coc.learning.tasks import Task
from arr_coc.scene.contract import Plan, Planner, Scene

from ..config import EvalConfig
from ..model.bench import Bench
from ..reporting.page import markdown_table
from ..reporting.statistics import mean_interval

if TYPE_CHECKING:
    from arr_coc.wrapping.wrapper import ArrCoc


class _Costs:
    """Keeps the costs of what a planner is asked."""

    def __init__(self, planner: Planner) -> None:
        self.planner, self.needs = planner, planner.needs
        self.costs: list[np.ndarray] = []

    def plan(self, scene: Scene) -> Plan:
        self.costs.append(scene.costs.numpy())
        return self.planner.plan(scene)


def offpolicy(
    config: EvalConfig, arr: ArrCoc | None = None, sharper: float = 0.5, progress: bool = True
) -> dict[str, Any]:
    """Judge a new policy by the log of an old one, then play it on the same questions.

    The old policy is Boltzmann exploration around its prior. The first half of its log teaches the new one, which also
    draws at a lower temperature; the second half judges it.

    Parameters
    ----------
    config
        Model, ``wrap`` with ``policy: boltzmann`` and without a limit, task and run (out, seed, max_new_tokens).
    arr
        A wrapped model; made from the configuration by default.
    sharper
        The new policy's temperature as a share of the old one's.

    Returns
    -------
    dict
        ``truth`` (mean reward of the new policy with its interval), ``old`` (of the old one on the same questions) and
        per estimator value, low, high and effective sample size; also written to ``offpolicy.json`` and ``.md``.

    Raises
    ------
    ValueError
        For another policy, a folder that holds results, or fewer than 20 questions.
    """
    from ..run import load

    out = Path(config.out)
    if (out / "offpolicy.json").exists():
        raise ValueError(f"{out} holds results already; choose another run.out")
    own = arr is None
    arr = load(config) if arr is None else arr
    planner = arr.planner
    if not isinstance(planner, PolicyPlanner) or not isinstance(planner.policy, Boltzmann) or planner.config.limit:
        raise ValueError("off-policy evaluation needs exact propensities: set wrap.policy=boltzmann and no wrap.limit")
    bench = Bench(arr, make_reward(config.task.reward), config.max_new_tokens, config.seed)
    samples = list(Task(config.task))
    if len(samples) < 20:
        raise ValueError(f"{len(samples)} questions are too few for a log; use at least 20 (task.limit)")
    try:
        log, rewards = _play(bench, planner, samples, "the old policy", progress)
        half = len(samples) // 2
        new = copy.copy(planner)
        new.policy = copy.deepcopy(planner.policy)
        new.policy.update_many([decision for decision, _ in log[:half]], rewards[:half].tolist())
        new.policy.tau *= sharper
        played = _play(bench, new, samples[half:], "the new policy", progress)[1]
    finally:
        arr.planner = planner
        if own:
            arr.detach()
    images = [sample["image_id"] for sample in samples[half:]]
    found: dict[str, Any] = {
        "truth": mean_interval(played, images, seed=config.seed).to_list(),
        "old": mean_interval(rewards[half:], images, seed=config.seed).to_list(),
        "estimates": _estimates(new.policy, log[half:], rewards[half:]),
        "rounds": len(samples) - half,
    }
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "offpolicy.md", markdown(found))
    replace_file(out / "offpolicy.json", json.dumps(found, indent=1))
    return found


def _play(
    bench: Bench, planner: PolicyPlanner, samples: list[Any], name: str, progress: bool
) -> tuple[list[tuple[Any, np.ndarray]], np.ndarray]:
    """Decisions with the costs they chose from, and rewards."""
    explored, planner.explore = planner.explore, True
    recorder = Recorder(_Costs(planner))
    bench.arr.planner = recorder
    rewards = []
    try:
        for sample in tqdm(samples, desc=name, unit="question", disable=not progress):
            (answer,) = bench([sample])
            rewards.append(bench.reward(answer.text, sample))
    finally:
        planner.explore = explored
    decisions = [plan.decision for plan in recorder.plans]
    return list(zip(decisions, recorder.planner.costs, strict=True)), np.array(rewards)


def _estimates(policy: Boltzmann, log: list[tuple[Any, np.ndarray]], rewards: np.ndarray) -> dict[str, Any]:
    decisions = [decision for decision, _ in log]
    target, expected, logged = [], [], []
    mean = policy.posterior.mean.cpu().numpy()
    for decision, costs in log:
        chances = policy.select(decision.contexts, decision.covariates, costs, price=decision.price).probabilities
        target.append(chances)
        phi = np.concatenate([(chances[:, 1:].T @ decision.contexts).ravel(), [1.0], decision.covariates])
        expected.append(mean @ phi)
        logged.append(mean @ decision.features)
    weights = ope.importance_weights(decisions, target)
    made = [
        ope.dm(expected), ope.ips(rewards, weights), ope.snips(rewards, weights),
        ope.dr(rewards, weights, logged, expected), ope.pi(rewards, decisions, target),
        ope.snpi(rewards, decisions, target), ope.dr_pi(rewards, decisions, target, logged, expected),
    ]  # fmt: skip
    return {estimate.method: dataclasses.asdict(estimate) for estimate in made}


def markdown(found: dict[str, Any]) -> str:
    """The table of estimates beside the truth."""
    truth, old = found["truth"], found["old"]
    cells = [
        [
            name,
            f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]",
            f"{e['value'] - truth[0]:+.3f}",
            f"{e['ess']:.0f}",
        ]
        for name, e in found["estimates"].items()
    ]
    text = (
        f"Played, the new policy earns {truth[0]:.3f} [{truth[1]:.3f}, {truth[2]:.3f}] a question; the old one earned "
        f"{old[0]:.3f} [{old[1]:.3f}, {old[2]:.3f}] in the {found['rounds']} logged rounds."
    )
    table = markdown_table(("estimator", "from the log [95% CI]", "minus the truth", "effective rounds"), cells)
    return f"# Off-policy evaluation\n\n{text}\n\n{table}\n"
