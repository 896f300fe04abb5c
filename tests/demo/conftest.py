"""The demo over the reference model: one host and one running app for all tests of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the demo's tests need the extra 'demo'")

from demo.gallery import Entry, gallery
from demo.host import Host
from demo.models import Models
from demo.screenshots import chromium


@pytest.fixture(scope="session")
def host() -> Host:
    return Host()


@pytest.fixture(scope="session")
def pictures() -> list[Entry]:
    return gallery()


@pytest.fixture(scope="session")
def app(host: Host) -> Iterator[Any]:
    """The app as ``python -m demo`` serves it; its Blocks, listening."""
    from gradio import close_all

    from demo.app import build, serve

    models = Models({host.name: lambda: host})
    page = build(models)
    serve(models, page=page, prevent_thread_lock=True, quiet=True)
    yield page
    close_all()


@pytest.fixture(scope="session")
def url(app: Any) -> str:
    return str(app.local_url)


@pytest.fixture(scope="session")
def need_browser() -> None:
    check_browser()


def check_browser() -> None:
    """Skip without a browser, unless the environment says that the test must run."""
    if chromium() is None:
        reason = "chromium is not installed; on Debian: apt-get install chromium"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
