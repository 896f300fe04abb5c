"""``python -m arr_coc.reference.training.pages``: train the second reference model, measure it and publish it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator

from .evaluate import evaluate, markdown_table
from .foreign import read_task
from .publish import load_run, publish
from .stages import STAGES, TASK

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Out = Annotated[Path, typer.Option(help="run folder: checkpoints, log.jsonl and the pictures that were drawn")]


@app.command()
def train(
    out: Out,
    stage: Annotated[str | None, typer.Option(help=f"one of {', '.join(STAGES)}; by default all in order")] = None,
    steps: Annotated[int | None, typer.Option(help="optimizer steps of that stage")] = None,
    lr: Annotated[float | None, typer.Option(help="its peak learning rate")] = None,
    start: Annotated[
        Path | None, typer.Option(help="folder of a published model to go on from, for a stage in a new run folder")
    ] = None,
    task: Annotated[
        Path | None, typer.Option("--with", help="file with a section task: what stage task learns")
    ] = None,
) -> None:
    """Train, or go on with a run that was broken off, or with a model that was published.

    Example: `train --out runs/pages --stage short --start arr_coc/reference/pages/data`
    """
    if stage is not None and stage not in STAGES:
        raise typer.BadParameter(f"stage {stage!r} is unknown; it must be one of {', '.join(STAGES)}")
    torch.set_num_threads(1)
    if start is not None:
        if stage is None or not (start / "model.safetensors").is_file():
            raise typer.BadParameter(f"--start {start} needs a folder with model.safetensors, and --stage")
        (out / "start").mkdir(parents=True, exist_ok=True)
        shutil.copy(start / "model.safetensors", out / "start")
    out.mkdir(parents=True, exist_ok=True)
    if task is not None:
        next(iter(read_task(task)))  # refused now, not after hours
        shutil.copy(task, out / TASK)
    if stage == "task" and not (out / TASK).is_file():
        raise typer.BadParameter("--stage task needs --with FILE, such as configs/tasks/easy-vqa.yaml")
    for name, run in STAGES.items():
        if stage in (None, name) and (name != "task" or (out / TASK).is_file()):
            run(out, Accelerator(), steps, lr)


Grids = Annotated[
    list[str] | None,
    typer.Option("--grid", help="rows x columns of patches, such as 1x2; repeatable; by default all sizes at once"),
]


def _measure(out: Path, n: int, seeds: list[int], grids: list[str]) -> list[Path]:
    from ...pages.processor import build_processor

    model, processor, files = load_run(out), build_processor(), []
    for grid in grids or [""]:
        rows, _, columns = grid.partition("x")
        if grid and not (rows.isdigit() and columns.isdigit()):
            raise typer.BadParameter(f"grid {grid!r} must be rows x columns, such as 1x2")
        size_of = (int(rows), int(columns)) if grid else None
        for seed in seeds:
            for wording in ("eval", "train"):
                files.append(out / f"accuracy-{grid or 'any'}-{wording}-{seed}.json")
                size = n if wording == "eval" else n // 2
                print(markdown_table(evaluate(model, processor, size, seed, "eval", wording, size_of, files[-1])))
    return files


@app.command("eval")
def measure(
    out: Out, n: int = 300, seed: Annotated[list[int] | None, typer.Option()] = None, grid: Grids = None
) -> None:
    """Measure the accuracy table of the newest checkpoint, in held-out wordings and in those of training."""
    torch.set_num_threads(1)
    _measure(out, n, seed or [0], grid or [])


@app.command("publish")
def publish_run(
    out: Out,
    data: Annotated[Path | None, typer.Option(help="folder to write; by default the package's own")] = None,
    n: Annotated[int, typer.Option(help="questions to measure first; 0 publishes without a table")] = 300,
    seed: Annotated[list[int] | None, typer.Option(help="of the questions; may be given several times")] = None,
    grid: Grids = None,
) -> None:
    """Measure the newest checkpoint and put it into the package."""
    torch.set_num_threads(1)
    print(publish(out, _measure(out, n, seed or [0], grid or []) if n else [], data))


if __name__ == "__main__":
    app()
