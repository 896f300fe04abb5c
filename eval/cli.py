"""The command line of the evaluation: ``python -m eval run | report | compare``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from arr_coc.cli import Debug, main
from arr_coc.commands.terminal import clear_errors

if TYPE_CHECKING:
    from .config import EvalConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    help="Measure budgets on visual questions: accuracy with intervals, tokens and time, beside honest baselines.\n\n"
    "Start with `python -m eval run configs/eval.yaml task.limit=50`.",
)

app.callback()(main)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings as section.key=value, for example task.limit=50 run.out=runs/mine."),
]


@app.command()
@clear_errors
def run(
    config: Annotated[Path, typer.Argument(help="YAML file with the sections model, wrap, task and run.")],
    overrides: Overrides = None,
    overlay: Annotated[
        list[Path] | None,
        typer.Option(
            "--with", help="File laid over the first one, e.g. of configs/models or configs/tasks; repeatable."
        ),
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Check settings, data and model by name, and say what it would cost.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run an evaluation into its folder; an unfinished run there is continued, a finished one is never overwritten.

    Processes that `accelerate launch` started share the questions; see configs/accelerate-cpu.yaml.
    """
    from .config import read_config

    settings = read_config(config, overrides or (), overlay or ())
    from arr_coc.learning.workers import Workers

    from .reporting.page import terminal_table
    from .run import run as evaluate

    if dry:
        _rehearse(settings)
        return
    workers = Workers.start()
    metrics = evaluate(settings, workers=workers)
    workers.stop()
    if not workers.first:
        return
    Console().print(terminal_table(metrics, f"{metrics['questions']:,} questions on {metrics['images']:,} images"))
    for label, reason in metrics["skipped"].items():
        typer.echo(f"{label} could not run: {reason}")
    typer.echo(f"report: {Path(settings.out) / 'report.md'}")


def _rehearse(settings: EvalConfig) -> None:
    from .dry_run import rehearse

    found = rehearse(settings)
    for number, label, count in found.methods:
        typer.echo(f"pass {number}  {label:28} {count:7,} answers")
    for note in found.notes:
        typer.echo(note)
    typer.echo(f"{found.answers:,} answers, with at most the prefill of {found.full:,.0f} at full detail")
    for parameters, tokens in ((3, 1000), (8, 1000), (8, 3300)):
        hours = found.hours(parameters * 1e9, tokens)
        typer.echo(
            f"  {parameters} B parameters, {tokens:,} tokens an image: about {hours:.1f} h on a data-centre GPU"
        )
    typer.echo(f"nothing was run; the folder would be {settings.out}")


@app.command()
@clear_errors
def quickstart(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; runs/quickstart-TIME by default.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Questions to learn from.")] = 400,
    questions: Annotated[int, typer.Option(min=1, help="Held-out questions to be judged on.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of both streams of questions, and of the policy.")] = 0,
    debug: Debug = False,
) -> None:
    """The whole loop on the shipped reference model: learn a policy from VQA reward, evaluate it beside the baselines.

    A broken run is continued by naming its folder: `python -m eval quickstart --out FOLDER`.
    """
    from arr_coc.commands.terminal import command_line

    from .quickstart import first_question
    from .quickstart import quickstart as whole_loop
    from .reporting.page import terminal_table, verdict

    folder = out or Path("runs") / f"quickstart-{datetime.now():%Y%m%d-%H%M%S}"
    metrics = whole_loop(folder, episodes, questions, seed)
    title = f"{metrics['questions']:,} held-out questions, policy learned from {episodes:,} answers"
    Console().print(terminal_table(metrics, title))
    typer.echo(verdict(metrics).strip("*"))
    typer.echo(f"\nreport, with its pictures in it: {folder / 'report.html'}")
    question = ("--image", folder / "picture.png", "--question", first_question(seed)["question"])
    typer.echo("ask with what was learned:")
    typer.echo("  " + command_line("ask", *question, "--policy", folder / "policy", "--out", folder / "overlay.png"))


@app.command()
@clear_errors
def report(run: Annotated[Path, typer.Argument(help="Folder of a finished run.")], debug: Debug = False) -> None:
    """Print a finished run's table and draw its report again."""
    from .records import read_run, understood
    from .reporting.page import rewrite, terminal_table

    metrics, records, config = read_run(run)
    with understood(run):
        rewrite(run, metrics, records, config)
        table = terminal_table(metrics, f"{metrics['questions']:,} questions on {metrics['images']:,} images")
    Console().print(table)
    typer.echo(f"report: {run / 'report.md'}")


@app.command()
@clear_errors
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more folders of finished runs.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the Markdown there instead of printing it.")] = None,
    debug: Debug = False,
) -> None:
    """Set runs side by side: mean and interval over runs, and paired differences of the first two.

    Where policies were played at several prices, `--out FILE.md` also draws their curves' differences to FILE.png.
    """
    from allocator.storage import replace_file

    from .records import understood
    from .reporting.compare import compare as side_by_side

    with understood(Path(", ".join(map(str, runs)))):
        text = side_by_side(runs, None if out is None else out.with_suffix(".png"))
    if out is None:
        typer.echo(text)
    else:
        replace_file(out, text)


@app.command(name="won-back")
@clear_errors
def won_back(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs of one bench of broken knowing.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Markdown to write, with a picture beside it.")] = Path(
        "runs/won-back.md"
    ),
    debug: Debug = False,
) -> None:
    """What broken knowing costs the heuristic, and how much of it learning and calibrating win back.

    Example: `python -m eval won-back runs/corrupted-core-0 runs/corrupted-core-1 runs/corrupted-core-2`
    """
    from .reporting.won_back import markdown, write

    write(runs, out)
    typer.echo(markdown(runs))
    typer.echo(f"table: {out}, picture: {out.with_suffix('.png')}")


@app.command()
@clear_errors
def curve(
    logs: Annotated[list[Path], typer.Argument(help="log.jsonl of one or more learning runs.")],
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("learning.png"),
    window: Annotated[int, typer.Option("--window", min=1, help="Episodes in a running mean.")] = 100,
    debug: Debug = False,
) -> None:
    """Plot reward and tokens while a policy learns."""
    from .reporting.plots import learning_curve

    learning_curve(logs, out, window)
    typer.echo(f"learning curve: {out}")


@app.command()
@clear_errors
def knowing(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the record.")] = Path("runs/knowing"),
    count: Annotated[int, typer.Option("-n", min=2, help="Reference questions.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of the questions.")] = 0,
    photographs: Annotated[
        list[Path] | None, typer.Option("--photo", help="A further picture to draw the maps of.")
    ] = None,
    debug: Debug = False,
) -> None:
    """What the scorers know: their top patch against the evidence, detail, doubt, a linear probe, and their maps.

    Example: `python -m eval knowing -n 100 --photo holiday.jpg`
    """
    import arr_coc

    from .studies.scorers import markdown, study

    model, processor = arr_coc.reference.load()
    samples = list(arr_coc.reference.generate(count, seed=seed, split="learn"))
    with arr_coc.wrap(model, processor, arr_coc.ArrCocConfig(policy="heuristic")) as arr:
        typer.echo(markdown(study(arr, samples, out, photographs or ())))
    typer.echo(f"record: {out}")


@app.command()
@clear_errors
def mosaics(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pictures and questions.")] = Path(
        "runs/easy-vqa"
    ),
    count: Annotated[int, typer.Option("-n", min=1, help="Mosaics to train on, and as many to judge on.")] = 2000,
    rows: Annotated[int, typer.Option(min=2, max=3)] = 2,
    columns: Annotated[int, typer.Option(min=2, max=3)] = 2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    debug: Debug = False,
) -> None:
    """Make mosaics of easy-VQA's pictures, a foreign world with known evidence. Needs `pip install easy-vqa`.

    Example: `python -m eval mosaics -n 500`, then `--with configs/tasks/easy-vqa.yaml`
    """
    from .mosaics import write_mosaics

    for file in write_mosaics(out, count, (rows, columns), seed):
        typer.echo(file)


@app.command()
@clear_errors
def attention(
    models: Annotated[list[str] | None, typer.Argument(help="Of 'reference', 'pages'; by default both.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the record.")] = Path("runs/attention"),
    count: Annotated[int, typer.Option("-n", min=20, help="Questions per model.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of the questions.")] = 0,
    grid: Annotated[str, typer.Option(help="Rows x columns of patches of every picture.")] = "3x3",
    debug: Debug = False,
) -> None:
    """What a model's attention is like: hits, sinks and entropy by layer and head, and what doubt foretells.

    Example: `python -m eval attention pages -n 100`
    """
    import arr_coc

    from .studies.attention import markdown, study, write

    rows, _, columns = grid.partition("x")
    if not (rows.isdigit() and columns.isdigit()):
        raise ValueError(f"--grid {grid!r} must be rows x columns, such as 2x2")
    size, found = (int(rows), int(columns)), {}
    for name in models or arr_coc.reference.MODELS:
        model, processor = arr_coc.reference.load(name)
        samples = list(arr_coc.reference.generate(count, seed=seed, split="learn", grid=size, world=name))
        with arr_coc.wrap(model, processor, arr_coc.ArrCocConfig(policy="uniform", budget=64)) as arr:
            found[name] = study(arr, samples)
    write(found, out)
    typer.echo(markdown(found))
    typer.echo(f"record: {out}")


@app.command()
@clear_errors
def looking(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the record.")] = Path("runs/looking"),
    count: Annotated[int, typer.Option("-n", min=10, help="Questions per seed.")] = 40,
    debug: Debug = False,
) -> None:
    """What looking costs in time: glance and look, the same tokens without looking, and the untouched model.

    Example: `python -m eval looking -n 40`
    """
    from .studies.looking import measure, write

    typer.echo(write(measure(count), out))


@app.command()
@clear_errors
def shares(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the record.")] = Path("runs/looking"),
    debug: Debug = False,
) -> None:
    """What glance and look cost on published models, counted from their configurations; nothing is run.

    Example: `python -m eval shares`
    """
    from .studies.shares import write

    typer.echo(write(out))


@app.command()
@clear_errors
def scaled(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the record.")] = Path("runs/looking"),
    rounds: Annotated[int, typer.Option("-n", min=1, help="Turns, of which the least counts.")] = 3,
    models: Annotated[list[str] | None, typer.Option("--model", help="A model's name; again for each.")] = None,
    debug: Debug = False,
) -> None:
    """What looking costs in time and memory on scaled shapes of published models, beside what is counted.

    Example: `python -m eval scaled -n 2 --model Qwen3-VL-4B`
    """
    from .studies.scaled import MODELS, measure, write

    typer.echo(write(measure(rounds, models or tuple(MODELS)), out))


@app.command()
@clear_errors
def drift(
    logs: Annotated[list[Path], typer.Argument(help="log.jsonl of learners on one stream, see configs/drift.yaml.")],
    change: Annotated[int, typer.Option("--change", min=1, help="Episode of the first question of the new mix.")],
    price: Annotated[float, typer.Option(min=0, help="Reward units of full detail.")] = 0.05,
    window: Annotated[int, typer.Option("--window", min=1, help="Episodes in a running mean.")] = 60,
    debug: Debug = False,
) -> None:
    """How fast learners recover when the mix of questions changes midway.

    Example: `python -m eval drift runs/drift/learning/*/log.jsonl --change 300`
    """
    from .studies.drift import drift as table

    typer.echo(table(logs, change, price, window))


@app.command()
@clear_errors
def offpolicy(
    config: Annotated[Path, typer.Argument(help="YAML file, see configs/offpolicy.yaml.")],
    overrides: Overrides = None,
    sharper: Annotated[
        float, typer.Option("--sharper", min=0.05, max=1.0, help="Temperature of the new policy, of the old one's.")
    ] = 0.5,
    debug: Debug = False,
) -> None:
    """Judge a new policy by an old one's log, then play it: every estimator beside the truth."""
    from .config import read_config
    from .studies.offpolicy import markdown
    from .studies.offpolicy import offpolicy as judge

    typer.echo(markdown(judge(read_config(config, overrides or ()), sharper=sharper)))


@app.command()
@clear_errors
def serving(
    what: Annotated[
        str,
        typer.Argument(
            help="engine, rate, callers, load, batches, capacity, soak, kill, log-kill, hostile, loop or fuzz."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the record.")] = Path("runs/serving"),
    count: Annotated[int, typer.Option("-n", min=1, help="Questions of load, capacity and soak; kills of kill.")] = 50,
    minutes: Annotated[float, typer.Option(min=0.1, help="Soak and kill end then with what is done.")] = 600.0,
    inside: Annotated[
        bool, typer.Option("--inside", help="Soak and kill vLLM with the plugin, not our own server.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Try a real server on loopback: load against direct generate, a soak, kill -9 under load, hostile requests.

    loop tells how long the server's event loop stands still under all of that.

    batches asks no server: it measures what a generate call for several questions costs; capacity measures what a
    question costs from the server to the nightly retraining.

    engine, rate and callers are run where vLLM is (`make test-engine` makes .venv-engine): whether plans, answers and
    propensities inside it are the wrapper's, -n questions per model and mode; questions a second of full detail and of
    the policy inside it; both servers under 1 to 64 callers.

    Example: `python -m eval serving kill -n 50`
    """
    import json
    import tempfile

    from .serving import capacity, hostile, loop, trials
    from .serving import inside as engines
    from .serving.server import ENGINE, sigterm_unwinds

    options = ENGINE if inside else ()

    tries = {
        "engine": lambda folder: engines.exact(folder, count),
        "rate": lambda folder: engines.rate(count),
        "callers": lambda folder: engines.callers(folder, count),
        "load": lambda folder: trials.load(folder, count),
        "batches": lambda folder: trials.batches(),
        "capacity": lambda folder: capacity.measure(folder, count),
        "soak": lambda folder: trials.soak(folder, count, minutes, progress=True, options=options),
        "kill": lambda folder: trials.kills(folder, count, minutes, progress=True, options=options),
        "log-kill": lambda folder: trials.log_kills(folder, count),
        "hostile": hostile.hostile,
        "loop": loop.blocked,
        "fuzz": hostile.fuzz,
    }
    if what not in tries:
        raise ValueError(f"{what!r} is none of {', '.join(tries)}")
    with sigterm_unwinds(), tempfile.TemporaryDirectory() as scratch:
        results = tries[what](Path(scratch))
    trials.record(out, f"{what}-inside" if inside else what, results)
    typer.echo(json.dumps(results, indent=1))
