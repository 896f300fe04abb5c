"""Every private place of vLLM that is used, with what it is expected to be; `check` names the one that has moved.

Tested with the versions in `versions.py`. All else that this package touches is a public option, entry point or
extension method of vLLM: ``--worker-extension-cls``, ``collective_rpc``, ``SamplingParams.extra_args`` and
``skip_reading_prefix_cache``, the entry points of plugins, model registration, rendered engine inputs.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from .names import KEY

SEAMS: dict[str, tuple[str, ...]] = {
    # where: the parameters that are relied on (for classes: attributes of the class)
    "vllm.model_executor.models.transformers.multimodal:MultiModalMixin.embed_multimodal": ("self", "kwargs"),
    "vllm.model_executor.models.transformers.multimodal:MultiModalMixin.get_mrope_input_positions": (
        "self", "input_tokens", "mm_features",
    ),
    "vllm.model_executor.models.transformers.causal:CausalMixin": (),
    "vllm.model_executor.models.transformers.moe:MoEMixin": (),
    "vllm.model_executor.models.transformers:MultiModalProcessor": (),
    "vllm.model_executor.models.transformers:MultiModalProcessingInfo": (),
    "vllm.model_executor.models.transformers:MultiModalDummyInputsBuilder": (),
    "vllm.model_executor.layers.attention:Attention": (),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.execute_model": ("self", "scheduler_output"),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.get_model": ("self",),
    "vllm.v1.core.sched.output:NewRequestData": ("req_id", "prompt_token_ids", "sampling_params"),
    "vllm.v1.core.sched.output:SchedulerOutput": ("scheduled_new_reqs", "finished_req_ids"),
    "vllm.multimodal.inputs:MultiModalKwargsItem": (),
    "vllm.multimodal.inputs:MultiModalKwargsItems.get_data": ("self",),
    "vllm.multimodal.inputs:MultiModalFieldElem": ("data", "field"),
    "vllm.multimodal.inputs:MultiModalBatchedField": ("keep_on_cpu",),
    "vllm.multimodal.inputs:PlaceholderRange": ("offset", "length", "is_embed"),
    "vllm.multimodal.media:MEDIA_CONNECTOR_REGISTRY": (),
    "vllm.multimodal.media:MediaConnector.load_from_url": ("self", "url", "media_io"),
    "vllm.multimodal.media:MediaConnector.load_from_url_async": ("self", "url", "media_io"),
    "vllm.multimodal.media.base:MediaWithBytes": ("media", "original_bytes"),
    "vllm.multimodal.media.image:ImageMediaIO.load_bytes": ("self", "data"),
    "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat.render_chat_request": ("self", "request"),
    "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat.create_chat_completion": (
        "self", "request", "raw_request",
    ),
}  # fmt: skip
"""``module:name`` of every seam, and what must be found in its signature or among its fields."""


def check(seams: dict[str, tuple[str, ...]] = SEAMS) -> None:
    """Refuse a vLLM whose seams are elsewhere.

    Raises
    ------
    ImportError
        Naming every seam that has moved.
    """
    moved = [f"{name} ({reason})" for name, names in seams.items() if (reason := _missing(name, names))]
    if moved:
        raise ImportError(
            "this vLLM keeps elsewhere what the budgets need: " + "; ".join(moved) + ". Install a version that "
            "arr_coc.engines.vllm.versions names, or use arr_coc.engines.gateway, which needs none of it."
        )


def _missing(name: str, wanted: Sequence[str]) -> str:
    place, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(place)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        return str(error)
    names = set(getattr(found, "__annotations__", {})) | set(getattr(found, "__dataclass_fields__", {}))
    names |= set(inspect.signature(found).parameters) if callable(found) else set()
    lost = [one for one in wanted if one not in names]
    return f"without {', '.join(lost)}" if lost else ""


# ---------------------------------------------------------------- in the worker


def attention_layers(worker: Any) -> list[Any]:
    """The decoder's attention layers, first layer first."""
    from vllm.model_executor.layers.attention import Attention

    return [module for module in worker.model_runner.get_model().modules() if isinstance(module, Attention)]


def embed(worker: Any, words: Sequence[int]) -> torch.Tensor:
    """``[words, D]`` input embeddings."""
    model = worker.model_runner.get_model()
    ids = torch.tensor(list(words), dtype=torch.long, device=worker.device)
    with torch.no_grad():
        found: torch.Tensor = model.get_language_model().embed_input_ids(ids)
    return found


def on_step(worker: Any, attentions: Any) -> None:
    """Tell which requests begin and end, before every step."""
    runner = worker.model_runner
    execute = runner.execute_model

    def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        for new in scheduler_output.scheduled_new_reqs:
            extra = getattr(new.sampling_params, "extra_args", None) or {}
            if KEY in extra:
                attentions.begin(new.req_id, str(extra[KEY]), len(new.prompt_token_ids))
        for finished in scheduler_output.finished_req_ids:
            attentions.end(finished)
        return execute(scheduler_output, *args, **kwargs)

    runner.execute_model = execute_model


def on_attention(worker: Any, module: Any, layer: int, attentions: Any) -> None:
    """Show the queries and keys of one layer, just before its kernel is given them."""
    impl, forward = module.impl, module.impl.forward

    def seen(this: Any, query: Any, key: Any, value: Any, cache: Any, metadata: Any, *args: Any, **kwargs: Any) -> Any:
        if attentions.wanted and metadata is not None:
            starts, lengths = metadata.query_start_loc.tolist(), metadata.seq_lens.tolist()
            rows = [
                (request, starts[place], starts[place + 1], lengths[place])
                for place, request in enumerate(worker.model_runner.input_batch.req_ids)
            ]
            attentions.see(layer, query, key, rows, impl.scale)
        return forward(this, query, key, value, cache, metadata, *args, **kwargs)

    impl.forward = seen
