"""Uploads of strangers to the running page: names, kinds, and many at once."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.tabs.chooser import FREE
from eval.serving.pictures import many_tags, mutated, sound

TERMS = ["learned", FREE, 0.2, 0.4, "rescale", [64, 128, 256, 400]]
PAGE = b"<html><script>document.title = 'mine'</script></html>"


def upload(api: str, name: str, data: bytes) -> httpx.Response:
    return httpx.post(f"{api}/upload", files={"files": (name, data)}, timeout=120)


def asked(api: str, data: bytes) -> str:
    """What the page says to a question about an upload."""
    (path,) = upload(api, "a.png", data).json()
    given = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "is there a red sign ?", *TERMS]
    event = httpx.post(f"{api}/call/ask", json={"data": given}, timeout=120).json()["event_id"]
    return httpx.get(f"{api}/call/ask/{event}", timeout=300).text


@pytest.fixture
def api(url: str) -> str:
    return f"{url}gradio_api"


@pytest.mark.parametrize(
    "name",
    ["../../evil.png", "..\\..\\evil.png", "/etc/evil.png", "a/../../evil.png", "x" * 300 + ".png", "%2e%2e%2fe"],
)
def test_a_name_leads_nowhere(api: str, name: str) -> None:
    reply = upload(api, name, sound()["png"])
    if reply.status_code == 200:
        (path,) = reply.json()
        assert Path(path).resolve().is_relative_to(Path(tempfile.gettempdir()).resolve() / "gradio")
    else:
        assert reply.status_code < 500
    for wanted in ("/etc/passwd", "/proc/self/environ", str(Path(__file__).resolve()), "../../../etc/passwd"):
        assert httpx.get(f"{api}/file={wanted}", timeout=60).status_code in (403, 404)


@pytest.mark.parametrize("name", ["page.html", "page.svg", "page.xhtml", "page.png", "page.js"])
def test_an_uploaded_page_is_no_page_of_ours(api: str, name: str) -> None:
    """Opened by its address it would run as ours."""
    (path,) = upload(api, name, PAGE).json()
    reply = httpx.get(f"{api}/file={path}", timeout=60)
    kind = reply.headers.get("content-type", "").partition(";")[0]
    shown = reply.status_code == 200 and not reply.headers.get("content-disposition", "").startswith("attachment")
    assert not shown or kind.startswith("image/png"), reply.headers


def test_a_flood_of_bad_pictures_is_told_and_the_page_goes_on(api: str) -> None:
    pictures = [many_tags(), *(data for _, data in mutated(28, seed=21))]
    with ThreadPoolExecutor(12) as many:
        said = list(many.map(lambda data: asked(api, data), pictures))
    for text in said:
        assert ("event: complete" in text) != ("event: error" in text), text[-500:]
        assert "Traceback" not in text and tempfile.gettempdir() + "/gradio" not in text.partition("event: error")[2]
    assert sum("event: error" in text for text in said) > 5
    assert "event: complete" in asked(api, sound()["png"])


@pytest.mark.parametrize(
    "data",
    [
        [], [None] * 8, [{"path": "x"}] * 8, ["a" * 10**6] * 8, [{"path": ["x"], "meta": {}}, "?", *TERMS],
        [{"path": None, "url": "http://169.254.169.254/", "meta": {"_type": "gradio.FileData"}}, "?", *TERMS],
        [{"path": "a\0b", "meta": {"_type": "gradio.FileData"}}, "?", *TERMS],
        [{"path": "/dev/zero", "meta": {"_type": "gradio.FileData"}}, "?", *TERMS], {"a": 1}, 7, "x",
    ],
)  # fmt: skip
def test_bodies_that_no_page_sends_are_refused(api: str, data: Any) -> None:
    reply = httpx.post(f"{api}/call/ask", json={"data": data}, timeout=120)
    if reply.status_code == 200:
        text = httpx.get(f"{api}/call/ask/{reply.json()['event_id']}", timeout=300).text
        assert "event: complete" not in text and "root:" not in text
