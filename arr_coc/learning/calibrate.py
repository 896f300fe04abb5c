"""Fit relevance and doubt to a model by its own answers; no labels.

For every question the model answers at the floor, at full detail and, where the two differ, with single patches raised
alone: a patch is *needed* if raising it brings back the answer of full detail. That is where the evidence was, as far
as this model can see. Beside the answers stand the attention maps of all layers over the glance. Then

- the reading: the model's default against every single layer, the band, and non-negative weights of all layers, each
  as it is and with what a place draws under every question taken off (position prior, sinks). It is chosen on one half
  of the pictures and kept only if it finds more needed patches on the other half, lower bound above zero;
- its trust: how often its first patch is needed there, which floors the relevance of the others;
- doubt: monotone regression (Barlow et al. 1972) of "full detail changes the answer" on the glance's doubt.

The signal is this model's agreement with itself: it says what the model can see, not what is true.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression, nnls
from tqdm.auto import tqdm

from allocator.locks import FolderLock

from ..asking.ask import answers, prepare
from ..asking.models import model_identity
from ..knowing.calibration import Calibration, fingerprint
from ..knowing.participatory import PLACES, place_of
from ..knowing.reading import BAND
from ..scene.contract import Plan, Scene
from .gathered import Gathered
from .rewards import normalize_answer

if TYPE_CHECKING:
    from ..wrapping.wrapper import ArrCoc

TRUSTED = 1.3
"""Hits of the first patch, in multiples of chance, below which relevance is not trusted at all."""
LEAST_DOUBT, LEAST_AUROC = 0.05, 0.6
"""Median doubt, and its power to tell which answers more detail would change, below which doubt is not used."""
_EPS = 1e-4


class Watcher:
    """A planner that plans the floor everywhere and keeps what can be read: layers' maps, relevance and doubt.

    Attributes
    ----------
    seen
        ``cells [N, depth, 64]``, ``own [N]`` and ``doubt`` of the last scene.
    """

    needs = frozenset({"glance", "answer", "pixels"})

    def __init__(self, budgets: Sequence[int], contexts: Any, depth: int) -> None:
        self.budgets, self.contexts, self.depth = budgets, contexts, depth
        self.seen: dict[str, Any] = {}

    def plan(self, scene: Scene) -> Plan:
        """The floor; what was seen is in `seen` then."""
        doubt, _ = self.contexts.doubt(scene)
        maps = scene.read_attention(list(range(self.depth))).float().mean(1)
        maps = maps / maps.sum(-1, keepdim=True).clamp_min(1e-12)
        cells = np.zeros((len(scene.patches), self.depth, 64), dtype=np.float32)
        start = 0
        for i, (rows, columns) in enumerate(scene.glance_grids):
            part = maps[:, start : start + rows * columns].numpy()
            for c in range(rows * columns):
                cells[i, :, place_of(c, rows, columns)] += part[:, c]
            start += rows * columns
        scores = {scorer.name: scorer(scene) for scorer in self.contexts.relevance.readers}
        own = self.contexts.relevance.join(scores)
        self.seen = {"cells": cells, "own": own.numpy(), "doubt": doubt}
        return Plan([self.budgets[0]] * len(scene.patches))


def calibrate(
    arr: ArrCoc,
    questions: Iterable[Mapping[str, Any]],
    n: int = 200,
    *,
    raises: int = 9,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    seed: int = 0,
) -> Calibration:
    """Calibrate a wrapped model to itself.

    Parameters
    ----------
    arr
        The wrapped model, with a policy that looks at the image.
    questions
        Mappings with ``image`` and ``question``; ``image_id`` where one picture has several. Labels are not read.
    n
        Questions to ask. Each costs two answers, and each whose floor fails up to ``raises`` more.
    raises
        Patches raised alone, at most: the first ones by the default reading and by each layer in turn.
    out
        File to write; beside it ``OUT.answers.jsonl`` and ``OUT.maps/``, from which a broken calibration goes on.
    progress
        Whether to show a bar.
    seed
        Of the bootstrap.

    Returns
    -------
    Calibration
        ``.apply(config, model, processor)`` makes a configuration of it.

    Raises
    ------
    ValueError
        For a policy that does not look, ``n`` or ``raises`` below 1, fewer than 20 questions, where another process
        writes ``out``, or what lies beside it is damaged, of another model or of other questions.
    """
    from ..attending.planners import PolicyPlanner

    planner: Any = arr.planner
    if not isinstance(planner, PolicyPlanner) or not planner.contexts.relevance.readers:
        raise ValueError(f"policy {arr.config.policy!r} reads no relevance, so there is nothing to calibrate")
    for name, value in (("n", n), ("raises", raises)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be an int of at least 1")
    depth = arr.model.config.get_text_config().num_hidden_layers
    file = None if out is None else Path(out)
    with contextlib.nullcontext() if file is None else FolderLock(file.parent, f"{file.name}.lock"):
        rows = _gather(arr, questions, n, raises, depth, file, progress)
        if len(rows) < 20:
            raise ValueError(f"{len(rows)} questions are too few to calibrate on; give at least 20, better 200")
        found = fit(rows, depth, seed)
        calibration = Calibration(made_for=fingerprint(arr.model, arr.processor), **found)
        for note in calibration.report["notes"]:
            warnings.warn(note, stacklevel=2)
        if file is not None:
            calibration.save(file)
    return calibration


def _gather(
    arr: ArrCoc, questions: Iterable[Mapping[str, Any]], n: int, raises: int, depth: int, out: Path | None, show: bool
) -> list[dict[str, Any]]:
    gathered = Gathered(out, model_identity(arr.model), depth)
    rows = gathered.rows
    own: Any = arr.planner
    watcher: Any = Watcher(arr.config.budgets, own.contexts, depth)
    bar = tqdm(total=n, initial=min(len(rows), n), desc="calibrating", unit="question", disable=not show)
    try:
        for number, sample in enumerate(questions):
            if number >= n:
                break
            if number < len(rows):
                gathered.compare(number, sample)
                continue
            row = _ask(arr, watcher, sample, raises)
            gathered.append(sample, {**row, "picture": str(sample.get("image_id", number))})
            bar.update()
            bar.set_postfix(changed=f"{np.mean([r['changed'] for r in rows]):.0%}")
    finally:
        arr.planner = own
        bar.close()
    return rows[:n]


@torch.no_grad()
def _ask(arr: ArrCoc, watcher: Watcher, sample: Mapping[str, Any], raises: int) -> dict[str, Any]:
    inputs = prepare(arr.processor, [sample["image"]], [sample["question"]]).to(arr.model.device)

    def answer(budgets: list[int] | None = None) -> str:
        given = {} if budgets is None else {"allocation": [budgets]}
        (text,) = answers(arr.processor, inputs["input_ids"], arr.model.generate(**inputs, do_sample=False, **given))
        return normalize_answer(text)

    arr.planner = watcher
    floor = answer()
    least = arr.config.budgets[0]
    return row_of(watcher, lambda budgets: floor if set(budgets) == {least} else answer(budgets), raises)


def row_of(watcher: Watcher, answer: Callable[[list[int]], str], raises: int = 9) -> dict[str, Any]:
    """What one question tells: what its watcher has seen, and what it answers to allocations.

    Parameters
    ----------
    watcher
        Who has just planned the question.
    answer
        From budgets, one per patch, to the normalised answer.
    raises
        Patches raised alone, at most.
    """
    seen, (least, *_, most) = watcher.seen, watcher.budgets
    count = len(seen["own"])
    floor, full = answer([least] * count), answer([most] * count)
    needed: dict[int, bool] = {}
    if floor != full:
        for patch in _first(seen["cells"].sum(-1), seen["own"], raises):
            needed[patch] = answer([most if i == patch else least for i in range(count)]) == full
    return {
        "cells": seen["cells"], "own": [float(x) for x in seen["own"]], "doubt": seen["doubt"],
        "changed": floor != full, "needed": {str(k): v for k, v in needed.items()},
    }  # fmt: skip


def _first(masses: np.ndarray, own: np.ndarray, raises: int) -> list[int]:
    """Patches in the order in which readings would propose them: the default's first, then each layer's, in turn."""
    orders = [
        np.argsort(-own, kind="stable"),
        *(np.argsort(-masses[:, j], kind="stable") for j in range(masses.shape[1])),
    ]
    ranked = dict.fromkeys(int(order[place]) for place in range(len(own)) for order in orders)
    return list(ranked)[:raises]


# What the answers say.


def fit(rows: Sequence[Mapping[str, Any]], depth: int, seed: int = 0) -> dict[str, Any]:
    """Reading, trust and doubt from gathered questions; the fields of `Calibration` without its key."""
    told = [row for row in rows if any(row["needed"].values())]
    pictures = sorted({row["picture"] for row in told})
    half = {picture: number % 2 for number, picture in enumerate(pictures)}
    chance = float(np.mean([np.mean(list(row["needed"].values())) for row in told])) if told else 0.0
    report: dict[str, Any] = {
        "questions": len(rows), "changed by detail": float(np.mean([row["changed"] for row in rows])),
        "solved by one patch": len(told), "chance": chance, "notes": [],
    }  # fmt: skip
    reading: dict[str, Any] = {}
    hits = float(np.mean([_hit(row, row["own"]) for row in told])) if told else 0.0
    if len(told) >= 20:
        reading, hits, tried = _reading(rows, told, half, depth, seed)
        report["readings"] = tried
    else:
        report["notes"].append(f"only {len(told)} questions were solved by one raised patch; the reading stays")
    report["hits of the first patch"] = hits
    patches = float(np.mean([len(row["own"]) for row in rows]))
    floor = min(1.0, (1 - hits) / max((patches - 1) * hits, 1e-9)) if told else 0.0
    if told and hits < TRUSTED * chance:
        floor = 1.0
        report["notes"].append(
            f"the most relevant patch is the needed one in {hits:.0%} of questions, by chance in {chance:.0%}: "
            "relevance is not trusted, detail goes where there is doubt"
        )
    doubt = _doubt(rows, report)
    return {"reading": reading, "relevance_floor": floor, "doubt": doubt, "report": report}


def _hit(row: Mapping[str, Any], scores: Sequence[float]) -> float:
    """Whether the best of the patches that were raised is one that was needed."""
    tried = [int(patch) for patch in row["needed"]]
    return float(row["needed"][str(max(tried, key=lambda patch: scores[patch]))])


def _prior(rows: Sequence[Mapping[str, Any]], weights: np.ndarray) -> np.ndarray:
    """``[PLACES, 64]`` how many times its even share a place draws under every question: a geometric mean."""
    logs, seen = np.zeros((len(PLACES), 64)), np.zeros(len(PLACES))
    for row in rows:
        joined = np.einsum("nlc,l->nc", row["cells"], weights)
        even = joined.sum() / joined.size
        for i, cells in enumerate(joined):
            place = _place(i, len(joined))
            logs[place] += np.log(cells / max(even, 1e-12) + 1e-2)
            seen[place] += 1
    return np.exp(logs / np.maximum(seen, 1)[:, None])


def _place(index: int, count: int) -> int:
    return 0 if index == 0 else 2 if index == count - 1 else 1


def _scores(row: Mapping[str, Any], weights: np.ndarray, prior: np.ndarray | None) -> list[float]:
    joined = np.einsum("nlc,l->nc", row["cells"], weights)
    if prior is not None:
        joined = joined / np.stack([prior[_place(i, len(joined))] for i in range(len(joined))])
    total: list[float] = joined.sum(1).tolist()
    return total


def _reading(
    rows: Sequence[Mapping[str, Any]],
    told: Sequence[Mapping[str, Any]],
    half: Mapping[str, int],
    depth: int,
    seed: int,
) -> tuple[dict[str, Any], float, dict[str, float]]:
    learn = [row for row in told if half[row["picture"]] == 0]
    judge = [row for row in told if half[row["picture"]] == 1]
    candidates: dict[str, np.ndarray] = {f"layer {j}": np.eye(depth)[j] for j in range(depth)}
    first = int(BAND[0] * depth)
    band = np.zeros(depth)
    band[first : max(int(BAND[1] * depth), first + 1)] = 1.0
    candidates["band"] = band
    masses = np.concatenate([row["cells"].sum(-1) for row in learn])
    wanted = np.concatenate([_wanted(row) for row in learn])
    fitted = nnls(masses, wanted)[0]
    if fitted.sum() > 0:
        candidates["fitted"] = fitted
    tried, best = {}, ("", -1.0)
    made: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for name, raw in candidates.items():
        weights = raw / raw.sum()
        for suffix, prior in (("", None), (" less its prior", _prior(rows, weights))):
            made[name + suffix] = weights, prior
            score = float(np.mean([_hit(row, _scores(row, weights, prior)) for row in learn]))
            tried[name + suffix] = score
            if score > best[1]:
                best = name + suffix, score
    weights, prior = made[best[0]]
    mine = np.array([_hit(row, row["own"]) for row in judge])
    theirs = np.array([_hit(row, _scores(row, weights, prior)) for row in judge])
    low = _lower(theirs - mine, [row["picture"] for row in judge], seed)
    tried |= {
        "default, held out": float(mine.mean()),
        f"{best[0]}, held out": float(theirs.mean()),
        "lower bound": low,
    }
    if low <= 0:
        return {}, float(mine.mean()), tried
    layers = [int(j) for j in np.flatnonzero(weights > 0)]
    reading: dict[str, Any] = {"layers": layers, "weights": [round(float(weights[j]), 5) for j in layers]}
    if prior is not None:
        reading["prior"] = np.round(prior, 4).tolist()
    return reading, float(theirs.mean()), tried


def _wanted(row: Mapping[str, Any]) -> np.ndarray:
    wanted = np.zeros(len(row["own"]))
    for patch, yes in row["needed"].items():
        wanted[int(patch)] = float(yes)
    return wanted / wanted.sum()


def _lower(differences: np.ndarray, pictures: Sequence[str], seed: int) -> float:
    """Lower end of the 95 % bootstrap interval of the mean, over pictures."""
    names = sorted(set(pictures))
    groups = [differences[[p == name for p in pictures]] for name in names]
    sums, sizes = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    drawn = np.random.default_rng(seed).integers(len(names), size=(2000, len(names)))
    return float(np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), 0.025))


def _doubt(rows: Sequence[Mapping[str, Any]], report: dict[str, Any]) -> list[list[float]] | None:
    """Knots of the monotone regression; a constant where doubt tells nothing."""
    u, changed = np.array([row["doubt"] for row in rows]), np.array([row["changed"] for row in rows], dtype=float)
    report["median doubt"] = float(np.median(u))
    if changed.min() == changed.max():
        report["notes"].append("more detail changed no answer, or every one; doubt stays as it is")
        return None
    ranks = np.argsort(np.argsort(u, kind="stable")) + 1.0
    for value in np.unique(u):
        ranks[u == value] = ranks[u == value].mean()
    yes = int(changed.sum())
    auroc = float((ranks[changed == 1].sum() - yes * (yes + 1) / 2) / (yes * (len(u) - yes)))
    report["AUROC of doubt"] = auroc
    if auroc < LEAST_AUROC:
        report["notes"].append(
            f"doubt does not tell which answers detail would change (AUROC {auroc:.2f}): it is taken as "
            f"{changed.mean():.2f} for every question"
        )
        return [[0.0, 1.0], [float(changed.mean())] * 2]
    if np.median(u) < LEAST_DOUBT:
        report["notes"].append(
            f"the model is sure of most glances (median doubt {np.median(u):.3f}); doubt is rescaled"
        )
    # Equal doubts are one observation: the regression would rise within them.
    known, which, counts = np.unique(np.round(u, 6), return_inverse=True, return_counts=True)
    smooth = isotonic_regression(np.bincount(which, weights=changed) / counts, weights=counts.astype(float)).x
    # A share of one more of each outcome: a few hundred answers can't say "never".
    smooth = (smooth * len(u) + changed.mean()) / (len(u) + 1)
    spread = np.cumsum(counts) - counts  # knots where the questions are
    places = np.unique(np.searchsorted(spread, np.linspace(0, len(u) - 1, 65), side="right") - 1)
    xs, ys = known[places], smooth[places]
    report["calibration error of doubt"] = float(np.abs(np.interp(u, xs, ys) - u).mean())
    return [[round(float(x), 6) for x in xs], [round(float(y), 6) for y in ys]]
