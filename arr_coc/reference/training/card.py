"""The model card of the reference VLM, written from what was measured."""

from __future__ import annotations

from typing import Any

from ..world import COLORS, LETTERS, MAX_DOTS, PRINT_SIZES, SHAPES, WORDS
from .evaluate import markdown_table

CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [visual-question-answering, synthetic, arr-coc]
---

# The ARR-COC reference VLM

A small vision-language model that really answers questions about pictures, trained from nothing by ARR-COC's own
trainer so that token budgets per image patch can be measured on any machine, without a network. It is a stock
`Qwen2VLForConditionalGeneration` of transformers ({parameters:,} parameters, float32; no modelling code of its own).

```python
from arr_coc import reference
model, processor = reference.load()

from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(reference.path())
```

## Its world

*Reference VQA* is drawn by `arr_coc.reference.generate(n, seed, split)`: pictures of 2 x 2 to 3 x 3 patches of
160 x 160 pixels on plain, graded or photographic ground, with clutter and up to two signs per patch. A sign has one of
{colors} colours and {shapes} shapes, and carries a number from 10 to 99, one of {words} three-letter words, one of
{letters} letters, 1 to {dots} dots, or nothing. Numbers and words are printed in four sizes ({sizes} pixels),
chosen so that each of the budgets 400, 256, 128 and 64 is about the cheapest one that still resolves one of them.
Questions ask for a colour, a shape, a letter, a number, a word or a count, whether something is there, or which of two
numbers is larger; they name signs by colour, by colour and shape, by a letter or by place.

A patch is its own image entry of 20 x 20 = 400 visual tokens at full detail behind two place words
(`top left <vs> ... <ve>`), so a patch is one attention segment, and encoding it again at 64, 128 or 256 tokens is
exact.

## What it cannot do

It knows the vocabulary above and nothing else, answers with one word, and has seen photographs only as pale ground
behind its signs: an answer about a person's own picture means little. It was not trained on other print, other
languages or any reasoning beyond comparing two numbers, and it answers also when it does not know. Unknown words of a
question become `<unk>`. It is a measuring instrument, not an assistant.

## Training

Two stages, all on pictures drawn on the fly (split "train"), with AdamW at peak learning rates of {tower_lr} and
{language_lr}:

1. *Tower*: dense labels of the generator say what every visual token covers (colour, shape, letter, digits, word,
   count); the tower learns to write a code for it. Crowded canvases first, then patches of the world at all budgets.
2. *Language model*, tower frozen: sixteen questions share each picture, under budgets as allocations give them. Until
   the last tenth a random quarter of the cells without a sign stands for all of them. Besides the answers, chosen
   attention heads are supervised towards every word that names the sign, and the cells that hold the evidence.

The generator's labels (dense labels and grounding) serve training only. Neither the model nor the processor, nor any
policy that is learned or judged on it, sees them in use.

{cost}

## Accuracy

Exact match in %, greedy decoding, fresh pictures that no stage of training or policy learning saw, 95 % Wilson
intervals in brackets. "number @256" is print of the size meant for 256 tokens per patch; "all" is the mix of questions
as the world asks them; the oracle spends 400 tokens on the patches that hold the evidence and 64 on every other one;
the last column says what share of uniform 400 that is. Uniform 64, 128 and 256 spend 16, 32 and 64 %.

{tables}

## Reproduce it

```sh
{commands}
```

A killed run goes on from its last checkpoint to the weights of an unbroken one (tested on short runs). The same seed
on the same version of torch and kind of processor is meant to give the same weights; a whole run was not yet repeated.
The raw counts of every cell are in `accuracy.json`.

## Licence

Apache-2.0. Nothing was downloaded for it: the print is drawn in DejaVu Sans (bundled with matplotlib), the grounds use
the two photographs bundled with scikit-learn, `china.jpg` and `flower.jpg`.
"""


def cost_table(seeds: list[dict[str, Any]]) -> str:
    """Steps and wall time of every training run."""
    lines = [
        "| training seed | tower steps | minutes | language steps | minutes | processes |",
        "|---|---|---|---|---|---|",
    ]
    for entry in seeds:
        settings, seconds = entry["training"]["settings"], entry["training"]["seconds"]
        row = [settings["seed"]]
        for stage in ("tower", "language"):
            row += [settings[f"{stage}_steps"], f"{seconds[stage] / 60:.0f}"]
        lines.append("| " + " | ".join(map(str, [*row, settings["processes"]])) + " |")
    return "\n".join(lines) + "\n\nWall time; each process uses one thread."


def accuracy_tables(report: dict[str, Any]) -> str:
    """One table for each training seed."""
    parts = []
    for entry in report["seeds"]:
        evaluation = entry["evaluation"]
        shipped = ", the shipped one" if evaluation["weights"] == report["shipped"] else ""
        parts += [
            f"### Training seed {entry['training']['settings']['seed']}{shipped}",
            f"{evaluation['n']} pictures per cell, evaluation seed {evaluation['seed']}.",
            markdown_table(evaluation),
        ]
    return "\n\n".join(parts)


def commands(report: dict[str, Any]) -> str:
    """The command lines that lead to the shipped folder."""
    lines, tables, shipped = [], [], ""
    for entry in report["seeds"]:
        settings, evaluation = entry["training"]["settings"], entry["evaluation"]
        run = f"runs/reference-{settings['seed']}"
        names = ("seed", "processes", "tower_steps", "language_steps")
        options = " ".join(f"--{name.replace('_', '-')} {settings[name]}" for name in names)
        lines.append(f"arr-coc reference train --out {run} {options}")
        lines.append(f"arr-coc reference eval {run} -n {evaluation['n']} --seed {evaluation['seed']}")
        tables.append(f"{run}/accuracy.json")
        if evaluation["weights"] == report["shipped"]:
            shipped = run
    return "\n".join([*lines, f"arr-coc reference publish {shipped} {' '.join(tables)}"])


def model_card(report: dict[str, Any]) -> str:
    """README.md of the shipped folder.

    ``report`` is what ``accuracy.json`` holds: ``shipped`` (SHA-256 of the weights), ``parameters``, and ``seeds``,
    each with ``training`` (settings, seconds) and ``evaluation`` (n, seed, weights, records).
    """
    settings = report["seeds"][0]["training"]["settings"]
    return CARD.format(
        parameters=report["parameters"], colors=len(COLORS), shapes=len(SHAPES), words=len(WORDS),
        letters=len(LETTERS), dots=MAX_DOTS,
        sizes=", ".join("-".join(map(str, sizes)) for sizes in PRINT_SIZES.values()),
        tower_lr=settings["tower_lr"], language_lr=settings["language_lr"],
        cost=cost_table(report["seeds"]), tables=accuracy_tables(report), commands=commands(report),
    )  # fmt: skip
