"""The command line of the demo: ``python -m demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from arr_coc.asking.models import check_model, check_policy, check_wrapping
from arr_coc.cli import Debug, Device, Settings
from arr_coc.commands.terminal import check_folder, clear_errors, parse_settings

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    help="The patch-budget demo: look at what the model spends, and why.\n\nStart with `python -m demo`.",
)


@app.callback(invoke_without_command=True)
@clear_errors
def serve(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Local folder or hub name of a VLM, or 'reference'; several to choose from if given several times. "
            "By default what is on this disk.",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", "-p", help="Folder of the first model's learned policy; 'reference' ships with one."),
    ] = None,
    settings: Settings = None,
    device: Device = None,
    address: Annotated[str, typer.Option(help="Where to listen; by default this machine alone.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860.")
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Open a public tunnel through Gradio's servers.")] = False,
    debug: Debug = False,
) -> None:
    """Serve the demo, by default with the reference model and its learned policy.

    Examples:

    `python -m demo`

    `python -m demo --model Qwen/Qwen2.5-VL-3B-Instruct --policy runs/mine/policy --model reference`

    `python -m demo --model Qwen/Qwen2.5-VL-3B-Instruct --set "wrap.scorers=[participatory]"`

    It stays on this machine, fetches nothing and sends nothing, unless --share is given.
    """
    if context.invoked_subcommand is not None:
        return
    base = parse_settings(settings)
    check_wrapping(base)
    for name in model or ():
        check_model(name)
    if policy is not None:
        check_policy(policy)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError("the demo needs gradio: pip install 'arr-coc[demo,eval]', or make demo") from error
    from .app import serve as launch
    from .models import Models, on_disk

    names = model or on_disk()
    typer.echo(f"loading {names[0]} ...")
    launch(Models.named(names, policy, device, base), port=port, address=address, share=share)


@app.command()
@clear_errors
def screenshots(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("demo/screenshots"),
    debug: Debug = False,
) -> None:
    """Take pictures of every tab, as the README shows them. Needs playwright and Debian's chromium.

    Example: `python -m demo screenshots`
    """
    from .screenshots import take

    check_folder(out)
    for file in take(out):
        typer.echo(f"{file}: {file.stat().st_size // 1000} kB")


@app.command()
@clear_errors
def space(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to fill; it must not exist yet.")],
    debug: Debug = False,
) -> None:
    """Put together a Hugging Face Space: this demo with the code it stands on, ready for `hf upload`.

    Example: `python -m demo space --out build/space`
    """
    from .space import assemble

    typer.echo(f"space: {assemble(out)}; now: hf upload --repo-type space OWNER/NAME {out} .")
