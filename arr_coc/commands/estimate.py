"""The command ``arr-coc estimate``; `arr_coc.cli` registers it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .terminal import clear_errors, parse_limit, parse_settings, quick_imports


@clear_errors
def estimate(
    model: Annotated[str, typer.Argument(help="Folder or hub name of a VLM (its weights are not read), 'reference'.")],
    image: Annotated[str, typer.Option("--image", "-i", help="Size of the picture in pixels, as 1700x2200.")],
    limit: Annotated[
        str | None, typer.Option("--limit", "-l", help="At most so many visual tokens: 600, or 0.3 of full detail.")
    ] = None,
    words: Annotated[int, typer.Option(min=1, help="Tokens of the prompt besides the image.")] = 40,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field of the configuration, as wrap.KEY=VALUE in YAML; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """What a question about a picture will cost: patches, tokens, operations. Nothing is run.

    Example: `arr-coc estimate Qwen/Qwen2.5-VL-7B-Instruct --image 1700x2200 --limit 0.3`
    """
    width, _, height = image.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise ValueError(f"--image {image!r} must be a size in pixels, WIDTHxHEIGHT, for example 1700x2200")
    given = parse_settings(settings)
    if limit is not None:
        given["limit"] = parse_limit(limit)
    with quick_imports():
        from .. import reference
        from ..asking.estimate import estimate as count
        from ..config import ArrCocConfig

    config, processor = ArrCocConfig.from_dict(given), None
    if model in reference.MODELS:
        processor = reference.load(model)[1]
        model = str(reference.path(model))
    known = count(model, (int(width), int(height)), processor, config, words)
    typer.echo(json.dumps(known.to_dict(), indent=1) if as_json else str(known))
