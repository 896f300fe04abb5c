"""Knowing that was fitted to the model in this run, before the first question that is judged; broken knowing too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from arr_coc.attending.planners import make_planner
from arr_coc.knowing.calibration import Calibration, fingerprint
from arr_coc.learning.calibrate import Watcher, fit, row_of
from arr_coc.learning.rewards import normalize_answer
from arr_coc.reference import generate
from arr_coc.scene.contract import Plan, Scene

from ..corruptions import Corruption, make_corruption

if TYPE_CHECKING:
    from arr_coc import ArrCocConfig

    from ..model.bench import Bench

_APART = 10_000  # seeds of the questions of a calibration, from those of learning


class _Filtered:
    def __init__(self, watcher: Watcher, corruption: Corruption | None) -> None:
        self.watcher, self.corruption, self.needs = watcher, corruption, watcher.needs

    def plan(self, scene: Scene) -> Plan:
        return self.watcher.plan(scene if self.corruption is None else self.corruption(scene))


def calibrated(bench: Bench, config: ArrCocConfig, corruption: Any, n: int) -> ArrCocConfig:
    """A configuration, calibrated on ``n`` unlabelled questions of the reference world with knowing as a corruption
    leaves it; what was found is kept in the run's folder. 0 questions leave it as it is."""
    if not n:
        return config
    key = "calibration", n, json.dumps(corruption, sort_keys=True)
    if key not in bench.lessons:
        bench.lessons[key] = _found(bench, config, corruption, n)
    found: Calibration = bench.lessons[key]
    return found.apply(config, bench.arr.model, bench.arr.processor)


def _found(bench: Bench, config: ArrCocConfig, corruption: Any, n: int) -> Calibration:
    name = json.dumps(corruption).translate(str.maketrans("", "", '{}":,')).replace(" ", "-") or "none"
    file = None if bench.folder is None else bench.folder / "calibration" / f"{name}.json"
    if file is not None and file.exists():
        return Calibration.load(file)
    filtering = None if corruption is None else make_corruption(corruption)
    planner: Any = make_planner(config, bench.arr.model, bench.arr.processor)
    depth = getattr(filtering, "depth", bench.arr.model.config.get_text_config().num_hidden_layers)
    watcher = Watcher(config.resolved().budgets, planner.contexts, depth)
    rows = []
    with torch.no_grad():
        for number, sample in enumerate(generate(n, seed=_APART + bench.seed, split="learn")):
            told = {**sample, "question_id": f"calibration {number} {sample['question_id']}"}
            bench.cached(told).plan(_Filtered(watcher, filtering))

            def answer(budgets: list[int], told: Any = told) -> str:
                return normalize_answer(bench.answer_plan(told, Plan(budgets)).text)

            rows.append({**row_of(watcher, answer), "picture": str(sample.get("image_id", number))})
            bench.forget()
    made = Calibration(made_for=fingerprint(bench.arr.model, bench.arr.processor), **fit(rows, depth, bench.seed))
    if file is not None:
        made.save(file)
    return made
