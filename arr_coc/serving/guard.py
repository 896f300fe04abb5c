"""What a request must pass before the application sees it: a token, a body of bounded size in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import h11
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

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
    places
        POST requests inside at once, those included whose body is still arriving; beyond it, 429, and the body
        is thrown away unread. What memory and disk uploads can take is bounded by this many of them.
    count
        Told (route, status) of every response.
    """

    def __init__(
        self,
        app: Any,
        token: str | None,
        limit: int,
        seconds: float,
        places: int,
        count: Callable[[str, int], None],
    ) -> None:
        self.app, self.limit, self.seconds, self.places, self.count = app, limit, seconds, places, count
        self.inside = 0
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

        deadline = asyncio.get_running_loop().time() + self.seconds

        async def refuse(status: int, detail: str, headers: dict[str, str] | None = None) -> None:
            await self._drain(receive, deadline)
            await _refuse(watched, status, detail, headers)

        headers = dict(scope["headers"])
        if self.token is not None and scope["path"] not in _OPEN:
            if not hmac.compare_digest(headers.get(b"authorization", b""), self.token):
                await refuse(401, "this server asks for its bearer token", {"www-authenticate": "Bearer"})
                return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limit:
            await refuse(413, self.too_large)
            return
        posts = scope["method"] == "POST"
        if posts and self.inside >= self.places:
            await refuse(429, f"{self.inside} requests are inside; try again in 1 s", {"retry-after": "1"})
            return
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

        self.inside += posts
        try:
            await self.app(scope, bounded, watched)
        finally:
            self.inside -= posts

    async def _drain(self, receive: Any, deadline: float) -> None:
        """Throw away the body of a request that is refused, within reason.

        Closing on unread bytes resets the connection, and the client may never see why.
        """
        arrived, more = 0, True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while more and arrived <= 4 * self.limit:
                    message = await receive()
                    arrived += len(message.get("body", b""))
                    more = message.get("more_body", False)  # no such thing once the client has gone


def bounded_heads(seconds: float) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 with a bound on the time in which a request's head must arrive.

    uvicorn itself waits for ever: a client that opens connections and says nothing, or a byte now and then, would hold
    as many as the process may have open.
    """

    class BoundedHeads(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._deadline = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:  # the head is here
                self._forget()
            elif self._deadline is None:  # the next one on this connection has begun
                self._deadline = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _forget(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return BoundedHeads


async def _refuse(send: Any, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
    body = json.dumps({"detail": detail}).encode()
    given = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    given |= headers or {}
    raw = [(key.encode(), value.encode()) for key, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
