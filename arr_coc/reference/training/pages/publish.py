"""Put a checkpoint of the pages model into the package: weights, tokenizer, processor, accuracy and model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLForConditionalGeneration

from ... import pages
from ...pages.processor import build_processor
from ..checkpoints import newest, read_state, replace_folder
from ..evaluate import fingerprint
from .evaluate import markdown_table
from .stages import STAGES, load_stage, new_model

MAX_BYTES = 30_000_000
EARLY = (
    "**An early checkpoint: training was not finished. It is here so that methods can be tried on attention that "
    "nobody supervised, not for its accuracy.** "
)
ABOUT = {
    "tower": "tower: characters, words and inks of cells, through a linear head that is thrown away",
    "text": "language model: documents without pictures, plain or laid out in rows and columns",
    "align": "projector: cells to the language model's own embeddings of the words and digits that they show",
    "words": "the same, tower and projector",
    "short": "all but the tower: transcripts, forms, questions about one to four patches",
    "questions": "all: pages of up to nine patches, mostly at full detail, all kinds of question",
    "colors": "all: small pages of signs, tiles and bars, colours asked for most; a linear head that is thrown away "
    "reads the mean colour of every cell off its visual token",
    "scenes": "the same head, pages of up to nine patches, all kinds of question, what is hard asked for most",
    "task": "the same, values in print asked for most; every third batch is other people's (easy-VQA in mosaics)",
}
PICTURE_STAGES = ("short", "questions", "colors", "scenes", "task")


def latest(run: Path) -> tuple[str, Path]:
    """The furthest stage over pictures that has a checkpoint, and the checkpoint. ValueError if there is none."""
    for stage in reversed(PICTURE_STAGES):
        checkpoint = newest(run / stage)
        if checkpoint is not None:
            return stage, checkpoint
    raise ValueError(f"{run} holds no checkpoint over pictures; train on: python -m arr_coc.reference.training.pages")


def load_run(run: str | Path, stage: str | None = None) -> Qwen2_5_VLForConditionalGeneration:
    """The model of a run at its furthest (or a named) stage, in evaluation mode."""
    model = new_model()
    load_stage(model, Path(run), stage or latest(Path(run))[0])
    return model.eval()


def stages_of(run: Path) -> list[dict[str, Any]]:
    """What each stage of a run did: steps, steps planned, seconds."""
    done = []
    for stage in STAGES:
        checkpoint = newest(run / stage)
        if checkpoint is not None:
            state = read_state(checkpoint)
            done.append({"stage": stage, "steps": state["step"], "planned": state["config"]["steps"],
                         "lr": state["config"]["peak"], "seconds": round(state["seconds"])})  # fmt: skip
    return done


def publish(run: str | Path, tables: Sequence[str | Path], data: str | Path | None = None) -> Path:
    """Replace the pages model of the package by a run's newest checkpoint, in one rename.

    Parameters
    ----------
    run
        A run folder, finished or not: the card says which.
    tables
        Accuracy tables of ``evaluate`` on these weights; may be none.
    data
        Folder to write; by default the package's own.

    Raises
    ------
    ValueError
        If the run has no checkpoint over pictures, a table is of other weights, or the folder would be too large.
    """
    run, folder = Path(run), pages.path() if data is None else Path(data)
    model = load_run(run)
    shipped = fingerprint(model)
    read = [json.loads(Path(file).read_text(encoding="utf-8")) for file in tables]
    for file, table in zip(tables, read, strict=True):
        if table["weights"] != shipped:
            raise ValueError(f"{file} was not measured on the newest checkpoint of {run}; measure it again")
    report = {"weights": shipped, "parameters": sum(p.numel() for p in model.parameters()),
              "stages": stages_of(run), "tables": read}  # fmt: skip

    def write(target: Path) -> None:
        model.save_pretrained(target)
        build_processor().save_pretrained(target)
        (target / "accuracy.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (target / "README.md").write_text(model_card(report), encoding="utf-8")
        for file in target.iterdir():
            file.chmod(0o644)
        size = sum(file.stat().st_size for file in target.iterdir())
        if size > MAX_BYTES:
            raise ValueError(f"the model and its files take {size} bytes; the folder may hold {MAX_BYTES}")

    replace_folder(folder, write)
    return folder


def model_card(report: dict[str, Any]) -> str:
    """What the model is, how it was trained and what it reads, from the published report."""
    stages = report["stages"]
    early = stages[-1]["stage"] not in ("scenes", "task") or stages[-1]["steps"] < stages[-1]["planned"]
    rows = "\n".join(
        f"| {s['stage']} | {ABOUT[s['stage']]} | {s['steps']} of {s['planned']} | {s['lr']:g} | "
        f"{s['seconds'] / 60:.0f} min |"
        for s in stages
    )
    measured = "\n\n".join(
        f"{t['n']} questions of split `{t['split']}`, seed {t['seed']}, wordings "
        f"{'of the split' if t['wording'] is None else t['wording']}"
        f"{'' if t['grid'] is None else ', pages of {} x {} patches'.format(*t['grid'])}:\n\n{markdown_table(t)}"
        for t in report["tables"]
    )
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# The pages model

{EARLY if early else ""}A stock `Qwen2_5_VLForConditionalGeneration` of
{report["parameters"] / 1e6:.2f} million parameters with the stock processor, trained from random numbers on the
world of pages (`arr_coc.reference.generate(world="pages")`): receipts, forms, tables, bar and line charts, signs over
photographs, app screens. Whole pictures are one entry with M-RoPE positions; a patch of 160 x 160 pixels is 20 x 20
visual tokens.

How it learned to see: the tower learned reading through an ordinary linear head; the language model learned from
documents without pictures; the projector was aligned to the language model's own word embeddings, cell by cell, as
contrastive pretraining aligns a tower to captions; then came transcripts, forms to fill in, questions and answers.
There are no codes, no heads started as readers, no supervision of attention, and no label of evidence reached the
model (what is printed in a cell did, before any question). Pictures were whole pictures at one scale each, never of
mixed scales; in four of ten batches a shrunken picture kept the places of the full one.

| stage | what | steps | learning rate | wall time on two shared cores |
|---|---|---|---|---|
{rows}

## What it reads

Exact answers in %, 95 % Wilson intervals in brackets. One training seed. Allocations as the wrapped model gives them:
`uniform` the same budget for every patch, `oracle` 400 tokens for the patches of the evidence and 64 elsewhere.
"print for 400" is print meant to need 400 tokens a patch; "fine" are values, sums and lines in such print, "coarse"
questions of other kinds about print for 64 or 128. Judged are faces, pieces of photographs and pages that training
never had, a quarter askew and a quarter under a shadow.

{measured or "Not measured yet."}

The run was steered while it ran: documents, lists and pairs joined `text` at steps 1100 to 1900, its rotary base
was 100 before step 1600 (and the stock layout before 400). `align` held cells without print at zero, and so lost
colours: after `questions` the mean colour of a cell could not be read off its visual token by a linear map (R2 below
.13). 900 steps of `scenes` as it was then brought colours back into the tokens, `colors` the words for them, and
`scenes` began anew. All stages before `questions` saw five faces and no chart of matplotlib; its first 100 steps drew
from their pages, the rest from pages of its own with ten faces; counting, sums, lines by place and what is absent were
asked from then on only. The same command gives another, and presumably a better, model.

Continue or repeat: `python -m arr_coc.reference.training.pages train --out RUN`, then
`python -m arr_coc.reference.training.pages publish --out RUN`.
"""
