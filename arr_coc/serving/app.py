"""The application of our own server: one process, one model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

import arr_coc

from .config import ServeConfig
from .engine import Engine
from .limits import Limits
from .routes import make_router, metrics_page, metrics_responses
from .service import Service


def make_app(engine: Engine, config: ServeConfig, log: Path) -> FastAPI:
    """The application.

    Parameters
    ----------
    engine
        Who answers; stopped when the application stops.
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
    app.include_router(make_router(lambda: service, config.question_chars))

    @app.get("/metrics", response_class=Response, responses=metrics_responses())
    async def metrics() -> Response:
        """Prometheus metrics."""
        return metrics_page(service)

    app.add_middleware(
        Limits, token=config.token, limit=config.upload_bytes, seconds=config.upload_seconds,
        places=2 * config.queue,  # as many may upload as are answered
        count=lambda route, status: service.metrics.requests.labels(route, status).inc(),
        small=("/reward",),
    )  # fmt: skip
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=config.hosts)
    return app
