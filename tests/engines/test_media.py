"""Pictures of chat completions: read by our rules, no addresses, no names that a client chose."""

from __future__ import annotations

import asyncio
import base64
from types import SimpleNamespace
from typing import Any

import pytest

from arr_coc.asking.images import read_image
from arr_coc.engines.vllm.chat import BudgetedChat
from arr_coc.engines.vllm.names import PLUGIN
from eval.serving.pictures import POSTSCRIPT, many_scans, many_tags, mutated, sound

from .conftest import needs_vllm


def address(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def connector(**more: Any) -> Any:
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    import arr_coc.engines.vllm.media  # noqa: F401  registers it

    return MEDIA_CONNECTOR_REGISTRY.load(PLUGIN, **more)


@needs_vllm
def test_pictures_are_read_as_everywhere() -> None:
    for data in (*sound().values(), many_tags()):
        made = connector().fetch_image(address(data))
        assert made.media == read_image(data) and made.original_bytes == data
        assert asyncio.run(connector().fetch_image_async(address(data))).media == made.media


@needs_vllm
def test_damaged_pictures_are_refused_in_words() -> None:
    read = 0
    for data in (POSTSCRIPT, b"", many_scans(), *(data for _, data in mutated(1000, seed=3))):
        try:
            connector().fetch_image(address(data))
            read += 1
        except ValueError as error:
            assert str(error).startswith("the image ") and "\n" not in str(error)
    assert 50 < read < 600, read


@needs_vllm
@pytest.mark.parametrize("url", ["http://169.254.169.254/", "https://example.org/a.png", "ftp://h/a", "//h", "HTTP://h"])
def test_addresses_are_not_opened(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.connections import HTTPConnection

    def opened(*arguments: Any, **more: Any) -> None:
        pytest.fail("an address was opened")

    for name in ("get_bytes", "async_get_bytes", "get_response", "get_async_response"):
        monkeypatch.setattr(HTTPConnection, name, opened)
    for fetch in (lambda: connector().fetch_image(url), lambda: asyncio.run(connector().fetch_image_async(url))):
        with pytest.raises(ValueError, match="addresses are not opened"):
            fetch()
    with pytest.raises((ValueError, RuntimeError)):
        connector().fetch_image("file:///etc/passwd")


class Chat:
    """A handler that notes what it is asked to render, and has nothing to plan."""

    def __init__(self) -> None:
        self.rendered: list[Any] = []

    async def render_chat_request(self, request: Any) -> Any:
        self.rendered.append(request.messages)
        return "an error"

    async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
        return await self.render_chat_request(request)


def test_a_client_gives_its_picture_no_name() -> None:
    """Under a name of one's own another one's features would be found, or left for him to find."""
    chat = Chat()
    part = {"type": "image_url", "image_url": {"url": "data:,"}, "uuid": "picture-1"}
    content = [part, {"type": "text", "text": "?"}]
    messages = [{"role": "system", "content": "words"}, {"role": "user", "content": content}]
    request = SimpleNamespace(messages=messages, vllm_xargs=None, mm_processor_kwargs=None, stream=False)
    asyncio.run(BudgetedChat(chat, None, lambda: None).create_chat_completion(request))
    assert chat.rendered and "uuid" not in str(chat.rendered)
