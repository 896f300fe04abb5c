"""The command ``arr-coc calibrate``; `arr_coc.cli` registers it. It imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import Overlays, Overrides, clear_errors, quick_imports


@clear_errors
def calibrate(
    config: Annotated[
        str | None, typer.Argument(help="YAML file with the sections model, wrap and task; without it, all defaults.")
    ] = None,
    overrides: Overrides = None,
    overlay: Overlays = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write; a broken calibration goes on there.")
    ] = Path("runs/calibration.json"),
    n: Annotated[int, typer.Option("-n", min=20, help="Questions to ask.")] = 200,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Fit relevance and doubt to a model by its own answers; no labels are read.

    Examples:

    `arr-coc calibrate -n 200 --out runs/reference.json`

    `arr-coc calibrate --with configs/models/qwen2.5-vl-3b.yaml --with configs/tasks/textvqa.yaml task.split=train`

    Beside the file it writes the same as settings, for any command that takes some:
    `arr-coc learn --with runs/reference.yaml`.
    """
    with quick_imports():
        import yaml

        from allocator.storage import replace_file

        from ..asking.models import load_vlm
        from ..config import ArrCocConfig
        from ..learning.calibrate import calibrate as run
        from ..learning.runs import learn_sections
        from ..learning.settings import read_settings
        from ..learning.tasks import learning_task
        from ..wrapping.wrapper import wrap

    given = list(overrides or [])
    if config is not None and "=" in config:  # no file, the first setting stands in its place
        given, config = [config, *given], None
    settings = read_settings(config, learn_sections(), given, overlay or [])
    questions = learning_task(settings["task"], n)
    wrapping = ArrCocConfig.from_dict({"policy": "heuristic", **settings["wrap"]})
    model, processor = load_vlm(**settings["model"])
    typer.echo(
        f"{n} questions: {2 * n} answers, and up to 9 more for each that full detail answers otherwise.", err=True
    )
    with wrap(model, processor, wrapping) as arr:
        found = run(arr, questions, n, out=out)
    applied = found.apply(wrapping, model, processor).to_dict()
    fitted = {"wrap": {"scorers": applied["scorers"], "trust": applied["trust"]}}
    replace_file(out.with_suffix(".yaml"), yaml.safe_dump(fitted, sort_keys=False, default_flow_style=None))
    for name, value in found.report.items():
        if name not in ("readings", "notes"):
            typer.echo(f"{name:>26}  {value:.3g}" if isinstance(value, float) else f"{name:>26}  {value}")
    for name, value in found.report.get("readings", {}).items():
        typer.echo(f"{'hits, ' + name:>42}  {value:.3g}")
    reading = found.reading
    kept = f"layers {reading['layers']}" if reading else "the model's default, which nothing beat on held-out pictures"
    typer.echo(
        f"reading: {kept}; relevance floor {found.relevance_floor:.3f}\nwrote {out} and {out.with_suffix('.yaml')}"
    )
