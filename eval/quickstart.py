"""The whole loop on the shipped reference model: wrap, learn from VQA reward, evaluate beside the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import arr_coc
from arr_coc.config import ArrCocConfig
from arr_coc.reference import generate

from .config import EvalConfig, TaskConfig
from .run import run

METHODS: list[Any] = [
    "uniform-64",
    "uniform-128",
    "uniform-256",
    "uniform-400",
    {"method": "random", "match": "learned", "label": "random"},
    "top-patch-400",
    {"method": "heuristic", "label": "heuristic-no-doubt", "confidence": False},
    "heuristic",
    "learned",
    "oracle",
]


def quickstart(
    out: Path, episodes: int = 400, questions: int = 200, seed: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Learn a policy, then evaluate it on questions and images that neither it nor the model has seen.

    Parameters
    ----------
    out
        Run folder; the learned policy and the learning log go there too.
    episodes, questions
        Questions to learn from, and to be judged on.
    seed
        Of both streams of questions and of the policy.
    progress
        Whether to show bars.

    Returns
    -------
    dict
        The metrics of the evaluation.
    """
    model, processor = arr_coc.reference.load()
    config = ArrCocConfig(seed=seed)
    with arr_coc.wrap(model, processor, config) as arr:
        stream = generate(episodes, seed=seed, split="learn")
        arr_coc.learn(arr, stream, episodes=episodes, out=out / "learning", resume=True, progress=progress)
        arr.save_pretrained(out / "policy")
        evaluation = EvalConfig(
            out=str(out), policy=str(out / "policy"), methods=METHODS, seed=seed,
            task=TaskConfig(limit=questions, seed=seed), batch_size=1, max_new_tokens=4,
        )  # fmt: skip
        metrics = run(evaluation, arr, progress)
    first_question(seed)["image"].save(out / "picture.png")
    return metrics


def first_question(seed: int = 0) -> dict[str, Any]:
    """The first question that a quickstart is judged on, whose picture is left in the run folder."""
    return next(generate(1, seed=seed, split="eval"))
