"""The HTTP routes, for our own application and for an engine's.

No postponed annotations here: FastAPI reads them, and one holds a limit of the server at hand.
"""

import logging
import math
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from allocator.logged.log import Conflict, LogError

from .engine import Busy
from .schema import Answer, Problem, Reward, Rewarded, Status
from .service import Service, UnknownDecision

logger = logging.getLogger(__name__)


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Problem} for code in (401, *codes)}


class _Route(APIRoute):
    """Errors in one sentence, whatever the application around it does with errors."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                if (reply := problem(error)) is None:
                    raise
                return reply

        return handled


def problem(error: Exception) -> JSONResponse | None:
    """One sentence for whatever can go wrong; None for a defect."""

    def say(status: int, detail: str, retry: float | None = None) -> JSONResponse:
        headers = {} if retry is None else {"Retry-After": str(math.ceil(retry))}
        return JSONResponse({"detail": detail}, status, headers)

    match error:
        case Busy():
            return say(429, str(error), error.retry_after)
        case TimeoutError():
            return say(503, "the answer took too long; try again", 5)
        case LogError():
            logger.error("%s", error)
            return say(503, "the decision could not be logged; try again", 5)
        case UnknownDecision():
            return say(404, str(error))
        case Conflict():
            return say(409, str(error))
        case HTTPException():
            return say(error.status_code, error.detail)
        case RequestValidationError():
            first = error.errors()[0]
            return say(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        case ValueError():
            return say(422, str(error))
    return None


def make_router(service: Callable[[], Service], question_chars: int) -> APIRouter:
    """``/answer``, ``/reward``, ``/healthz`` and ``/readyz``.

    Parameters
    ----------
    service
        Gives the service, once it has been started.
    question_chars
        Longest question.
    """
    router = APIRouter(route_class=_Route)

    @router.post("/answer", responses=_problems(400, 408, 411, 413, 415, 422, 429, 503))
    async def answer(
        image: Annotated[UploadFile, File(description="Image file: JPEG, PNG, WebP, TIFF, ...")],
        question: Annotated[str, Form(min_length=1, max_length=question_chars)],
    ) -> Answer:
        """Answer a question about an image."""
        name, answered, stages = await service().answer(image.read, question)
        return Answer(
            id=name,
            answer=answered.text,
            budgets=answered.budgets,
            grid=None if answered.grid is None else list(answered.grid),
            tokens=answered.tokens,
            full_tokens=answered.full_tokens,
            explored=answered.taken is not None and answered.taken.explored,
            version=answered.version,
            milliseconds={stage: round(1000 * value, 3) for stage, value in stages.items()},
            fallback=answered.fallback,
        )

    @router.post("/reward", responses=_problems(400, 404, 408, 409, 411, 413, 415, 422, 429, 503))
    async def reward(given: Reward, request: Request) -> Rewarded:
        """Take feedback for an answer. Repeating it is harmless; a different second value is refused."""
        address = request.client.host if request.client else None
        value, repeated = await service().reward(given.id, given.reward, given.answers, address)
        return Rewarded(id=given.id, reward=value, repeated=repeated)

    @router.get("/healthz")
    async def healthz() -> Status:
        """Whether the process lives."""
        return Status(status="alive", version=service().engine.policies.version)

    @router.get("/readyz", responses={503: {"model": Problem}})
    async def readyz() -> Status:
        """Whether questions can be answered and logged now."""
        failure = service().log.failure
        if not service().ready or failure is not None:
            raise HTTPException(503, f"not ready: {failure or 'starting or stopping'}")
        return Status(status="ready", version=service().engine.policies.version)

    return router


def metrics_page(service: Service) -> Response:
    """Prometheus metrics of a service."""
    service.metrics.inside.set(service.engine.inside)
    return Response(service.metrics.page(), media_type="text/plain; version=1.0.0; charset=utf-8")


def metrics_responses() -> dict[int | str, dict[str, Any]]:
    """What the schema says of them."""
    return {200: {"content": {"text/plain": {}}}, **_problems()}
