"""From question records to the numbers of a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from arr_coc.learning.rewards import pope_metrics

from ..config import EvalConfig
from ..records import Record
from .statistics import at_tokens, curve_area, mean_interval, mean_over, paired_difference, spread, tokens_at

STAGES = {
    "glance": ("glance", "read"),
    "plan": ("knowing", "balancing", "attending"),
    "encode": ("encode",),
    "LM": ("splice", "generate", "prefill", "decode"),
}
"""The columns of time, and the stages behind each; "read" is the language model's pass over the glance."""
PARTS = {"prefill": ("splice", "prefill"), "decode": ("decode",)}
"""The language model's time in two, where the first token was timed."""


def summarise(
    records: Sequence[Record],
    config: EvalConfig,
    labels: Sequence[str],
    uniform: Sequence[str] = (),
    curves: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Metrics of a run.

    Parameters
    ----------
    records
        One per method and question; every method has the same questions, or the first of them.
    config
        Resamples, seed and baselines.
    labels
        Methods in the order of the tables; those without records are left out.
    uniform
        Labels of the methods that form the uniform curve, against which others are compared at matched tokens.
    curves
        Labels of other methods that together form a curve of accuracy against tokens, by the curve's name.

    Returns
    -------
    dict
        ``methods`` (accuracy with interval, tokens, share of full detail, milliseconds by stage, peak memory, kinds of
        question), ``differences`` (per baseline and method), ``matched`` (per method: against the uniform curve at its
        own tokens, the tokens at which that curve reaches its accuracy, and against the curve at its own time to the
        first token), ``utility`` (score less the price of the tokens, per method and against each baseline),
        ``curves`` (areas against the uniform curve's) and ``area`` under the uniform curve.

    Raises
    ------
    ValueError
        If the methods did not answer the same questions.
    """
    answered = by_method(records)
    table = {label: answered[label] for label in labels if label in answered}
    most = max(table.values(), key=len)
    images, kinds = [r["image_id"] for r in most], sorted({r["kind"] for r in most})
    scores = {label: np.array([r["score"] for r in rows]) for label, rows in table.items()}
    options = {"resamples": config.resamples, "seed": config.seed}
    methods = {
        label: {
            "questions": len(rows),
            "accuracy": mean_interval(scores[label], images[: len(rows)], **options).to_list(),
            "tokens": spread([r["tokens"] for r in rows]),
            "share": sum(r["tokens"] for r in rows) / sum(r["full_tokens"] for r in rows),
            "milliseconds": _milliseconds(rows),
            **_memory(rows),
            **_yes_no(rows, config),
            "kinds": {
                kind: _kind(found, options) for kind in kinds if (found := [r for r in rows if r["kind"] == kind])
            },
        }
        for label, rows in table.items()
    }

    def points(names: Sequence[str], count: int) -> list[tuple[float, np.ndarray]]:
        """Tokens and scores of a curve's methods on the first questions."""
        return [
            (float(np.mean([r["tokens"] for r in table[name][:count]])), scores[name][:count])
            for name in names
            if name in table and len(table[name]) >= count
        ]

    curve = points(uniform, len(most))
    matched = {}
    for label, rows in table.items():
        if label in uniform:
            continue
        count = len(rows)
        mixture = at_tokens(points(uniform, count), float(np.mean([r["tokens"] for r in rows])))
        if mixture is None:
            continue
        matched[label] = _expected(scores[label], mixture, images[:count], options)
        means = [(tokens, float(score.mean())) for tokens, score in points(uniform, count)]
        matched[label]["tokens of equal accuracy"] = tokens_at(means, float(scores[label].mean()))
        timed = [(_first(table[name]), scores[name][:count]) for name in uniform if len(table.get(name, ())) >= count]
        if _first(rows) > 0 and all(seconds > 0 for seconds, _ in timed):
            mixture = at_tokens(timed, _first(rows))
            matched[label]["at equal time"] = (
                None if mixture is None else _expected(scores[label], mixture, images[:count], options)
            )
    return {
        "questions": len(most),
        "images": len(set(images)),
        "full tokens": spread([r["full_tokens"] for r in most]),
        "methods": methods,
        "differences": {
            base: {
                label: _difference(scores[label], scores[base], images, options) for label in table if label != base
            }
            for base in config.baselines
            if base in table
        },
        "utility": _utility(table, scores, images, config),
        "matched": matched,
        "curves": _curves(points, uniform, curves or {}, images, options),
        "area": curve_area([(tokens, float(score.mean())) for tokens, score in curve]),
    }


def _difference(a: np.ndarray, b: np.ndarray, images: Sequence[str], options: Mapping[str, int]) -> dict[str, float]:
    """Paired on the questions that both answered."""
    count = min(len(a), len(b))
    return paired_difference(a[:count], b[:count], images[:count], **options).to_dict() | {"questions": count}


def _expected(
    scores: np.ndarray, mixture: np.ndarray, images: Sequence[str], options: Mapping[str, int]
) -> dict[str, Any]:
    """Against a mixture's scores: they are expectations, so counts of right and wrong mean nothing here."""
    found = paired_difference(scores, mixture, images, **options)
    return {"value": found.value, "low": found.low, "high": found.high, "p": found.p}


def _curves(
    points: Callable[[Sequence[str], int], list[tuple[float, np.ndarray]]],
    uniform: Sequence[str],
    curves: Mapping[str, Sequence[str]],
    images: Sequence[str],
    options: Mapping[str, int],
) -> dict[str, Any]:
    """Per curve its mean accuracy over the tokens that it and the uniform curve both reach, and their difference."""
    base, found = points(uniform, len(images)), {}
    for name, labels in curves.items():
        own = points(labels, len(images))
        if len(own) < 2 or len(base) < 2:
            continue
        low = max(min(tokens for tokens, _ in line) for line in (own, base))
        high = min(max(tokens for tokens, _ in line) for line in (own, base))
        if low >= high:
            continue
        ours, theirs = (mean_over(line, low, high) for line in (own, base))
        found[name] = {
            "methods": list(labels),
            "tokens": [low, high],
            "accuracy": mean_interval(ours, images, **options).to_list(),
            "minus uniform": _expected(ours, theirs, images, options),
        }
    return found


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
        found["methods"][label] = mean_interval(values, images[: len(values)], **options).to_list()
    for base in config.baselines:
        if base in net:
            pairs = {k: min(len(v), len(net[base])) for k, v in net.items() if k != base}
            # Counts of right and wrong mean nothing where tokens are subtracted.
            found["differences"][base] = {
                k: _expected(net[k][:n], net[base][:n], images[:n], options) for k, n in pairs.items()
            }
    return found


def by_method(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of each method, all in the same order of questions; a method may have only the first of them."""
    table: dict[str, dict[str, Record]] = {}
    for record in records:
        table.setdefault(record["method"], {})[record["question_id"]] = record
    if not table:
        raise ValueError("no method answered a question; see the reasons in 'skipped'")
    questions = list(max(table.values(), key=len))
    for label, rows in table.items():
        if rows.keys() != set(questions[: len(rows)]):
            raise ValueError(
                f"{label} answered {len(rows)} questions, others {len(questions)}; methods must answer the same ones, "
                "or the first of them"
            )
    return {label: [rows[question] for question in questions[: len(rows)]] for label, rows in table.items()}


def _kind(rows: Sequence[Record], options: dict[str, int]) -> dict[str, Any]:
    accuracy = mean_interval(np.array([r["score"] for r in rows]), [r["image_id"] for r in rows], **options)
    return {
        "questions": len(rows),
        "accuracy": accuracy.to_list(),
        "tokens": float(np.mean([r["tokens"] for r in rows])),
    }


def _timed(rows: Sequence[Record]) -> list[Record]:
    """What was timed: of some questions apart, else with the answers; nothing where answers were shared."""
    apart = [r["timed"] for r in rows if "timed" in r]
    return apart or [r for r in rows if r["seconds"] > 0]


def _first(rows: Sequence[Record]) -> float:
    """Mean seconds to the first token; 0 where it was not timed."""
    timed = [r.get("first", 0.0) for r in _timed(rows)]
    return float(np.mean(timed)) if timed and min(timed) > 0 else 0.0


def _milliseconds(rows: Sequence[Record]) -> dict[str, float]:
    """Median per question: the whole call, its first token and its stages where they were timed."""
    timed = _timed(rows)
    if not timed:
        return {}
    medians = {"total": 1000 * float(np.median([r["seconds"] for r in timed]))}
    if _first(rows) > 0:
        medians["first token"] = 1000 * float(np.median([r["first"] for r in timed]))
        medians["first token, mean"] = 1000 * _first(rows)
    for column, stages in {**STAGES, **PARTS}.items():
        if all(any(stage in r["timings"] for stage in stages) for r in timed):
            medians[column] = 1000 * float(np.median([sum(r["timings"].get(s, 0.0) for s in stages) for r in timed]))
    return medians


def _yes_no(rows: Sequence[Record], config: EvalConfig) -> dict[str, Any]:
    """POPE's figures, where the answers are yes and no."""
    if config.task.reward != "pope_accuracy":
        return {}
    return {"pope": pope_metrics([r["answer"] for r in rows], [r["answers"][0] for r in rows])}


def _memory(rows: Sequence[Record]) -> dict[str, Any]:
    """Peak memory in bytes above the start of the call: the largest of the questions that were timed apart."""
    timed = [r["timed"] for r in rows if "timed" in r and r["timed"]["memory"] is not None]
    return {"memory": max(t["memory"] for t in timed), "memory of": timed[0]["memory of"]} if timed else {}
