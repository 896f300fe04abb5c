"""What ``arr-coc serve --engine vllm`` types."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ... import reference
from ...asking.models import REFERENCE as REFERENCE_NAME
from ...config import ArrCocConfig
from ...serving.config import ServeConfig
from .names import OPTION, PLUGIN
from .table import REFERENCE

WATCH = "arr_coc.engines.vllm.watch.Watch"


def command(
    model: str, config: ArrCocConfig, host: str = "127.0.0.1", port: int = 8000, further: Sequence[str] = ()
) -> list[str]:
    """The command line of vLLM's server.

    Parameters
    ----------
    model
        Folder or hub name, or ``"reference"``.
    config
        Of the served policy.
    host, port
        Where it listens.
    further
        More options of vLLM, as they are; they come last, so that they win.

    Returns
    -------
    list of str
        Beginning with this Python: ``vllm serve`` itself looks for a distribution called vllm.
    """
    overrides: dict[str, object] = {}
    options = ["--host", host, "--port", str(port)]
    if model == REFERENCE_NAME:
        from .template import CHAT_TEMPLATE

        overrides["architectures"] = [REFERENCE]
        options += ["--served-model-name", REFERENCE_NAME, "--dtype", "float32", "--max-model-len", "4096"]
        options += ["--chat-template", CHAT_TEMPLATE, "--limit-mm-per-prompt", '{"image": 1, "video": 0}']
        options += ["--generation-config", "vllm", "--override-generation-config", '{"max_new_tokens": 8}']
        model = str(reference.path())
    differing = {
        name: getattr(config, name)
        for name in ("patch_side", "realizer", "positions")
        if getattr(config, name) != getattr(ArrCocConfig(), name)
    }
    if differing:
        overrides[OPTION] = _own(model) | differing
    if overrides:
        options += ["--hf-overrides", json.dumps(overrides)]
    return [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
        "--worker-extension-cls", WATCH, "--mm-processor-cache-gb", "0", *options, *further,
    ]  # fmt: skip


def _own(model: str) -> dict[str, object]:
    """What a model's own configuration says of budgets, such as its layers: an override replaces all of it."""
    from transformers import PretrainedConfig

    found, _ = PretrainedConfig.get_config_dict(model)
    return dict(found.get(OPTION) or {})


def environment(
    policy: Path,
    log: Path,
    config: ServeConfig,
    allow: Sequence[str] = (),
    base: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """The environment of that command: the plugin by name, and its settings (see `endpoint`)."""
    plugins = [name for name in base.get("VLLM_PLUGINS", "").split(",") if name and name != PLUGIN]
    return {
        **base, "VLLM_PLUGINS": ",".join([*plugins, PLUGIN]),
        "ARR_COC_ALLOW": ",".join(allow), "ARR_COC_POLICY": str(policy), "ARR_COC_LOG": str(log),
        "ARR_COC_EXPLORE": repr(config.exploration.share),
        "ARR_COC_LOG_QUESTIONS": str(int(config.log_questions)), "ARR_COC_QUEUE": str(config.queue),
        "ARR_COC_MAX_NEW_TOKENS": str(config.max_new_tokens or ""), "ARR_COC_TIMEOUT": repr(config.timeout),
        "ARR_COC_UPLOAD_MB": repr(config.upload_bytes / 2**20),
    }  # fmt: skip
