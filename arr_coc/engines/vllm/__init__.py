"""Budgets inside vLLM.

    VLLM_PLUGINS=arr_coc vllm serve MODEL --mm-processor-cache-gb 0 \\
        --worker-extension-cls arr_coc.engines.vllm.watch.Watch

answers chat completions with budgets; ``arr-coc serve --engine vllm`` types that.

| file | part |
|---|---|
| `model`, `reference` | the model inside the worker: patches at the grids that an item carries |
| `watch` | the glance's attention, read where queries and keys meet the kernel |
| `inputs` | a rendered input at other grids; the keys of the engine's caches hold them |
| `glance`, `engine` | from a glance to the scene, the plan, and the input to answer from |
| `chat`, `media`, `endpoint` | the HTTP side |
| `seams`, `versions`, `table` | what of vLLM is private and used, which versions, which models |
"""

from __future__ import annotations

import os

from .names import PLUGIN


def register() -> None:
    """Entry point ``vllm.general_plugins``, called in every process of the engine, perhaps more than once.

    Does nothing unless ``VLLM_PLUGINS`` names it: vLLM loads every installed plugin otherwise, and a model class must
    not be replaced by the mere presence of a package.
    """
    if PLUGIN not in os.environ.get("VLLM_PLUGINS", "").split(","):
        return
    from vllm import ModelRegistry

    from . import media  # noqa: F401  registers the connector
    from .table import MODELS

    os.environ.setdefault("VLLM_MEDIA_CONNECTOR", PLUGIN)

    for architecture, where in MODELS.items():
        ModelRegistry.register_model(architecture, f"{__name__}.{where}")
