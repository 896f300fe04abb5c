"""The pages model's accuracy table: kind of question and size of print x allocation, through the wrapped model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from allocator.storage import replace_file

from ....asking.ask import answers, prepare
from ...pages import generate
from ...pages.questions import FINE
from ..evaluate import fingerprint, wilson

BUDGETS = (64, 128, 256, 400)
ALLOCATIONS = (*(f"uniform {budget}" for budget in BUDGETS), "oracle")
"""``oracle`` spends 400 tokens on the patches that hold the evidence and 64 on every other; on all, if none does."""


def allocate(allocation: str, sample: dict[str, Any]) -> list[int]:
    """Budgets of the patches of a sample under one of ``ALLOCATIONS``."""
    patches = sample["grid"][0] * sample["grid"][1]
    if allocation != "oracle":
        return [int(allocation.split()[1])] * patches
    evidence = set(sample["evidence"]) or set(range(patches))
    return [400 if p in evidence else 64 for p in range(patches)]


@torch.no_grad()
def judge(arr: Any, samples: Sequence[dict[str, Any]], allocation: str) -> list[tuple[bool, int, int]]:
    """Whether each answer is right (exactly), tokens spent, tokens of full detail; samples share one grid."""
    inputs = prepare(arr.processor, [s["image"] for s in samples], [s["question"] for s in samples])
    inputs = inputs.to(arr.model.device)
    chosen = [allocate(allocation, s) for s in samples]
    sequences = arr.model.generate(**inputs, allocation=chosen, do_sample=False, max_new_tokens=8)
    said = answers(arr.processor, inputs["input_ids"], sequences)
    return [
        (text == s["answer"], record.tokens, record.full_tokens)
        for text, s, record in zip(said, samples, arr.last, strict=True)
    ]


def rows_of(sample: dict[str, Any]) -> Iterator[str]:
    """Rows of the table that a sample counts in: all, fine or coarse, its kind, and the size of its print."""
    yield "all"
    if sample["kind"] in FINE and sample["level"] == 400:
        yield "fine"
    elif sample["kind"] not in FINE and sample["level"] <= 128:
        yield "coarse"
    yield sample["kind"]
    yield f"print for {sample['level']}"


def evaluate(
    model: Any, processor: Any, n: int = 300, seed: int = 0, split: str = "eval", wording: str | None = None,
    grid: tuple[int, int] | None = None, out: str | Path | None = None, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Ask ``n`` fresh questions under every allocation.

    Parameters
    ----------
    model, processor
        As ``reference.load`` gives them; the model is wrapped for the time of the call.
    n, seed, split, wording, grid
        As of ``pages.generate``.
    out
        JSON file for the table, written atomically.
    progress
        Whether to show a progress bar.

    Returns
    -------
    dict
        ``n``, ``seed``, ``split``, ``wording``, ``weights`` (SHA-256) and ``records``: one per row and allocation
        with ``right``, ``count``, ``accuracy``, ``low``, ``high`` (95 % Wilson interval) and ``share`` of full tokens.
    """
    from ....config import ArrCocConfig
    from ....wrapping.wrapper import wrap

    cells: dict[tuple[str, str], list[float]] = {}
    with wrap(model, processor, ArrCocConfig(policy="uniform", budget=400)) as arr:
        samples = generate(n, seed, split, grid=grid, wording=wording)
        for sample in tqdm(samples, total=n, unit="question", disable=not progress, mininterval=10):
            for allocation in ALLOCATIONS:
                ((right, tokens, full),) = judge(arr, [sample], allocation)
                for row in rows_of(sample):
                    cell = cells.setdefault((row, allocation), [0, 0, 0.0])
                    for k, value in enumerate((float(right), 1.0, tokens / full)):
                        cell[k] += value
    records = []
    for (row, allocation), (correct, count, share) in sorted(cells.items(), key=lambda cell: -cell[1][1]):
        low, high = wilson(int(correct), int(count))
        records.append(
            dict(row=row, allocation=allocation, right=int(correct), count=int(count), accuracy=correct / count,
                 low=low, high=high, share=share / count)
        )  # fmt: skip
    table = {"n": n, "seed": seed, "split": split, "wording": wording, "grid": grid, "weights": fingerprint(model),
             "records": records}  # fmt: skip
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, json.dumps(table, indent=1) + "\n")
    return table


def markdown_table(table: dict[str, Any]) -> str:
    """The table for people: accuracy in % with 95 % Wilson intervals, and the oracle's share of tokens."""
    cells = {(r["row"], r["allocation"]): r for r in table["records"]}
    lines = ["| questions | n | " + " | ".join(ALLOCATIONS) + " | oracle's tokens |",
             "|---" * (len(ALLOCATIONS) + 3) + "|"]  # fmt: skip
    for row in dict.fromkeys(r["row"] for r in table["records"]):
        shown = [cells[row, allocation] for allocation in ALLOCATIONS]
        line = [f"{100 * c['accuracy']:.0f} [{100 * c['low']:.0f}, {100 * c['high']:.0f}]" for c in shown]
        lines.append(f"| {row} | {shown[0]['count']} | " + " | ".join(line) + f" | {100 * shown[-1]['share']:.0f} % |")
    return "\n".join(lines)
