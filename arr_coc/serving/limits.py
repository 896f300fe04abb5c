"""What a request must pass before the application sees it: a token, a body of bounded size in bounded time.

uvicorn bounds heads and idle connections; Starlette checks the Host (`TrustedHostMiddleware`). Neither bounds bodies.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import Callable, Collection
from typing import Any

from starlette.exceptions import HTTPException

_OPEN = frozenset({"/healthz", "/readyz", "/health"})  # probes carry no token


class Limits:
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
    small
        Paths whose bodies are at most 64 KiB.
    only
        Paths that are guarded; all of them if empty.
    others
        Bytes of a body on all other paths, whose token and places are the application's own affair; it has as much
        longer to arrive. None leaves them alone.
    together
        Bytes of all bodies on other paths that are inside at once; beyond it, 429.
    """

    def __init__(
        self,
        app: Any,
        token: str | None,
        limit: int,
        seconds: float,
        places: int,
        count: Callable[[str, int], Any] = lambda route, status: None,
        small: Collection[str] = (),
        only: Collection[str] = (),
        others: int | None = None,
        together: int | None = None,
    ) -> None:
        self.app, self.limit, self.seconds, self.places, self.count = app, limit, seconds, places, count
        self.small, self.only, self.others, self.inside = frozenset(small), frozenset(only), others, 0
        self.together, self.held = together, 0
        self.token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        guarded = not self.only or scope["path"] in self.only
        if scope["type"] != "http" or not (guarded or self.others):
            await self.app(scope, receive, send)
            return

        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start":
                # The route's own path: one from the client would be a label without bound.
                route = getattr(scope.get("route"), "path", "other")
                self.count(route, message["status"])
            await send(message)

        limit = self.limit if guarded else self.others or 0
        limit = min(limit, 2**16) if scope["path"] in self.small else limit
        seconds = self.seconds * max(1, limit / self.limit)
        deadline = asyncio.get_running_loop().time() + seconds
        too_large = f"the body is larger than {limit:,} bytes" + ("; scale the image down" if limit > 2**16 else "")

        async def refuse(status: int, detail: str, **headers: str) -> None:
            await self._drain(receive, deadline)
            await _refuse(watched, status, detail, headers)

        headers = dict(scope["headers"])
        if guarded and b"transfer-encoding" in headers:  # a megabyte in chunks of a byte costs a second
            return await _refuse(watched, 411, "say how long the body is (Content-Length); chunks are not taken", {})
        if guarded and self.token is not None and scope["path"] not in _OPEN:
            if not hmac.compare_digest(headers.get(b"authorization", b""), self.token):
                return await refuse(401, "this server asks for its bearer token", **{"www-authenticate": "Bearer"})
        # A client may not name the codec: Python has some that take minutes for a kilobyte.
        kind = headers.get(b"content-type", b"").lower().replace(b'"', b"").replace(b" ", b"")
        if b"charset=" in kind and b"charset=utf-8" not in kind:
            return await refuse(415, "the body must be UTF-8; leave the charset out of content-type")
        if kind.startswith(b"application/x-www-form-urlencoded"):  # some Starlettes take any number of fields
            return await refuse(415, "send multipart/form-data, as curl -F does, or JSON")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            return await refuse(413, too_large)
        posts = guarded and scope["method"] == "POST"
        if posts and self.inside >= self.places:
            return await refuse(429, f"{self.inside} requests are inside; try again in 1 s", **{"retry-after": "1"})
        arrived, complete = 0, False

        async def bounded() -> Any:
            nonlocal arrived, complete
            if complete:
                return await receive()  # waits for the client to go away, as long as the answer takes
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not arrive within {seconds:g} s") from None
            size = len(message.get("body", b""))
            arrived += size
            complete = not message.get("more_body", False)
            if arrived > limit:
                raise HTTPException(413, too_large)
            if not guarded:
                self.held += size
                if self.together is not None and self.held > self.together:
                    raise HTTPException(429, "too many bodies are inside; try again in 1 s", {"retry-after": "1"})
            return message

        self.inside += posts
        try:
            await self.app(scope, bounded, watched)
        finally:
            self.inside -= posts
            self.held -= 0 if guarded else arrived

    async def _drain(self, receive: Any, deadline: float) -> None:
        """Throw away the body of a request that is refused, within reason.

        Closing on unread bytes resets the connection, and the client may never see why.
        """
        arrived, more = 0, True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while more and arrived <= 4 * max(self.limit, self.others or 0):
                    message = await receive()
                    arrived += len(message.get("body", b""))
                    more = message.get("more_body", False)  # no such thing once the client has gone


async def _refuse(send: Any, status: int, detail: str, headers: dict[str, str]) -> None:
    body = json.dumps({"detail": detail}).encode()
    given = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **headers}
    raw = [(key.encode(), value.encode()) for key, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
