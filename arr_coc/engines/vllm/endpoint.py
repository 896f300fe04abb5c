"""The plugin's HTTP side: chat completions with budgets, ``/answer``, ``/reward`` and our metrics beside ``/v1/*``.

Settings come from the environment, since vLLM's command line is vLLM's:

    ARR_COC_POLICY         folder of a saved policy, or of a store of versions that is followed
    ARR_COC_LOG            folder of the decision log
    ARR_COC_ALLOW          models that the policy's scorers may load, separated by commas
    ARR_COC_EXPLORE        share of questions that may be explored
    ARR_COC_LOG_QUESTIONS  1 logs the questions too; images never
    ARR_COC_MAX_NEW_TOKENS longest answer of /answer
    ARR_COC_QUEUE, ARR_COC_TIMEOUT  questions of /answer inside at once, and seconds for each
    ARR_COC_UPLOAD_MB      largest body of /answer; every other path, /v1 too, takes eight times that, and all bodies
                           inside at once on other paths 64 times that
    ARR_COC_KEPT_MB        features of glances that a worker keeps for the answers, see `kept`
    ARR_COC_UNSUPPORTED    "full" serves a model that can't be given budgets at full detail; else it refuses to start
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware

from allocator.logged.explore import Exploration

from ...asking.models import model_identity
from ...serving.config import ServeConfig, is_loopback
from ...serving.engine import Answered, Busy
from ...serving.limits import Limits
from ...serving.policy import FIXED, Loaded, Policies
from ...serving.routes import make_router, metrics_page, metrics_responses
from ...serving.service import Service
from ...wrapping.question import check_question
from . import seams
from .chat import BudgetedChat
from .engine import Budgeter
from .glance import Describer
from .names import OPTION, PLUGIN
from .table import require
from .versions import require_vllm
from .watch import Watch

logger = logging.getLogger(__name__)

WATCH = f"{Watch.__module__}.{Watch.__qualname__}"


def settings() -> tuple[ServeConfig, Path, Path]:
    """Configuration, policy and log, from the environment.

    Raises
    ------
    ValueError
        For a value that can't be used.
    """
    from ... import reference

    def of(name: str, default: str) -> str:
        return os.environ.get(f"ARR_COC_{name}") or default

    longest = of("MAX_NEW_TOKENS", "")
    config = ServeConfig(
        anonymous=True,  # who may ask is vLLM's --host and --api-key
        exploration=Exploration(share=float(of("EXPLORE", "0.2"))),
        log_questions=of("LOG_QUESTIONS", "0") == "1",
        max_new_tokens=int(longest) if longest else None,
        queue=int(of("QUEUE", "64")),
        timeout=float(of("TIMEOUT", "300")),
        upload_bytes=int(float(of("UPLOAD_MB", "8")) * 2**20),
    )
    return config, Path(of("POLICY", str(reference.policy_path()))), Path(of("LOG", "runs/log"))


class Plugin:
    """Entry point ``vllm.endpoint_plugins``; loaded only if ``VLLM_PLUGINS`` names it."""

    name = PLUGIN
    required_tasks = ("generate",)

    def attach_router(self, app: Any) -> None:
        """Routes and their limits; called before the engine is there."""
        config, _, _ = settings()

        def service() -> Service:
            found: Service | None = getattr(app.state, PLUGIN, None)
            if found is None:
                raise Busy(5)
            return found

        app.include_router(make_router(service, config.question_chars))

        @app.get("/arr_coc/metrics", responses=metrics_responses())
        async def metrics() -> Any:
            """Prometheus metrics of the budgets; the engine's own are at /metrics."""
            return metrics_page(service())

        host = app.state.args.host or "0.0.0.0"
        keys = [key for key in (app.state.args.api_key or [os.environ.get("VLLM_API_KEY")]) if key]
        app.add_middleware(
            Limits, token=keys[0] if keys else None, limit=config.upload_bytes, seconds=config.upload_seconds,
            places=2 * config.queue, small=("/reward",), only=("/answer", "/reward"),
            others=8 * config.upload_bytes,  # several pictures, in base64
            together=64 * config.upload_bytes,
        )  # fmt: skip
        if not keys and is_loopback(host):  # a page that is rebound to 127.0.0.1 calls by a name of its own
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=ServeConfig(host=host).hosts)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Look whether budgets can be given, and begin."""
        require_vllm()
        seams.check()
        config, source, log = settings()
        try:
            require(engine_client.model_config)
        except ValueError as error:
            if os.environ.get("ARR_COC_UNSUPPORTED") != "full":
                raise
            logger.warning("%s It is served at full detail, without a log, because ARR_COC_UNSUPPORTED=full.", error)
            return
        require_options(engine_client.vllm_config)
        processor = engine_client.renderer.get_mm_processor().info.get_hf_processor()
        hf_config = engine_client.model_config.hf_config
        describer = Describer(hf_config, processor)
        allow = [name for name in os.environ.get("ARR_COC_ALLOW", "").split(",") if name]
        policies = Policies(source, config.exploration, describer.model, processor, allow)
        require_same(hf_config, policies)
        describer.serve(policies.config)
        budgeter = Budgeter(engine_client, policies, describer)
        await budgeter.start()
        chat = state.openai_serving_chat = BudgetedChat(
            state.openai_serving_chat, budgeter, lambda: getattr(state, PLUGIN, None)
        )
        service = Service(VllmEngine(chat, budgeter, processor, config), config, log)
        await service.start()
        setattr(state, PLUGIN, service)
        logger.info("budgets by policy %s; decisions are logged in %s", policies.version, log)


class VllmEngine:
    """As of `arr_coc.serving.engine.Engine`.

    Parameters
    ----------
    chat
        The server's chat handler with budgets.
    budgeter
        Plans.
    processor
        The model's.
    config
        See `ServeConfig`.
    """

    def __init__(self, chat: BudgetedChat, budgeter: Budgeter, processor: Any, config: ServeConfig) -> None:
        self.chat, self.budgeter, self.config, self.processor = chat, budgeter, config, processor
        self.policies, self._inside = budgeter.policies, 0
        self.identity = model_identity(budgeter.describer.model)  # its name and shapes; the weights are elsewhere

    @property
    def inside(self) -> int:
        """Questions that are worked on."""
        return self._inside

    def check(self, text: str) -> None:
        """Refuse a question that would be no words to the model, with ValueError."""
        check_question(self.processor, text)

    async def answer(self, image: Image.Image, text: str) -> Answered:
        """See `arr_coc.serving.engine.Engine.answer`."""
        if self._inside >= self.config.queue:
            raise Busy(1)
        self._inside += 1
        try:
            return await asyncio.wait_for(self._answer(image, text), self.config.timeout)
        finally:
            self._inside -= 1

    async def _answer(self, image: Image.Image, text: str) -> Answered:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        content = [{"type": "image_pil", "image_pil": image}, {"type": "text", "text": text}]
        request = ChatCompletionRequest(messages=[], temperature=0, max_tokens=self.config.max_new_tokens)
        request.messages = [{"role": "user", "content": content}]  # a picture is no JSON that could be validated
        planned, rendered = await self.chat.plan(request)
        if planned is None:
            raise ValueError(f"the engine refuses the question: {getattr(rendered, 'error', rendered)}")
        began = time.perf_counter()
        reply = await self.chat.given((rendered[0], [planned.given])).create_chat_completion(request)
        if not getattr(reply, "choices", None):
            raise ValueError(f"the engine refuses the question: {reply.error.message}")
        planned.timings["generate"] = time.perf_counter() - began
        grid = self.processor.patch_grid(image) if hasattr(self.processor, "patch_grid") else None
        return planned.answered((reply.choices[0].message.content or "").strip(), self.policies, grid)

    async def adopt(self, loaded: Loaded) -> None:
        """Serve another policy from the next question on."""
        await self.budgeter.watch(loaded)
        self.policies.loaded = loaded

    async def stop(self) -> None:
        """Let go of what was started here; the engine is the server's."""
        self.budgeter.stop()


def require_options(config: Any) -> None:
    """Refuse an engine that was started without what the budgets need.

    Raises
    ------
    ValueError
        Naming the option to type.
    """
    if config.parallel_config.worker_extension_cls != WATCH:
        raise ValueError(f"the glance can't be read: start vLLM with --worker-extension-cls {WATCH}")
    if config.model_config.multimodal_config.mm_processor_cache_gb:
        raise ValueError("the pixels would be held back: start vLLM with --mm-processor-cache-gb 0")
    if config.parallel_config.pipeline_parallel_size > 1:
        raise ValueError("with --pipeline-parallel-size above 1 no worker sees all layers; use tensor parallelism")


def require_same(hf_config: Any, policies: Policies) -> None:
    """Refuse a policy that the workers would not realise as it was learned.

    Raises
    ------
    ValueError
        With the option to type.
    """
    names = [name for name in FIXED if name != "budgets"]
    own = getattr(hf_config, OPTION, None) or {}  # it may also say which layers a model is read at: no matter here
    given = {"patch_side": 20, "realizer": "auto", "positions": "auto"}
    given |= {name: value for name, value in own.items() if name in given}
    wanted = {name: getattr(policies.config, name) for name in names}
    if given != wanted:
        raise ValueError(
            f"the policy was learned with {wanted}, the engine would realise {given}: start vLLM with "
            f"--hf-overrides.{OPTION} or the entry {OPTION!r} of --hf-overrides set to the former"
        )
