"""``POST /v1/chat/completions`` with budgets: vLLM's own handler, given the question at its planned budgets."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from allocator.logged.log import LogError

from ...serving.service import Service
from .engine import Budgeter, Planned
from .names import KEY, OPTION

logger = logging.getLogger(__name__)


class BudgetedChat:
    """Stands where the server keeps its chat handler; whatever is not defined here is that handler's own.

    A reply says under ``arr_coc`` what was decided, and by which id a reward finds it. A streamed one says so in its
    first event; its decision is on the log before that, without the answer's words.

    Parameters
    ----------
    chat
        vLLM's handler.
    budgeter
        Plans.
    service
        Holds the log; None where nothing is to be logged.
    """

    def __init__(self, chat: Any, budgeter: Budgeter, service: Callable[[], Service | None]) -> None:
        self.chat, self.budgeter, self.service = chat, budgeter, service

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chat, name)

    async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
        """As of vLLM's handler."""
        came = time.perf_counter()
        if request.vllm_xargs:  # what is watched is nobody else's affair
            request.vllm_xargs.pop(KEY, None)
        _nameless(request.messages)
        try:
            planned, rendered = await self.plan(request)
        except ValueError as error:
            return self.chat.create_error_response(str(error))
        if planned is None:
            return await self.given(rendered).create_chat_completion(request, raw_request)
        conversation = rendered[0]
        one = self.given((conversation, [planned.given]))
        if not request.stream:
            reply = await one.create_chat_completion(request, raw_request)
            if not getattr(reply, "choices", None):
                return reply  # an error of the engine's own, which is answered as one
            said = reply.choices[0].message.content
            try:
                reply.arr_coc = await self._note(planned, said, came)
            except LogError as error:
                return self._unlogged(error)
            return reply
        try:
            noted = await self._note(planned, None, came)
        except LogError as error:
            return self._unlogged(error)
        events = await one.create_chat_completion(request, raw_request)
        return _announced(events, noted) if hasattr(events, "__aiter__") else events

    async def plan(self, request: Any) -> tuple[Planned | None, Any]:
        """Render a request and plan it; no plan where there is nothing to plan.

        Raises
        ------
        ValueError
            For an allocation that doesn't fit.
        """
        options = dict(request.mm_processor_kwargs or {})
        allocation = options.pop(OPTION, None)
        if allocation is not None:
            request.mm_processor_kwargs = options or None
        rendered = await self.chat.render_chat_request(request)
        if not isinstance(rendered, tuple):
            return None, rendered
        (given,) = rendered[1]
        return await self.budgeter.plan(given, allocation), rendered

    def given(self, rendered: Any) -> Any:
        """The handler for one request that has been rendered already."""
        one = copy.copy(self.chat)

        async def render_chat_request(request: Any) -> Any:
            return rendered

        one.render_chat_request = render_chat_request
        return one

    async def _note(self, planned: Planned, text: str | None, came: float) -> dict[str, Any]:
        answered = planned.answered(text, self.budgeter.policies)
        service, name = self.service(), None
        if service is not None:
            name, answered, _ = await service.note(answered, planned.question, came)
        return {
            "id": name, "budgets": planned.budgets, "tokens": planned.tokens, "full_tokens": planned.full_tokens,
            "explored": answered.taken is not None and answered.taken.explored, "version": answered.version,
            "fallback": planned.fallback,
        }  # fmt: skip

    def _unlogged(self, error: LogError) -> Any:
        logger.error("%s", error)
        return self.chat.create_error_response(
            "the decision could not be logged; try again", err_type="ServiceUnavailable", status_code=503
        )


def _nameless(messages: Any) -> None:
    """Take away the names that a client gives its pictures (``uuid``).

    The engine believes them: features and prefixes of another one's picture would be found under the same name.
    """
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                part.pop("uuid", None)


async def _announced(events: AsyncGenerator[str, None], noted: dict[str, Any]) -> AsyncGenerator[str, None]:
    """A stream of events whose first one says what was decided."""
    first = True
    async for event in events:
        if first and event.startswith("data: {"):
            data = json.loads(event.removeprefix("data: "))
            event, first = f"data: {json.dumps({**data, 'arr_coc': noted})}\n\n", False
        yield event
