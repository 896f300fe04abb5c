"""The command line: ``arr-coc ask``, ``calibrate``, ``estimate``, ``evaluate``, ``learn``, ``serve``, ``retrain``,
``rollback``, ``reference`` and ``info``.

Commands import what they need when they run, so that ``--help`` is instant.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .commands.calibrate import calibrate
from .commands.estimate import estimate
from .commands.serve import log_app, retrain, rollback, serve
from .commands.terminal import (
    Overlays,
    Overrides,
    check_folder,
    check_picture_path,
    clear_errors,
    parse_limit,
    parse_settings,
    print_answer,
    quick_imports,
)

app = typer.Typer(
    name="arr-coc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    help="Every image patch of a vision-language model gets its own token budget, chosen for the question.\n\n"
    "Start with `arr-coc ask --image photo.jpg --question 'what color is the sign ?'`; "
    "`arr-coc COMMAND --help` has examples.",
)
reference_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The reference model that ships with ARR-COC: train it, measure it, draw its world.",
)
app.add_typer(reference_app, name="reference")
app.command()(estimate)
app.command()(calibrate)
app.command()(serve)
app.command()(retrain)
app.command()(rollback)
app.add_typer(log_app, name="log")


@app.callback()
def main(
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            help="A module, or a path ending in .py, that registers scorers, policies, families or rewards of your "
            "own; repeatable, before the command.",
        ),
    ] = None,
) -> None:
    """What stands before a command."""
    if plugin:
        _plugins(plugin)


@clear_errors
def _plugins(modules: list[str]) -> None:
    from allocator.registry import load_plugins

    load_plugins(modules)


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Any field of the configuration, as wrap.KEY=VALUE in YAML; repeatable. See ArrCocConfig."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default a GPU if there is one.")]


@app.command()
@clear_errors
def ask(
    image: Annotated[Path, typer.Option("--image", "-i", help="Image file: JPEG, PNG, WebP, TIFF, ...; any size.")],
    question: Annotated[str, typer.Option("--question", "-q", help="What to ask about it.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Local folder or hub name of a VLM, or 'reference'.")
    ] = "reference",
    policy: Annotated[
        str | None,
        typer.Option("--policy", "-p", help="A policy's name (see `arr-coc info`), or a saved one's folder."),
    ] = None,
    budget: Annotated[int | None, typer.Option(help="The one budget of --policy uniform.")] = None,
    limit: Annotated[
        str | None,
        typer.Option("--limit", "-l", help="At most so many visual tokens: 600, or 0.4 of full detail, or none."),
    ] = None,
    price: Annotated[float | None, typer.Option(help="Reward units that a full-detail image costs.")] = None,
    realizer: Annotated[str | None, typer.Option(help="auto, rescale, pool or select.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the policy's random choices.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    settings: Settings = None,
    device: Device = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="A model that a saved policy's scorers may load; again for each.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the image with its budgets drawn on.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer a question about an image, and show what each patch was allowed to spend.

    Examples:

    `arr-coc ask -i photo.jpg -q "what color is the sign ?" -o overlay.png`

    `arr-coc ask -i photo.jpg -q "what number is on the red sign ?" --limit 0.4`

    `arr-coc ask -i photo.jpg -q "what shape is the blue sign ?" --policy uniform --budget 64 --json`

    `arr-coc ask -i chart.png -q "Which year was best?" -m Qwen/Qwen2.5-VL-3B-Instruct --max-new-tokens 20`

    `arr-coc ask -i photo.jpg -q "is there a red sign ?" --set "wrap.scorers=[participatory]" --set wrap.detail=false`
    """
    if not question.strip():
        raise ValueError("the question is empty; ask something about the image, in words")
    given: dict[str, Any] = {"budget": budget, "price": price, "realizer": realizer, "seed": seed, "policy": policy}
    given = {key: value for key, value in given.items() if value is not None}
    if limit is not None:
        given["limit"] = parse_limit(limit)
    if budget is not None and policy != "uniform":
        raise ValueError(f"--budget {budget} is only for --policy uniform; bound the tokens by --limit instead")
    given = {**parse_settings(settings), **given}
    if out is not None:
        check_picture_path(out)

    from .asking.images import load_image
    from .asking.models import FREE, REFERENCE, check_model, check_policy, check_wrapping, load_vlm, wrap_with

    # What is wrong is told before torch is imported, the rest of it before a model is loaded.
    check_wrapping(given)
    picture = load_image(image)
    check_model(model)
    if (saved := given.get("policy")) is not None:
        check_policy(saved)
    with quick_imports():
        from . import reference
        from .asking.ask import ask as ask_once

        vlm, processor = load_vlm(model, device=device)
        if model == REFERENCE and not given.keys() - FREE:
            given["policy"] = str(reference.policy_path())  # learned, where nothing else was asked for
        arr = wrap_with(vlm, processor, {**given, "allow": allow or ()})
    with arr:
        asked = ask_once(arr, picture, question, max_new_tokens)
    allocation = asked.allocation
    if out is not None:
        asked.plot().save(out)
    if as_json:
        typer.echo(json.dumps({"image": str(image), **asked.to_dict()}))
        return
    print_answer(asked.answer, allocation, asked.grid)
    if out is not None:
        typer.echo(f"overlay: {out}")


@app.command()
@clear_errors
def evaluate(
    questions: Annotated[
        str, typer.Argument(help="JSON Lines of image, question and answers; or another source that `learn` takes.")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Local folder or hub name of a VLM, or 'reference'.")
    ] = "reference",
    policy: Annotated[
        str | None,
        typer.Option("--policy", "-p", help="A policy's name (see `arr-coc info`), or a saved one's folder."),
    ] = None,
    baselines: Annotated[
        str, typer.Option("--baselines", help="What to compare with: full, uniform-B, or names of policies.")
    ] = "full,uniform-64",
    reward: Annotated[str, typer.Option(help="How answers are judged; see `arr-coc info`.")] = "vqa_accuracy",
    limit: Annotated[
        str | None,
        typer.Option("--limit", "-l", help="At most so many visual tokens: 600, or 0.4 of full detail, or none."),
    ] = None,
    price: Annotated[float | None, typer.Option(help="Reward units that a full-detail image costs.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 32,
    settings: Settings = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write every answer there, one JSON object a line.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Judge budgets on questions of your own, beside the untouched model and other baselines.

    A line of the file reads `{"image": "a.jpg", "question": "what is the total ?", "answers": ["12.50"]}`; the picture
    lies beside the file.

    Examples:

    `arr-coc evaluate own.jsonl --model Qwen/Qwen2.5-VL-3B-Instruct --limit 0.6`

    `arr-coc evaluate own.jsonl --policy runs/mine/policy --baselines full,uniform-64,heuristic --out answers.jsonl`
    """
    given: dict[str, Any] = {"price": price, "policy": policy}
    given = {key: value for key, value in given.items() if value is not None}
    if limit is not None:
        given["limit"] = parse_limit(limit)
    given = {**parse_settings(settings), **given}
    if out is not None:
        check_folder(out.parent)

    from .asking.models import FREE, REFERENCE, check_model, check_policy, check_wrapping, load_vlm, wrap_with

    check_wrapping(given)
    check_model(model)
    if (saved := given.get("policy")) is not None:
        check_policy(saved)
    with quick_imports():
        from . import reference
        from .learning.evaluate import evaluate as judge
        from .learning.evaluate import read_rows
        from .learning.rewards import make_reward

        make_reward(reward)
        rows = read_rows(questions)
        vlm, processor = load_vlm(model, device=device)
    if model == REFERENCE and not given.keys() - FREE:
        given["policy"] = str(reference.policy_path())
    with wrap_with(vlm, processor, given) as arr:
        names = [name.strip() for name in baselines.split(",") if name.strip()]
        found = judge(arr, rows, names, reward=reward, max_new_tokens=max_new_tokens)
    if out is not None:
        from allocator.storage import replace_file

        replace_file(out, "".join(json.dumps(record) + "\n" for record in found.records))
    typer.echo(json.dumps(found.to_dict()) if as_json else str(found))


@app.command()
@clear_errors
def learn(
    config: Annotated[
        str | None,
        typer.Argument(help="YAML file with the sections model, wrap, task and learn; without it, all defaults."),
    ] = None,
    overrides: Overrides = None,
    overlay: Overlays = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; runs/NAME-OF-CONFIG by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it was broken.")] = False,
    debug: Debug = False,
) -> None:
    """Learn an allocation policy from the rewards of the model's own answers.

    Examples:

    `arr-coc learn configs/learn.yaml`

    `arr-coc learn configs/learn.yaml learn.episodes=300 wrap.price=0.2 --out runs/short`

    `arr-coc learn configs/learn.yaml --out runs/short --resume`

    `arr-coc learn task.path=own.jsonl --out runs/own`

    `arr-coc learn --with configs/models/qwen2.5-vl-3b.yaml --with configs/tasks/textvqa.yaml task.split=train`

    The run folder holds settings.yaml, log.jsonl (one line per episode), the checkpoint, and the learned policy, which
    `arr-coc ask --policy FOLDER/policy` takes.
    """
    given = list(overrides or [])
    if config is not None and "=" in config:  # no file, the first setting stands in its place
        given, config = [config, *given], None
    files = [*([] if config is None else [Path(config)]), *(overlay or [])]
    for file in files:
        if not file.is_file():
            raise ValueError(f"the settings file {file} does not exist; the repository has one in configs/")
    from .learning.runs import learn_run

    folder = out or Path("runs") / (files[-1].stem if files else "learn")
    check_folder(folder)
    began = time.monotonic()
    log = learn_run(config, given, folder, resume=resume, overlays=overlay or [])
    if os.environ.get("RANK", "0") != "0":  # one of several processes speaks for all
        return
    recent = log[-200:]
    reward = sum(record["reward"] for record in recent) / len(recent)
    share = sum(record["tokens"] / record["full_tokens"] for record in recent) / len(recent)
    typer.echo(
        f"{len(log):,} episodes in {time.monotonic() - began:.0f} s; the last {len(recent)}: reward {reward:.3f}"
    )
    typer.echo(f"at {100 * share:.0f} % of full detail, exploration included")
    typer.echo(f"policy: {folder / 'policy'}")


@app.command()
@clear_errors
def info(as_json: Json = False, debug: Debug = False) -> None:
    """Show versions, and what can be named: model families, policies, scorers, realisers, rewards.

    Example: `arr-coc info --json`
    """
    from .learning.runs import describe

    facts = describe()
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name:<16}{', '.join(value) if isinstance(value, list) else value}")


@reference_app.command("train")
@clear_errors
def reference_train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder; a broken run in it is continued.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    processes: Annotated[int, typer.Option(min=1, max=2, help="1 or 2; two halve the time on two cores.")] = 1,
    tower_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of the vision tower.")] = None,
    language_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of the language model.")] = None,
    debug: Debug = False,
) -> None:
    """Train the reference model from nothing (hours on two cores). Stop it when you like: the same command goes on.

    Example: `arr-coc reference train --out runs/reference-1 --seed 1 --processes 2`
    """
    from .reference.training.train import TrainConfig, train

    check_folder(out)
    steps = {"tower_steps": tower_steps, "language_steps": language_steps}
    given = {key: value for key, value in steps.items() if value is not None}
    train(TrainConfig(seed=seed, processes=processes, **given), out)
    typer.echo(f"model: {out / 'model'}")


@reference_app.command("eval")
@clear_errors
def reference_eval(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="Run folder of `train`, or a model folder; else the shipped model.")
    ] = "reference",
    n: Annotated[int, typer.Option("-n", min=1, help="Fresh pictures per cell of the table.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of the pictures.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON file of the table; RUN/accuracy.json for a run folder.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure a reference model: accuracy by kind of question, size of print and allocation, with 95 % intervals.

    A measurement that was broken goes on where it stopped.

    Examples:

    `arr-coc reference eval -n 100`

    `arr-coc reference eval runs/reference-1`
    """
    from .asking.models import load_vlm
    from .reference.training.evaluate import evaluate, markdown_table
    from .reference.training.train import load_run

    if (Path(run) / "tower").is_dir():
        vlm, out = load_run(run), out or Path(run) / "accuracy.json"
    else:
        vlm, _ = load_vlm(run, device="cpu")
    typer.echo(markdown_table(evaluate(vlm, n=n, seed=seed, out=out)))


@reference_app.command("publish")
@clear_errors
def reference_publish(
    run: Annotated[Path, typer.Argument(help="Run folder whose weights are to ship.")],
    tables: Annotated[
        list[Path] | None, typer.Argument(help="accuracy.json of every training seed; RUN/accuracy.json by default.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Put a trained and measured reference model into the package, with its model card.

    Example: `arr-coc reference publish runs/reference-0 runs/reference-0/accuracy.json runs/reference-1/accuracy.json`
    """
    from .reference.training.publish import publish

    typer.echo(f"published: {publish(run, tables or [run / 'accuracy.json'])}")


@reference_app.command("draw")
@clear_errors
def reference_draw(
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for single pictures, or a file for one page.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 12,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    split: Annotated[str, typer.Option(help="train, learn or eval; their pictures never meet.")] = "eval",
    world: Annotated[str, typer.Option(help="reference (signs on patches) or pages (of print).")] = "reference",
    debug: Debug = False,
) -> None:
    """Draw reference VQA: single pictures with questions.jsonl, or one page with questions, answers and evidence.

    Examples:

    `arr-coc reference draw --out pictures -n 4`

    `arr-coc reference draw --out page.png -n 12 --seed 3 --world pages`
    """
    if out.suffix:
        from .reference.drawing import draw

        check_picture_path(out)
        typer.echo(f"page: {draw(n, seed, split, out, world)}")
        return
    from .reference import generate

    check_folder(out)
    with (out / "questions.jsonl").open("w", encoding="utf-8") as lines:
        for sample in generate(n, seed=seed, split=split, world=world):
            name = f"{sample['image_id']}.png"
            sample.pop("image").save(out / name)
            lines.write(json.dumps({**sample, "image": name}) + "\n")
    typer.echo(f"{n} pictures and questions.jsonl in {out}")


if __name__ == "__main__":
    app()
