"""The reference VLM's own accuracy table: kind of question and size of print x allocation, with intervals."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import Qwen2VLForConditionalGeneration

from allocator.storage import replace_file

from ..questions import KINDS, Question, ask, location
from ..world import LEVELS, Picture, draw_picture
from .checkpoints import parameters_of
from .labels import IGNORE
from .language import Batch, answer_batch
from .packed import TOKEN_GRIDS, encode_at, packed_forward, to_float

ALLOCATIONS = (*(f"uniform {budget}" for budget in TOKEN_GRIDS), "oracle")
"""``oracle`` spends 400 tokens on the patches that hold the evidence and 64 on every other."""
PRINTED = ("number", "word")
MIX = "all"
"""The row of questions as the world asks them."""
GROUPS: tuple[tuple[int | None, tuple[str, ...]], ...] = (
    (None, (MIX, *(kind for kind in KINDS if kind not in PRINTED))),
    *((level, PRINTED) for level in LEVELS),
)
"""Rows that share pictures, by the size of their print (None: as the world draws it)."""
SAVE_EVERY = 30.0
"""Seconds between two writings of an unfinished table."""

Row = tuple[str, Question]


def row_name(kind: str, level: int | None) -> str:
    """How a row of the table is called: "count", "number @400"."""
    return f"{kind} @{level}" if level else kind


def draw_rows(n: int, seed: int) -> Iterator[tuple[Picture, list[Row]]]:
    """Pictures and the questions asked of them: at most one per row of the table, until every row has ``n`` pictures.

    The pictures are those of no split: their stream is called "table".
    """
    for level, kinds in GROUPS:
        missing, i = dict.fromkeys(kinds, n), 0
        while any(missing.values()):
            rng = random.Random(f"table/{seed}/{kinds[0]}/{level}/{i}")
            i += 1
            picture = draw_picture(rng, "eval", level=level)
            rows = []
            for kind in (kind for kind, m in missing.items() if m):
                question = ask(rng, picture, None if kind == MIX else kind)
                if question is not None:
                    missing[kind] -= 1
                    rows.append((row_name(kind, level), question))
            if rows:
                yield picture, rows


class PictureReader:
    """Answers questions about one picture under any allocation; the tower reads each patch once per budget."""

    def __init__(self, model: Qwen2VLForConditionalGeneration, picture: Picture) -> None:
        self.model, self.picture = model, picture
        self.pixels = to_float(list(picture.patches()))
        self.features: dict[int, list[torch.Tensor]] = {}

    @torch.no_grad()
    def logits(self, budgets: Sequence[int], questions: Sequence[Question]) -> tuple[torch.Tensor, Batch]:
        """Next-token logits everywhere in the questions ``[1, Q, T, V]``, and the batch they were asked in."""
        for budget in set(budgets) - set(self.features):
            self.features[budget] = encode_at(self.model, self.pixels, [budget] * len(self.pixels))
        vision = torch.cat([self.features[b][p] for p, b in enumerate(budgets)])
        places = [location(self.picture.grid, p) for p in range(len(budgets))]
        batch = answer_batch([places], [[TOKEN_GRIDS[b] for b in budgets]], [questions])
        packed = packed_forward(self.model, batch.ids, vision, batch.positions, batch.tokens)
        return self.model.lm_head(packed.hidden), batch

    def right(self, budgets: Sequence[int], questions: Sequence[Question]) -> list[bool]:
        """Whether greedy decoding answers each question exactly: the answer word, then the end."""
        logits, batch = self.logits(budgets, questions)
        agrees = (logits.argmax(-1) == batch.labels) | (batch.labels == IGNORE)
        return [bool(ok) for ok in agrees.all(-1)[0]]


def allocate(allocation: str, question: Question, patches: int) -> tuple[int, ...]:
    """Budgets of ``patches`` patches under one of ``ALLOCATIONS``."""
    if allocation != "oracle":
        return (int(allocation.split()[1]),) * patches
    evidence = {p for p, _ in question.evidence}
    return tuple(400 if p in evidence else 64 for p in range(patches))


def judge(
    model: Qwen2VLForConditionalGeneration, picture: Picture, rows: Sequence[Row]
) -> Iterator[tuple[str, str, bool, tuple[int, ...]]]:
    """Row, allocation, verdict and budgets for every question of a picture under every allocation."""
    reader = PictureReader(model, picture)
    for allocation in ALLOCATIONS:
        together: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            together.setdefault(allocate(allocation, row[1], len(picture.signs)), []).append(row)
        for budgets, asked in together.items():
            for (name, _), right in zip(asked, reader.right(budgets, [q for _, q in asked]), strict=True):
                yield name, allocation, right, budgets


def fingerprint(model: Qwen2VLForConditionalGeneration) -> str:
    """SHA-256 of the weights, so that a table is known to belong to them."""
    digest = hashlib.sha256()
    for name, weight in sorted(parameters_of(model).items()):
        digest.update(name.encode() + weight.float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def records_of(cells: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Counts as the table's records, rows in the order of ``GROUPS``."""
    records = []
    for name in (row_name(kind, level) for level, kinds in GROUPS for kind in kinds):
        for allocation in ALLOCATIONS:
            right, count, tokens, share = cells[f"{name}/{allocation}"]
            low, high = wilson(int(right), int(count))
            records.append(
                dict(
                    row=name, allocation=allocation, right=int(right), count=int(count), accuracy=right / count,
                    low=low, high=high, tokens=tokens / count, share=share / count,
                )
            )  # fmt: skip
    return records


def read_table(file: str | Path) -> dict[str, Any]:
    """A table that ``evaluate`` wrote, finished or not. ValueError if it is something else."""
    try:
        table = json.loads(Path(file).read_text(encoding="utf-8"))
        if {"n", "seed", "weights", "pictures", "seconds", "complete", "cells", "records"} <= set(table):
            return dict(table)
    except (ValueError, TypeError):
        pass
    raise ValueError(f"{file} is not an accuracy table; make one with arr-coc reference eval, or name another file")


def evaluate(
    model: Qwen2VLForConditionalGeneration,
    n: int = 500,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure the accuracy table on fresh pictures, or go on with a broken measurement.

    Parameters
    ----------
    model
        The reference VLM.
    n
        Pictures (and questions) per cell.
    seed
        Of the pictures.
    out
        JSON file for the table, written atomically every half minute; a finished one is not measured again.
    progress
        Whether to show a progress bar.

    Returns
    -------
    dict
        ``n``, ``seed``, ``weights`` (SHA-256), ``pictures``, ``seconds``, ``complete``, ``cells`` (raw sums) and
        ``records``: one dict per row and allocation with ``row``, ``allocation``, ``right``, ``count``, ``accuracy``,
        ``low``, ``high`` (95 % Wilson interval), ``tokens`` and ``share`` (of uniform 400; means over the questions).

    Raises
    ------
    ValueError
        If ``n`` is not positive, or ``out`` is no table or that of another measurement.
    OSError
        If ``out`` cannot be written.
    """
    if n < 1:
        raise ValueError(f"n is {n}; measure at least 1 picture per cell")
    table: dict[str, Any] = {"n": n, "seed": seed, "weights": fingerprint(model)}
    measured = {"pictures": 0, "seconds": 0.0, "complete": False, "cells": {}, "records": []}
    if out is not None and Path(out).exists():
        found = read_table(out)
        different = [f"{key} {found[key]}, not {value}" for key, value in table.items() if found[key] != value]
        if different:
            raise ValueError(f"{out} was measured with {'; '.join(different)}; name another file, or remove it")
        measured = {key: found[key] for key in measured}
    table |= measured
    if table["complete"]:
        return table

    def save() -> None:
        if out is not None:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            replace_file(out, json.dumps(table, indent=1))

    save()  # an unwritable file is named before the work, not after it
    cells: dict[str, list[float]] = table["cells"]
    began = saved = time.monotonic() - table["seconds"]
    model.eval()
    with tqdm(total=n * sum(len(kinds) for _, kinds in GROUPS), unit="question", disable=not progress) as bar:
        for i, (picture, rows) in enumerate(draw_rows(n, seed)):
            bar.update(len(rows))
            if i < table["pictures"]:
                continue  # measured before the run was broken
            for name, allocation, right, budgets in judge(model, picture, rows):
                cell = cells.setdefault(f"{name}/{allocation}", [0, 0, 0.0, 0.0])
                for k, value in enumerate((right, 1, sum(budgets), sum(budgets) / (400 * len(budgets)))):
                    cell[k] += value
            table["pictures"], now = i + 1, time.monotonic()
            table["seconds"] = now - began
            if now - saved > SAVE_EVERY:
                saved = now
                save()
    table["complete"], table["records"] = True, records_of(cells)
    save()
    return table


def markdown_table(table: dict[str, Any]) -> str:
    """A finished table for people: accuracy in %, 95 % Wilson intervals in brackets, the oracle's share of tokens."""
    cells = {(r["row"], r["allocation"]): r for r in table["records"]}
    lines = ["| question | " + " | ".join(ALLOCATIONS) + " | oracle's tokens |", "|---" * (len(ALLOCATIONS) + 2) + "|"]
    for row in dict.fromkeys(r["row"] for r in table["records"]):
        shown = [cells[row, allocation] for allocation in ALLOCATIONS]
        line = [f"{100 * c['accuracy']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in shown]
        lines.append("| " + " | ".join([row, *line, f"{100 * shown[-1]['share']:.0f} %"]) + " |")
    return "\n".join(lines)
