"""Put a trained reference VLM into the package: weights, tokenizer, processor, measured accuracy and model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import Qwen2VLForConditionalGeneration

from ... import reference
from ..processor import build_processor
from .card import model_card
from .checkpoints import newest, read_state, replace_folder
from .evaluate import fingerprint, read_table
from .train import STAGES, load_run

MAX_BYTES = 10_000_000
"""What the shipped folder may weigh: it travels in every wheel."""


def write_model(model: Qwen2VLForConditionalGeneration, folder: Path) -> None:
    """What ``from_pretrained`` of the model and of the processor need, into an existing folder."""
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)


def describe_run(run: Path) -> dict[str, Any]:
    """Settings and cost of a finished training run.

    Returns ``settings`` (of ``TrainConfig``) and ``seconds`` (wall, by stage). Raises ValueError if the run is not
    finished.
    """
    seconds, settings = dict[str, float](), dict[str, Any]()
    for stage in STAGES:
        checkpoint = newest(run / stage)
        state = read_state(checkpoint) if checkpoint else None
        if state is None or state["step"] < state["config"][f"{stage}_steps"]:
            step = state["step"] if state else 0
            raise ValueError(
                f"{run} is no finished training run: its stage {stage!r} stands at step {step}; "
                f"go on with arr-coc reference train --out {run}"
            )
        settings, seconds[stage] = state["config"], round(state["seconds"], 1)
    return {"settings": settings, "seconds": seconds}


def collect(tables: Sequence[Path]) -> list[dict[str, Any]]:
    """Every training seed with its settings, cost and accuracy table; each table lies in the folder of its run.

    Raises ValueError for a table that is unfinished, or that was not measured on the weights of its run.
    """
    entries = []
    for file in tables:
        table = read_table(file)
        if not table["complete"]:
            raise ValueError(f"{file} is not finished; go on with arr-coc reference eval {file.parent}")
        described = describe_run(file.parent)
        if fingerprint(load_run(file.parent)) != table["weights"]:
            raise ValueError(
                f"{file} was not measured on the weights of {file.parent}; remove it and run "
                f"arr-coc reference eval {file.parent}"
            )
        measured = {key: table[key] for key in ("n", "seed", "seconds", "weights", "records")}
        entries.append({"training": described, "evaluation": measured})
    return entries


def publish(run: str | Path, tables: Sequence[str | Path], data: str | Path | None = None) -> Path:
    """Replace the shipped reference model by the one of ``run``, in one rename.

    Parameters
    ----------
    run
        A finished run folder of ``train``; its weights are shipped.
    tables
        Accuracy tables of ``evaluate``, one for each training seed, each in the folder of its run. One of them must be
        that of ``run``.
    data
        Folder to write; by default the package's own (``arr_coc/reference/data`` of a source checkout).

    Returns
    -------
    Path
        The folder: ``model.safetensors``, ``config.json``, ``generation_config.json``, tokenizer and processor files,
        ``accuracy.json`` (every table with training settings and seconds) and ``README.md``, the model card.

    Raises
    ------
    ValueError
        If a run is not finished, a table is not that of its run, none is that of ``run``, or the folder would be
        larger than 10 MB. Nothing is replaced then.
    OSError
        If the folder cannot be written.
    """
    run, files = Path(run), [Path(file) for file in tables]
    folder = reference.path() if data is None else Path(data)
    describe_run(run)
    entries, model = collect(files), load_run(run)
    shipped = fingerprint(model)
    if not any(entry["evaluation"]["weights"] == shipped for entry in entries):
        raise ValueError(
            f"none of the tables ({', '.join(map(str, files)) or 'none given'}) was measured on {run}; "
            f"make it with arr-coc reference eval {run}"
        )
    parameters = sum(p.numel() for p in model.parameters())

    def write(target: Path) -> None:
        write_model(model, target)
        report = {"shipped": shipped, "parameters": parameters, "seeds": entries}
        (target / "accuracy.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (target / "README.md").write_text(model_card(report), encoding="utf-8")
        for file in target.iterdir():
            file.chmod(0o644)  # safetensors writes for the owner alone
        size = sum(file.stat().st_size for file in target.iterdir())
        if size > MAX_BYTES:
            raise ValueError(f"the model and its files take {size} bytes; the shipped folder may hold {MAX_BYTES}")

    replace_folder(folder, write)
    return folder
