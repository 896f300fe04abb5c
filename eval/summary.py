"""From question records to the numbers of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .config import EvalConfig
from .records import Record
from .statistics import at_tokens, curve_area, mean_interval, paired_difference, spread, tokens_at

STAGES = {
    "glance": ("glance",),
    "plan": ("knowing", "balancing", "attending"),
    "encode": ("encode",),
    "LM": ("splice", "generate"),
}
"""The columns of time, and the wrapper's stages behind each."""


def summarise(
    records: Sequence[Record], config: EvalConfig, labels: Sequence[str], uniform: Sequence[str] = ()
) -> dict[str, Any]:
    """Metrics of a run.

    Parameters
    ----------
    records
        One per method and question; every method has the same questions.
    config
        Resamples, seed and baselines.
    labels
        Methods in the order of the tables; those without records are left out.
    uniform
        Labels of the methods that form the uniform curve, against which others are compared at matched tokens.

    Returns
    -------
    dict
        ``methods`` (accuracy with interval, tokens, share of full detail, milliseconds by stage, kinds of question),
        ``differences`` (per baseline and method), ``matched`` (per method: against the uniform curve at its own
        tokens, and the tokens at which that curve reaches its accuracy), ``utility`` (score less the price of the
        tokens, per method and against each baseline) and ``area`` under the uniform curve.

    Raises
    ------
    ValueError
        If the methods did not answer the same questions.
    """
    answered = by_method(records)
    table = {label: answered[label] for label in labels if label in answered}
    first = next(iter(table.values()))
    images, kinds = [r["image_id"] for r in first], sorted({r["kind"] for r in first})
    scores = {label: np.array([r["score"] for r in rows]) for label, rows in table.items()}
    options = {"resamples": config.resamples, "seed": config.seed}
    methods = {
        label: {
            "accuracy": mean_interval(scores[label], images, **options).to_list(),
            "tokens": spread([r["tokens"] for r in rows]),
            "share": sum(r["tokens"] for r in rows) / sum(r["full_tokens"] for r in rows),
            "milliseconds": _milliseconds(rows),
            "kinds": {kind: _kind([r for r in rows if r["kind"] == kind], options) for kind in kinds},
        }
        for label, rows in table.items()
    }
    curve = [(methods[label]["tokens"]["mean"], scores[label]) for label in uniform if label in table]
    means = [(tokens, float(score.mean())) for tokens, score in curve]
    matched = {}
    for label in table:
        mixture = at_tokens(curve, methods[label]["tokens"]["mean"])
        if label not in uniform and mixture is not None:
            found = paired_difference(scores[label], mixture, images, **options)
            # A mixture's scores are expectations, so counts of right and wrong mean nothing here.
            matched[label] = {"value": found.value, "low": found.low, "high": found.high, "p": found.p}
            matched[label]["tokens of equal accuracy"] = tokens_at(means, methods[label]["accuracy"][0])
    return {
        "questions": len(first),
        "images": len(set(images)),
        "full tokens": spread([r["full_tokens"] for r in first]),
        "methods": methods,
        "differences": {
            base: {
                label: paired_difference(scores[label], scores[base], images, **options).to_dict()
                for label in table
                if label != base
            }
            for base in config.baselines
            if base in table
        },
        "utility": _utility(table, scores, images, config),
        "matched": matched,
        "area": curve_area(means),
    }


def _utility(
    table: Mapping[str, Sequence[Record]], scores: Mapping[str, np.ndarray], images: Sequence[str], config: EvalConfig
) -> dict[str, Any]:
    """Score minus price times share of full detail, what learners maximise: methods that spend differently compare."""
    options = {"resamples": config.resamples, "seed": config.seed}
    net = {
        label: scores[label] - config.price * np.array([r["tokens"] / r["full_tokens"] for r in rows])
        for label, rows in table.items()
    }
    found: dict[str, Any] = {"price": config.price, "methods": {}, "differences": {}}
    for label, values in net.items():
        found["methods"][label] = mean_interval(values, images, **options).to_list()
    for base in config.baselines:
        if base in net:
            pairs = {k: paired_difference(v, net[base], images, **options) for k, v in net.items() if k != base}
            # Counts of right and wrong mean nothing where tokens are subtracted.
            found["differences"][base] = {
                k: {"value": d.value, "low": d.low, "high": d.high, "p": d.p} for k, d in pairs.items()
            }
    return found


def by_method(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of each method, all in the order of the first one's questions."""
    table: dict[str, dict[str, Record]] = {}
    for record in records:
        table.setdefault(record["method"], {})[record["question_id"]] = record
    if not table:
        raise ValueError("no method answered a question; see the reasons in 'skipped'")
    questions = next(iter(table.values())).keys()
    for label, rows in table.items():
        if rows.keys() != questions:
            raise ValueError(
                f"{label} answered {len(rows)} questions, others {len(questions)}; methods must answer the same"
            )
    return {label: [rows[question] for question in questions] for label, rows in table.items()}


def _kind(rows: Sequence[Record], options: dict[str, int]) -> dict[str, Any]:
    accuracy = mean_interval(np.array([r["score"] for r in rows]), [r["image_id"] for r in rows], **options)
    return {
        "questions": len(rows),
        "accuracy": accuracy.to_list(),
        "tokens": float(np.mean([r["tokens"] for r in rows])),
    }


def _milliseconds(rows: Sequence[Record]) -> dict[str, float]:
    """Median per question: the whole call, and its stages where the wrapper timed them."""
    medians = {"total": 1000 * float(np.median([r["seconds"] for r in rows]))}
    if all(r["timings"] for r in rows):
        for column, stages in STAGES.items():
            medians[column] = 1000 * float(np.median([sum(r["timings"].get(s, 0.0) for s in stages) for r in rows]))
    return medians
