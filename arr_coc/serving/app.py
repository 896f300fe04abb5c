"""The HTTP routes.

No postponed annotations here: FastAPI reads them, and one holds a limit of the server at hand.
"""

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

import arr_coc
from allocator.logged.log import Conflict, LogError

from .batching import Busy
from .config import ServeConfig
from .engine import Engine
from .guard import Guard
from .schema import Answer, Problem, Reward, Rewarded, Status
from .service import Service, UnknownDecision

logger = logging.getLogger(__name__)


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Problem} for code in (401, *codes)}


def make_app(engine: Engine, config: ServeConfig, log: Path) -> FastAPI:
    """The application.

    Parameters
    ----------
    engine
        The wrapped model; left unwrapped when the application stops.
    config
        See `ServeConfig`.
    log
        Folder of the decision log.
    """
    service: Service

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        nonlocal service
        service = app.state.service = Service(engine, config, log)
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="ARR-COC",
        version=arr_coc.__version__,
        summary="Answers questions about images with the visual tokens that each question needs.",
        lifespan=life,
        docs_url=None,  # its page loads scripts from elsewhere; the schema itself is at /openapi.json
        redoc_url=None,
    )
    app.add_middleware(
        Guard, token=config.token, limit=config.upload_bytes, seconds=config.upload_seconds,
        places=2 * config.queue,  # as many may upload as are answered
        count=lambda route, status: service.metrics.requests.labels(route, status).inc(),
    )  # fmt: skip
    _handle_errors(app)

    @app.post("/answer", responses=_problems(400, 408, 413, 422, 429, 503))
    async def answer(
        image: Annotated[UploadFile, File(description="Image file: JPEG, PNG, WebP, TIFF, ...")],
        question: Annotated[str, Form(min_length=1, max_length=config.question_chars)],
    ) -> Answer:
        """Answer a question about an image."""
        name, answered, stages = await service.answer(await image.read(), question)
        allocation = answered.allocation
        return Answer(
            id=name,
            answer=answered.text,
            budgets=allocation.budgets,
            grid=None if answered.grid is None else list(answered.grid),
            tokens=allocation.tokens,
            full_tokens=allocation.full_tokens,
            explored=answered.taken.explored,
            version=answered.version,
            milliseconds={stage: round(1000 * value, 3) for stage, value in stages.items()},
        )

    @app.post("/reward", responses=_problems(400, 404, 408, 409, 413, 422, 429, 503))
    async def reward(given: Reward) -> Rewarded:
        """Take feedback for an answer. Repeating it is harmless; a different second value is refused."""
        value, repeated = await service.reward(given.id, given.reward, given.answers)
        return Rewarded(id=given.id, reward=value, repeated=repeated)

    @app.get("/healthz")
    async def healthz() -> Status:
        """Whether the process lives."""
        return Status(status="alive", version=engine.served.version)

    @app.get("/readyz", responses={503: {"model": Problem}})
    async def readyz() -> Status:
        """Whether questions can be answered and logged now."""
        failure = service.log.failure
        if not service.ready or failure is not None:
            raise HTTPException(503, f"not ready: {failure or 'starting or stopping'}")
        return Status(status="ready", version=engine.served.version)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_problems()})
    async def metrics() -> Response:
        """Prometheus metrics."""
        service.metrics.inside.set(service.batcher.inside)
        return Response(service.metrics.page(), media_type="text/plain; version=1.0.0; charset=utf-8")

    return app


def _handle_errors(app: FastAPI) -> None:
    """One sentence for whatever can go wrong, and never a traceback."""

    def say(status: int, detail: str, retry: float | None = None) -> JSONResponse:
        headers = {} if retry is None else {"Retry-After": str(math.ceil(retry))}
        return JSONResponse({"detail": detail}, status, headers)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> JSONResponse:
        return say(429, str(error), error.retry_after)

    @app.exception_handler(TimeoutError)
    async def late(request: Request, error: TimeoutError) -> JSONResponse:
        return say(503, "the answer took too long; try again", 5)

    @app.exception_handler(LogError)
    async def unlogged(request: Request, error: LogError) -> JSONResponse:
        logger.error("%s", error)
        return say(503, "the decision could not be logged; try again", 5)

    @app.exception_handler(UnknownDecision)
    async def unknown(request: Request, error: UnknownDecision) -> JSONResponse:
        return say(404, str(error))

    @app.exception_handler(Conflict)
    async def conflict(request: Request, error: Conflict) -> JSONResponse:
        return say(409, str(error))

    @app.exception_handler(ValueError)
    async def unusable(request: Request, error: ValueError) -> JSONResponse:
        return say(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return say(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
