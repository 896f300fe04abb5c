"""Bounds of bodies where only some paths are our own: the others are bounded too, and keep their own token."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from arr_coc.serving.limits import Limits


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the whole body and says how long it was."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def length(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    await Starlette(routes=[Route("/{path:path}", length, methods=["GET", "POST"])])(scope, receive, send)


def post(path: str, body: Any, **more: Any) -> httpx.Response:
    app = Limits(
        _echo, token="s" * 16, limit=1000, seconds=5, places=1, small=("/reward",), only=("/answer",), others=5000
    )

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post(path, content=body, **more)

    return asyncio.run(ask())


async def _chunks(count: int) -> Any:
    for _ in range(count):
        yield b"x" * 500


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(4500, 200), (5500, 413)])
def test_bodies_of_other_paths_are_bounded_without_a_token_of_ours(size: int, status: int, chunked: bool) -> None:
    reply = post("/v1/chat/completions", _chunks(size // 500) if chunked else b"x" * size)
    assert reply.status_code == status and ("5,000" in reply.text) == (status == 413)


def test_our_own_paths_keep_their_bounds_and_token() -> None:
    assert post("/answer", b"x").status_code == 401
    key = {"authorization": "Bearer " + "s" * 16}
    assert post("/answer", b"x" * 900, headers=key).text == "900"
    assert post("/answer", b"x" * 1100, headers=key).status_code == 413


def test_no_client_names_a_codec() -> None:
    reply = post("/v1/chat/completions", b"{}", headers={"content-type": "application/json; charset=punycode"})
    assert reply.status_code == 415


def test_bodies_of_other_paths_are_bounded_together() -> None:
    """Each may be large; what is inside at once may not be without end, and is let go of with its request."""

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await going.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def run() -> list[int]:
        app = Limits(_answering(wait), None, 1000, 5, 1, only=("/answer",), others=5000, together=10_000)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client:
            asked = [asyncio.create_task(client.post("/v1/x", content=b"x" * 4000)) for _ in range(5)]
            for _ in range(200):
                await asyncio.sleep(0)
            refused = [task for task in asked if task.done()]
            going.set()
            statuses = sorted(reply.status_code for reply in await asyncio.gather(*asked))
            assert len(refused) == 3 and app.held == 0
            assert (await client.post("/v1/x", content=b"x" * 4000)).status_code == 200
            return statuses

    going = asyncio.Event()
    assert asyncio.run(run()) == [200, 200, 429, 429, 429]


def _answering(app: Any) -> Any:
    """An application that answers HTTPException as Starlette's do."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return Starlette(routes=[Mount("/", app=app)])
