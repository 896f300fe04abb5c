"""An engine inside this process that is asked in batches: for comparisons and throughput, without HTTP in between."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from PIL import Image

from allocator.logged.explore import Exploration


def messages(images: Sequence[Image.Image], question: str) -> list[dict[str, Any]]:
    """One turn of a user."""
    parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


class OfflineEngine:
    """vLLM with the plugin; ``VLLM_ENABLE_V1_MULTIPROCESSING=0`` keeps it in this process.

    Parameters
    ----------
    model
        Folder, or ``"reference"``.
    policy
        Folder of the saved policy.
    exploration
        See `allocator.logged.explore`.
    options
        Of ``vllm.LLM``.
    """

    def __init__(self, model: str, policy: Path, exploration: Exploration, **options: Any) -> None:
        from transformers import AutoConfig, AutoProcessor

        from arr_coc import reference
        from arr_coc.engines.vllm.engine import watched_layers
        from arr_coc.engines.vllm.glance import Describer
        from arr_coc.engines.vllm.launch import WATCH
        from arr_coc.engines.vllm.table import REFERENCE
        from arr_coc.serving.policy import Policies

        known: dict[str, Any] = {"limit_mm_per_prompt": {"image": 2, "video": 0}}
        if model == "reference":
            from arr_coc.engines.vllm.template import CHAT_TEMPLATE
            from arr_coc.reference.processor import ReferenceProcessor

            model, self.template = str(reference.path()), CHAT_TEMPLATE
            self.processor: Any = ReferenceProcessor.from_pretrained(model, local_files_only=True)
            known |= {"hf_overrides": {"architectures": [REFERENCE]}}
        else:
            self.processor, self.template = AutoProcessor.from_pretrained(model, trust_remote_code=False), None
        # Before the engine, whose transformers backend decorates the model classes of this process.
        self.describer = Describer(AutoConfig.from_pretrained(model, trust_remote_code=False), self.processor)
        self.policies = Policies(policy, exploration, self.describer.model, self.processor)
        self.describer.serve(self.policies.config)

        from vllm import LLM

        self.llm = LLM(
            model, **{
                "dtype": "float32", "max_model_len": 6000, "max_num_seqs": 16, "seed": 0, "mm_processor_cache_gb": 0,
                "worker_extension_cls": WATCH, **known, **options,
            }
        )  # fmt: skip
        wanted = watched_layers(self.policies.loaded.planner)
        self.layers = dict(zip(wanted, self.llm.collective_rpc("arr_coc_watch", args=(wanted,))[0], strict=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del self.llm

    def render(self, images: Sequence[Image.Image], question: str) -> Any:
        """A question at full detail, as the engine takes it."""
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        engine = self.llm.llm_engine
        options = {} if self.template is None else {"chat_template": self.template}
        template = self.processor if self.template is None else self.processor.tokenizer
        text = template.apply_chat_template(
            messages(images, question), tokenize=False, add_generation_prompt=True, **options
        )
        prompt = {"prompt": text, "multi_modal_data": {"image": list(images)}}
        (given,) = engine.renderer.render_cmpl([parse_model_prompt(engine.model_config, prompt)])
        return given

    def at(self, given: Mapping[str, Any], call: Any, budgets: Sequence[int]) -> dict[str, Any]:
        """A question at budgets."""
        from arr_coc.engines.vllm.inputs import reduced

        return reduced(given, call, self.describer.grids(call, budgets))

    def glance(self, given: Sequence[Any]) -> list[tuple[Any, Any, Any]]:
        """Glance at questions, all in one batch: per question its call, its words, and what was seen."""
        from arr_coc.engines.vllm.engine import glance_params, joined
        from arr_coc.engines.vllm.inputs import reduced

        calls = [self.describer.question(one) for one in given]
        names = [uuid.uuid4().hex for _ in given]
        floors = [reduced(one, call, self.describer.floor(call), True) for one, call in zip(given, calls, strict=True)]
        outputs = self._run(floors, [glance_params(name) for name in names])
        found = []
        for name, call, output in zip(names, calls, outputs, strict=True):
            words = self.describer.words(call)
            ranks = self.llm.collective_rpc("arr_coc_take", args=(name, words[1]))
            found.append((call, words, joined(ranks, output.outputs[0].logprobs)))
        return found

    def generate(self, given: Sequence[Any], tokens: int, logprobs: int | None = None, stop: bool = True) -> list[Any]:
        """Answers, all in one batch."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=tokens, logprobs=logprobs, ignore_eos=not stop)
        return self._run(given, [params] * len(given))

    def _run(self, given: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        engine, done, order = self.llm.llm_engine, {}, []
        for one, param in zip(given, params, strict=True):
            order.append(engine.add_request(uuid.uuid4().hex, one, param))
        while engine.has_unfinished_requests():
            done |= {output.request_id: output for output in engine.step() if output.finished}
        # The engine may add to a name that it was given.
        return [next(o for name, o in done.items() if asked.startswith(name) or name == asked) for asked in order]
