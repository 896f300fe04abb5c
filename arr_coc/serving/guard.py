"""What a request must pass before the application sees it: a token, a body of bounded size in bounded time."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException

_OPEN = frozenset({"/healthz", "/readyz"})  # probes carry no token


class Guard:
    """ASGI middleware.

    Parameters
    ----------
    app
        What it guards.
    token
        Bearer token, or None.
    limit
        Bytes of a body.
    seconds
        Time for a body.
    count
        Told (route, status) of every response.
    """

    def __init__(
        self, app: Any, token: str | None, limit: int, seconds: float, count: Callable[[str, int], None]
    ) -> None:
        self.app, self.limit, self.seconds, self.count = app, limit, seconds, count
        self.too_large = f"the body is larger than {limit:,} bytes; scale the image down"
        self.token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start":
                # The route's own path: one from the client would be a label without bound.
                route = getattr(scope.get("route"), "path", "other")
                self.count(route, message["status"])
            await send(message)

        headers = dict(scope["headers"])
        if self.token is not None and scope["path"] not in _OPEN:
            if not hmac.compare_digest(headers.get(b"authorization", b""), self.token):
                await _refuse(watched, 401, "this server asks for its bearer token", {"www-authenticate": "Bearer"})
                return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limit:
            await _refuse(watched, 413, self.too_large)
            return
        deadline = asyncio.get_running_loop().time() + self.seconds
        arrived, complete = 0, False

        async def bounded() -> Any:
            nonlocal arrived, complete
            if complete:
                return await receive()  # waits for the client to go away, as long as the answer takes
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not arrive within {self.seconds:g} s") from None
            arrived += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if arrived > self.limit:
                raise HTTPException(413, self.too_large)
            return message

        await self.app(scope, bounded, watched)


async def _refuse(send: Any, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
    body = json.dumps({"detail": detail}).encode()
    given = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    given |= headers or {}
    raw = [(key.encode(), value.encode()) for key, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
