"""What the command line says: one-line errors, checks of output paths, the printed answer."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..scene.patches import Patch
    from ..wrapping.record import Allocation

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings that replace the file's.")
]
Overlays = Annotated[
    list[Path] | None,
    typer.Option("--with", help="File laid over it, e.g. of configs/models or configs/tasks; repeatable."),
]
EXPECTED = (ValueError, TypeError, OSError, ImportError, NotImplementedError, FloatingPointError)
"""What our own checks raise, and what foreign files and models provoke. Anything else is a defect: a traceback."""


def clear_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the expected errors of a command into one line on stderr and exit code 2; ``--debug`` lets them through.

    One of several processes of a launcher also leaves here, see `leave`.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            result = command(*args, **kwargs)
        except BrokenPipeError:  # `arr-coc ... | head`
            raise
        except EXPECTED as error:
            if kwargs.get("debug"):
                raise
            typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
            typer.echo(" ".join(str(error).split()) or type(error).__name__, err=True)
            leave(2)
            raise typer.Exit(2) from error
        leave(0)
        return result

    return run


def leave(code: int) -> None:
    """End this process here if a launcher started it beside others; otherwise do nothing.

    A destroyed process group lives on, with its threads, while anything refers to it: the defaults of functions in
    ``torch.distributed.nn.functional`` do, and the caches of DTensor. A thread that still has a tensor of the last
    exchange to let go when the interpreter shuts down asks for the interpreter's lock; Python before 3.14 ends such a
    thread where it stands, in C++ that can't be unwound, and the process aborts ("terminate called without an active
    exception", -6). So that shutdown does not take place.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def parse_limit(text: str) -> int | float | None:
    """``--limit``: a whole number counts tokens, a number with a point is a share of full detail, "none" lifts it."""
    if text.lower() == "none":
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError as error:
        raise ValueError(
            f"--limit {text!r} must be a number, 600 for tokens or 0.4 for a share of full detail, or none"
        ) from error


def parse_settings(values: Sequence[str] | None) -> dict[str, Any]:
    """``--set``: fields of the configuration from ``wrap.KEY=VALUE`` (or ``KEY=VALUE``), the value read as YAML.

    Raises
    ------
    ValueError
        For another form, an unknown field (naming the nearest one) or a value that is no YAML.
    """
    import dataclasses

    import yaml

    from ..config import ArrCocConfig, nearest

    known = [field.name for field in dataclasses.fields(ArrCocConfig)]
    settings = {}
    for value in values or ():
        name, equals, text = value.partition("=")
        key = name.removeprefix("wrap.")
        if not equals:
            raise ValueError(f"--set {value!r} must read wrap.KEY=VALUE, for example wrap.limit=0.5")
        if key not in known:
            raise ValueError(f"--set {value!r}: there is no field {key!r}. {nearest(key, known)}")
        try:
            settings[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {value!r}: {text!r} is no YAML value; quote it") from error
    return settings


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import without the garbage collector, which finds nothing in thousands of new modules and takes a fifth of the
    time; what was imported is then left out of later collections."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
        gc.freeze()


def command_line(*words: object) -> str:
    """``arr-coc WORDS`` as it can be pasted here: with the path of the program where it is not found by its name."""
    own = Path(sys.executable).parent / "arr-coc"
    found = shutil.which("arr-coc")
    program = "arr-coc" if found is not None and Path(found).resolve() == own.resolve() else os.path.relpath(own)
    return shlex.join([program, *map(str, words)])


def check_picture_path(path: Path) -> None:
    """Refuse a picture that can't be written, before any work is done for it.

    Raises
    ------
    ValueError
        If the suffix is no picture format, the path is a directory, or its folder can't be written.
    """
    from PIL import Image

    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if path.suffix.lower() not in suffixes - {".pdf"}:
        raise ValueError(f"the picture {path} must end in a picture format, such as .png, .jpg or .webp")
    if path.is_dir():
        raise ValueError(f"the picture {path} is a directory; name a file in it")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Make an output folder, or refuse it.

    Raises
    ------
    ValueError
        If it can't be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or "not possible"
        raise ValueError(f"the output folder {folder} can't be made ({reason}); choose another one") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"the output folder {folder} is not writable; choose another one")


def print_answer(answer: str, allocation: Allocation, grid: tuple[int, int] | None) -> None:
    """Print an answer, the tokens of every patch where it lies, their sum and the times by stage.

    Parameters
    ----------
    answer
        The model's.
    allocation
        Its record.
    grid
        Rows and columns of patches, where every patch is an image entry of its own.
    """
    typer.secho(answer or "(no answer)", bold=True)
    for rows in patch_rows(allocation.patches, grid):
        typer.echo()
        for row in rows:
            typer.echo("  " + " ".join(f"{allocation.realised[i]:>4}" for i in row))
    share = 100 * allocation.tokens / allocation.full_tokens
    stages = ", ".join(f"{name} {1000 * seconds:.0f}" for name, seconds in allocation.timings.items())
    typer.echo(f"\nvisual tokens: {allocation.tokens:,} of {allocation.full_tokens:,} at full detail ({share:.0f} %)")
    typer.echo(f"milliseconds: {stages}")


def patch_rows(patches: Sequence[Patch], grid: tuple[int, int] | None) -> list[list[list[int]]]:
    """Indices of patches as they lie: per view, per row, from left to right.

    ``grid`` (rows, columns) places patches that are image entries of their own; others are placed by their corners.
    """
    from ..scene.patches import by_key, by_view

    if grid is not None and len(patches) == grid[0] * grid[1]:
        return [[list(range(row * grid[1], (row + 1) * grid[1])) for row in range(grid[0])]]
    return [
        [[view[i] for i in row] for row in by_key(patches[i].top for i in view).values()]
        for view in by_view(patches).values()
    ]
