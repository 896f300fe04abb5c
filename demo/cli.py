"""The command line of the demo: ``python -m demo``."""

from __future__ import annotations

from typing import Annotated

import typer

from arr_coc.cli import Debug, Device
from arr_coc.terminal import clear_errors

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
        str, typer.Option("--model", "-m", help="Local folder or hub name of a VLM, or 'reference'.")
    ] = "reference",
    policy: Annotated[
        str | None, typer.Option("--policy", "-p", help="Folder of a learned policy; the shipped one for 'reference'.")
    ] = None,
    device: Device = None,
    address: Annotated[str, typer.Option(help="Where to listen; by default this machine alone.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Open a public tunnel through Gradio's servers.")] = False,
    debug: Debug = False,
) -> None:
    """Serve the demo, by default with the reference model and its learned policy.

    Examples:

    `python -m demo`

    `python -m demo --model Qwen/Qwen2.5-VL-3B-Instruct --policy runs/mine/policy`
    """
    if context.invoked_subcommand is not None:
        return
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError("the demo needs gradio: pip install 'arr-coc[demo,eval]', or make demo") from error
    from demo.app import serve as launch
    from demo.host import Host

    typer.echo(f"loading {model} ...")
    launch(Host(model, policy, device), port=port, address=address, share=share)
