"""The reference VLM's own accuracy table: kind of question x size of print x allocation, on fresh pictures, with intervals."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from tqdm.auto import tqdm

from arr_coc.reference.labels import IGNORE
from arr_coc.reference.packed import encode, packed_forward
from arr_coc.reference.questions import KINDS, Question, ask, location
from arr_coc.reference.stages import TOKEN_GRIDS, answer_batch, to_float
from arr_coc.reference.world import LEVELS, Picture, draw_picture

ALLOCATIONS = ("uniform 64", "uniform 128", "uniform 256", "uniform 400", "oracle")
"""``oracle`` spends 400 tokens on the patches that hold the evidence and 64 on every other."""
PRINTED = ("number", "word")


def row_of(question: Question, level: int | None) -> str:
    return f"{question.kind} @{level}" if level else question.kind


def draw_rows(n: int, seed: int) -> Iterator[tuple[Picture, list[tuple[str, Question]]]]:
    """Pictures and the questions asked of them: at most one per row of the table, until every row has ``n`` pictures."""
    for level in (None, *LEVELS):
        kinds = PRINTED if level else [k for k in KINDS if k not in PRINTED]
        missing, i = {kind: n for kind in kinds}, 0
        while any(missing.values()):
            rng = random.Random(f"table/{seed}/{level}/{i}")
            i += 1
            picture = draw_picture(rng, "eval", level=level)
            asked = [q for kind, m in missing.items() if m and (q := ask(rng, picture, kind)) is not None]
            for question in asked:
                missing[question.kind] -= 1
            if asked:
                yield picture, [(row_of(q, level), q) for q in asked]


@torch.no_grad()
def right_answers(model, pixels: torch.Tensor, grid, budgets: list[int], questions: list[Question]) -> list[bool]:
    """Whether greedy decoding under ``budgets`` answers each question exactly (the answer word, then the end)."""
    features: list[torch.Tensor] = [torch.empty(0)] * len(budgets)
    for budget in set(budgets):
        chosen = [i for i, b in enumerate(budgets) if b == budget]
        for i, f in zip(chosen, encode(model, pixels[chosen], TOKEN_GRIDS[budget]), strict=True):
            features[i] = f
    places = [[location(grid, p) for p in range(len(budgets))]]
    ids, positions, tokens, labels, _ = answer_batch(places, [[TOKEN_GRIDS[b] for b in budgets]], [questions])
    predicted = model.lm_head(packed_forward(model, ids, torch.cat(features), positions, tokens).hidden).argmax(-1)
    return ((predicted == labels) | (labels == IGNORE)).all(-1)[0].tolist()


def accuracy_table(model, n: int = 500, seed: int = 0, progress: bool = True) -> list[dict[str, Any]]:
    """One record per (row, allocation): ``row``, ``allocation``, ``right``, ``count``, ``tokens`` and ``share`` (means over questions)."""
    cells: dict[tuple[str, str], list[float]] = {}
    bar = tqdm(draw_rows(n, seed), desc="pictures", disable=not progress, mininterval=5)
    for picture, rows in bar:
        pixels, count = to_float(list(picture.patches())), len(picture.signs)
        questions = [q for _, q in rows]
        for allocation in ALLOCATIONS:
            if allocation == "oracle":
                spent = [[400 if any(p == i for i, _ in q.evidence) else 64 for p in range(count)] for q in questions]
                right = [
                    right_answers(model, pixels, picture.grid, budgets, [q])[0]
                    for budgets, q in zip(spent, questions, strict=True)
                ]
            else:
                spent = [[int(allocation.split()[1])] * count] * len(questions)
                right = right_answers(model, pixels, picture.grid, spent[0], questions)
            for (row, _), ok, budgets in zip(rows, right, spent, strict=True):
                cell = cells.setdefault((row, allocation), [0, 0, 0.0, 0.0])
                for k, value in enumerate((ok, 1, sum(budgets), sum(budgets) / (400 * count))):
                    cell[k] += value
    return [
        dict(row=row, allocation=allocation, right=int(c[0]), count=int(c[1]), tokens=c[2] / c[1], share=c[3] / c[1])
        for (row, allocation), c in cells.items()
    ]


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion."""
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(method="wilson")
    return interval.low, interval.high


def markdown_table(records: list[dict[str, Any]]) -> str:
    """Accuracy in %, 95 % Wilson intervals in brackets; one line per row."""
    rows = list(dict.fromkeys(r["row"] for r in records))
    cells = {(r["row"], r["allocation"]): r for r in records}
    lines = ["| question | " + " | ".join(ALLOCATIONS) + " |", "|---" * (len(ALLOCATIONS) + 1) + "|"]
    for row in rows:
        line = [row]
        for allocation in ALLOCATIONS:
            cell = cells[row, allocation]
            low, high = wilson(cell["right"], cell["count"])
            line.append(f"{100 * cell['right'] / cell['count']:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)
