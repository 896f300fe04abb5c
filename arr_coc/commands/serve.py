"""The commands ``arr-coc serve``, ``retrain`` and ``rollback``; `arr_coc.cli` registers them.

Like all commands they import what they need when they run.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .terminal import check_folder, clear_errors, parse_settings

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
TOKEN = "ARR_COC_TOKEN"


@clear_errors
def serve(
    engine: Annotated[
        str, typer.Option("--engine", help="'own': one process, one question after another. 'vllm': inside vLLM.")
    ] = "own",
    engine_args: Annotated[
        str, typer.Option("--engine-args", help="Further options of the engine, such as '--max-num-seqs 64'.")
    ] = "",
    log: Annotated[Path, typer.Option("--log", help="Folder of the decision log; made if missing.")] = Path(
        "runs/log"
    ),
    policy: Annotated[
        Path | None,
        typer.Option("--policy", "-p", help="Saved policy, or store of versions whose current one is followed."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Folder or hub name of a VLM, or 'reference'.")
    ] = "reference",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default a GPU if there is one.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Listen beyond this machine without a token.")
    ] = False,
    explore: Annotated[float, typer.Option(help="Share of questions that may be explored; 0 for none.")] = 0.2,
    queue: Annotated[int, typer.Option(min=1, help="Questions inside at once; beyond it, 429.")] = 64,
    upload_mb: Annotated[float, typer.Option(help="Largest request body, in MiB.")] = 8.0,
    megapixels: Annotated[float, typer.Option(help="Largest image.")] = 20.0,
    timeout: Annotated[float, typer.Option(help="Seconds after which a waiting question is given up.")] = 30.0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    log_questions: Annotated[
        bool, typer.Option("--log-questions", help="Log the questions too; images never.")
    ] = False,
    allow: Annotated[
        list[str] | None, typer.Option(help="A model that the policy's scorers may load; again for each.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="wrap.limit, .price, .realizer or .positions in place of the policy's own; repeatable."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Answer over HTTP: POST /answer, POST /reward, /healthz, /readyz, /metrics, /openapi.json.

    Every decision and reward is on the disk before it is acknowledged. The policy is replaced without a pause when
    the store's pointer moves, or on SIGHUP. Set ARR_COC_TOKEN to ask for a bearer token.

    Examples:

    `arr-coc serve --log runs/log`

    `arr-coc serve --policy runs/store --log runs/log --explore 0.2`

    `arr-coc serve --engine vllm --model Qwen/Qwen2.5-VL-7B-Instruct --policy runs/store`

    `curl -F image=@photo.jpg -F question="what color is the sign ?" http://127.0.0.1:8000/answer`
    """
    from ..asking.models import check_free, check_model, check_wrapping

    changes = parse_settings(settings)
    check_wrapping(changes)
    check_free(changes)
    check_model(model)
    from allocator.logged.explore import Exploration

    from ..serving.config import ServeConfig

    config = ServeConfig(
        host=host, port=port, token=os.environ.get(TOKEN) or None, anonymous=anonymous, queue=queue,
        upload_bytes=int(upload_mb * 2**20), pixels=int(megapixels * 1e6), timeout=timeout,
        max_new_tokens=max_new_tokens, log_questions=log_questions, exploration=Exploration(share=explore),
    )  # fmt: skip
    check_folder(log)
    if engine == "vllm":
        if changes:
            raise ValueError(f"--set {next(iter(changes))} is for --engine own; in vLLM the policy's own values hold")
        _inside_vllm(model, policy, log, config, engine_args, allow or ())
    if engine != "own" or engine_args:
        raise ValueError(f"engine={engine!r} must be 'own' or 'vllm', and only the latter takes --engine-args")
    try:
        import uvicorn

        from ..serving.app import make_app
        from ..serving.protocol import Protocol
    except ImportError as error:
        raise ImportError(f"serving needs {error.name}: pip install 'arr-coc[serve]'") from error
    from .. import reference
    from ..asking.models import load_vlm
    from ..serving.own import OwnEngine
    from ..serving.store import resolve

    source = policy or reference.policy_path()
    resolve(source)  # a store or policy that isn't there is told before the model is loaded
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a line for every malformed body
    vlm, processor = load_vlm(model, device=device)
    answering = OwnEngine(
        vlm, processor, source, config.exploration, config.max_new_tokens, config.queue, config.timeout, allow or (),
        changes,
    )  # fmt: skip
    uvicorn.run(
        make_app(answering, config, log), host=host, port=port, access_log=False, log_config=None, server_header=False,
        timeout_keep_alive=15, timeout_graceful_shutdown=30, h11_max_incomplete_event_size=32768,
        http=Protocol,
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,  # else a client could say it is many
    )  # fmt: skip


def _inside_vllm(
    model: str, policy: Path | None, log: Path, config: Any, further: str, allow: Sequence[str]
) -> NoReturn:
    """Become vLLM's server with the plugin."""
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise ImportError("--engine vllm needs vLLM: pip install 'arr-coc[vllm]', in an environment of its own")
    from .. import reference
    from ..engines.vllm.launch import command, environment
    from ..engines.vllm.versions import require_vllm
    from ..serving.store import resolve
    from ..wrapping.saving import read_config

    require_vllm()
    source = policy or reference.policy_path()
    line = command(model, read_config(resolve(source).folder), config.host, config.port, shlex.split(further))
    settings = environment(
        source, log, config, allow, {**os.environ, **({"VLLM_API_KEY": config.token} if config.token else {})}
    )  # fmt: skip
    os.execve(line[0], line, settings)


@clear_errors
def retrain(
    log: Annotated[Path, typer.Option("--log", help="Folder of the decision log of `arr-coc serve`.")],
    store: Annotated[Path, typer.Option("--out", "-o", help="Store of policy versions; its current one is judged.")],
    incumbent: Annotated[
        str | None,
        typer.Option(
            "--incumbent", help="Saved policy that becomes version 0001 of a new store; 'reference' is the shipped."
        ),
    ] = None,
    margin: Annotated[float, typer.Option(help="Net reward that the lower bound may lose.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="Two-sided level of the interval.")] = 0.95,
    additive: Annotated[
        bool, typer.Option("--additive", help="Trust that rewards add up over patches: narrower intervals.")
    ] = False,
    fewest: Annotated[int, typer.Option(help="Rounds that must judge.")] = 200,
    last: Annotated[int, typer.Option(min=2, help="Only the most recent rounds of the log.")] = 200_000,
    reference_margin: Annotated[
        float, typer.Option(help="The same against the first version and against full detail.")
    ] = 0.05,
    client_share: Annotated[float, typer.Option(help="Largest share of the rounds that one client may give.")] = 0.1,
    for_model: Annotated[
        str | None, typer.Option(help="Only rounds that this model answered, as the log names it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    debug: Debug = False,
) -> None:
    """Learn a new policy from the decision log, judge it against the incumbent off-policy, promote it or keep that.

    It is promoted only if the lower bound of its net reward minus the incumbent's is not below -MARGIN, and that
    against the first version and full detail not below -REFERENCE-MARGIN. A report (Markdown and JSON) is written to
    STORE/reports either way; a server that follows the store switches by itself.

    Examples:

    `arr-coc retrain --log runs/log --incumbent reference --out runs/store`

    `arr-coc retrain --log runs/log --incumbent runs/mine/policy --out runs/store`

    `arr-coc retrain --log runs/log --out runs/store --margin 0.02`
    """
    from ..serving.nightly import RetrainConfig
    from ..serving.nightly import retrain as run
    from ..serving.report import to_markdown
    from ..serving.store import Store

    config = RetrainConfig(
        margin=margin,
        confidence=confidence,
        additive=additive,
        fewest=fewest,
        last=last,
        seed=seed,
        reference_margin=reference_margin,
        client_share=client_share,
        model=for_model,
    )
    if incumbent is None:
        versions = Store(store)
        if not versions.versions:
            raise ValueError(
                f"{store} holds no version; name the policy to begin with: --incumbent FOLDER or --incumbent reference"
            )
    else:
        from .. import reference

        versions = Store.create(store, reference.policy_path() if incumbent == "reference" else incumbent)
    report = run(log, versions, config)
    typer.echo(to_markdown(report), nl=False)
    typer.echo(f"\nreports: {versions.path / 'reports'}")


@clear_errors
def rollback(
    store: Annotated[Path, typer.Argument(help="Store of policy versions.")],
    to: Annotated[str | None, typer.Option("--to", help="A version, such as 0002; else the one before.")] = None,
    debug: Debug = False,
) -> None:
    """Serve an earlier policy version again: move the store's pointer back.

    Example: `arr-coc rollback runs/store`
    """
    from ..serving.store import Store

    versions = Store(store)
    before = versions.current
    typer.echo(f"version {before} -> {versions.roll_back(to)}")


log_app = typer.Typer(help="Look after a decision log.", no_args_is_help=True)


@log_app.command("prune")
@clear_errors
def prune_log(
    folder: Annotated[Path, typer.Argument(help="Folder of the decision log.")],
    keep_days: Annotated[
        float | None, typer.Option(help="Delete what was last written longer ago than so many days.")
    ] = None,
    keep_gib: Annotated[
        float | None, typer.Option(help="Delete the oldest until the rest has at most so many GiB.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    debug: Debug = False,
) -> None:
    """Delete the oldest segments of a decision log, never one that a server writes, with their rewards.

    Servers need not be stopped: each holds a lock on the segment that it writes. A reward that comes for a deleted
    decision is refused as unknown.

    Examples:

    `arr-coc log prune runs/log --keep-days 30 --dry-run`

    `arr-coc log prune runs/log --keep-days 30 --keep-gib 40`
    """
    from allocator.logged.log import prune

    done = prune(folder, days=keep_days, size=None if keep_gib is None else int(keep_gib * 2**30), dry_run=dry_run)
    for name in done.deleted:
        typer.echo(name)
    says = "would be deleted" if dry_run else "deleted"
    typer.echo(f"{len(done.deleted)} segments {says}, {done.bytes / 2**20:,.1f} MiB; {len(done.in_use)} in use")
