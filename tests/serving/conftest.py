"""A server inside the test's process, on the reference model."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="pip install 'arr-coc[serve]'")

import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

import arr_coc.reference
from allocator.logged.explore import Exploration
from arr_coc.serving.app import make_app
from arr_coc.serving.config import ServeConfig
from arr_coc.serving.own import OwnEngine
from arr_coc.serving.store import Store


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def questions() -> list[dict[str, Any]]:
    """Eight reference questions with their pictures as PNG."""
    return [{**s, "png": png(s["image"])} for s in arr_coc.reference.generate(8, seed=3, grid=(2, 2))]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store whose version 0001 is the shipped policy."""
    return Store.create(tmp_path / "store", arr_coc.reference.policy_path())


@pytest.fixture
def client(reference: Any, store: Store, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``with client(**settings) as c``: a TestClient; the model is left unwrapped behind it."""

    @contextmanager
    def make(**settings: Any) -> Iterator[TestClient]:
        config = ServeConfig(**{"exploration": Exploration(share=0.3), "reload_seconds": 0.05, **settings})
        engine = OwnEngine(
            *reference, store.path, config.exploration, config.max_new_tokens, config.queue, config.timeout
        )
        app = make_app(engine, config, tmp_path / "log")
        with TestClient(app, "http://localhost", raise_server_exceptions=False) as c:
            yield c
        assert "generate" not in vars(reference[0])

    yield make
    shutil.rmtree(tmp_path / "log", ignore_errors=True)


def ask(c: Any, sample: dict[str, Any], **changes: Any) -> Any:
    """POST /answer."""
    files = {"image": ("a.png", changes.pop("image", sample["png"]))}
    return c.post("/answer", files=files, data={"question": changes.pop("question", sample["question"])}, **changes)


@contextmanager
def listening(app: Any, **options: Any) -> Iterator[tuple[str, int]]:
    """A real server on a free port, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join(20)
