"""Servers that know nothing of us: by features, and patch by patch as pictures."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

import arr_coc
from arr_coc import reference
from arr_coc.asking.ask import answers, prepare
from arr_coc.engines.client import Client
from arr_coc.engines.gateway import LARGEST_REPLY, Gateway, poster
from eval.serving.server import VLLM
from eval.serving.stand_ins import make_stand_in

from .conftest import needs_vllm

BUDGETS = (64, 128, 256, 400)


# ---------------------------------------------------------------- what is sent


@pytest.fixture
def heard() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that says "yes" and keeps what it was asked."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            found = json.dumps({"choices": [{"message": {"content": " yes"}}], "usage": {"prompt_tokens": 7}}).encode()
            self.send_response(200 if "secret" in self.headers.get("authorization", "") else 403)
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    server.shutdown()


def pictures(body: dict[str, Any]) -> list[Image.Image]:
    parts = body["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def test_every_patch_is_a_picture_of_its_budgets_size(heard: Any) -> None:
    url, bodies = heard
    model, processor = reference.load()
    (sample,) = reference.generate(1, seed=4, grid=(2, 2))
    with arr_coc.ArrCoc.from_pretrained(reference.policy_path(), model, processor) as arr:
        reply = Client(arr, url, "big", side=28, key="secret").answer(sample["image"], sample["question"])
    assert (reply.text, reply.prompt_tokens) == ("yes", 7)
    sizes = {64: (224, 224), 128: (448, 224), 256: (448, 448), 400: (560, 560)}
    assert [picture.size for picture in pictures(bodies[0])] == [sizes[b] for b in reply.allocation.budgets]
    assert bodies[0]["messages"][0]["content"][-1] == {"type": "text", "text": sample["question"]}
    assert "logprobs" not in bodies[0] and bodies[0]["model"] == "big"


def test_what_a_server_refuses_is_said(heard: Any) -> None:
    model, processor = reference.load()
    (sample,) = reference.generate(1, seed=4, grid=(1, 1))
    with arr_coc.ArrCoc.from_pretrained(reference.policy_path(), model, processor) as arr:
        with pytest.raises(ValueError, match="403"):
            Gateway(arr, heard[0], "big").answer(sample["image"], sample["question"])
        with pytest.raises(ConnectionError, match="127.0.0.1:9"):
            Gateway(arr, "http://127.0.0.1:9", "big").answer(sample["image"], sample["question"])
        with pytest.raises(ValueError, match="none of the budgets"):
            Gateway(arr, heard[0], "big", key="secret").answer(sample["image"], sample["question"], allocation=[65])
        with pytest.raises(ValueError, match="side=0"):
            Client(arr, heard[0], "big", side=0)


# ---------------------------------------------------------------- a stock server


@pytest.fixture(scope="module")
def stock(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """vLLM's own server and model class, without any plugin: its address and the model's folder."""
    folder, output = make_stand_in("qwen2_vl", models / "qwen2_vl"), tmp_path_factory.mktemp("stock") / "output.txt"
    port = _free_port()
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port),
        "--host", "127.0.0.1", "--served-model-name", "stock", "--dtype", "float32", "--max-model-len", "6000",
        "--max-num-seqs", "4", "--max-num-batched-tokens", "6000", "--enforce-eager", "--enable-mm-embeds",
        "--limit-mm-per-prompt", '{"image": 4, "video": 0}', "--generation-config", "vllm",
    ]  # fmt: skip
    with _serving(command, port, output) as url:
        yield url, folder


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _serving(command: list[str], port: int, output: Path) -> Iterator[str]:
    """A server that is no one of ours, until it is healthy; its address."""
    environment = {**VLLM, **os.environ, "VLLM_PLUGINS": "none", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 500
    try:
        while True:
            assert process.poll() is None and time.monotonic() < until, output.read_text()[-3000:]
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def wrapped(models: Path) -> Iterator[Any]:
    from arr_coc.asking.models import load_vlm

    folder = make_stand_in("qwen2_vl", models / "qwen2_vl")
    model, processor = load_vlm(str(folder), device="cpu", dtype="float32")
    with arr_coc.ArrCoc.from_pretrained(folder / "policy", model, processor) as arr:
        yield arr


@needs_vllm
def test_a_stock_server_answers_by_features_what_the_wrapper_answers(stock: Any, wrapped: Any) -> None:
    url, _ = stock
    gateway, rng = Gateway(wrapped, url, "stock", timeout=300), random.Random(0)
    for sample in reference.generate(6, seed=8):
        image = sample["image"].convert("RGB").resize((560, 504))  # one patch of 20 x 18 visual tokens
        inputs = prepare(wrapped.processor, [image], [sample["question"]])
        for allocation in (None, [rng.choice(BUDGETS)]):
            reply = gateway.answer(image, sample["question"], 8, allocation)
            given = [list(reply.allocation.budgets)]
            with torch.no_grad():
                output = wrapped.model.generate(
                    **inputs, do_sample=False, max_new_tokens=8, min_new_tokens=8, allocation=given
                )
            (text,) = answers(wrapped.processor, inputs["input_ids"], output)
            assert reply.text == text and reply.prompt_tokens >= reply.allocation.tokens
    with pytest.raises(ValueError, match="4 patches of 1 image entries"):
        gateway.answer(image.resize((1120, 840)), "what ?", 1)


@needs_vllm
def test_a_stock_server_spends_on_pictures_of_patches_just_the_budgets(stock: Any, wrapped: Any) -> None:
    url, _ = stock
    client = Client(wrapped, url, "stock", side=28, timeout=300)
    for sample in reference.generate(3, seed=9):
        image = sample["image"].convert("RGB").resize((1120, 840))
        reply = client.answer(image, sample["question"], 2)
        words = [client.caption(i, 4) for i in range(4)] + [sample["question"]]
        count = sum(len(wrapped.processor.tokenizer(f" {text}")["input_ids"]) for text in words)
        assert reply.prompt_tokens == count + reply.allocation.tokens + 2 * 4  # words, budgets, marks


# ---------------------------------------------------------------- transformers' own server


@pytest.fixture(scope="module")
def another(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """``transformers serve``: its address, and the name of its model."""
    from torchvision.io import image as reader

    try:
        reader._assert_has_image_ops()
    except RuntimeError:
        pytest.skip("the server reads pictures by torchvision, whose reader is missing in the engine's environment")
    folder, port = make_stand_in("qwen2_vl", models / "qwen2_vl"), _free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    with _serving(command, port, tmp_path_factory.mktemp("another") / "output.txt") as url:
        yield url, str(folder)


def test_transformers_serve_answers_what_its_model_answers_to_the_patches(another: Any, wrapped: Any) -> None:
    """The client's parts, sent to a real server, are what the model itself says to the pictures of the patches."""
    client = Client(wrapped, *another, side=28, timeout=300)
    sent: list[dict[str, Any]] = []
    post = client.post
    client.post = lambda body: sent.append(body) or post(body)
    for sample in reference.generate(2, seed=9):
        image = sample["image"].convert("RGB").resize((1120, 840))
        reply = client.answer(image, sample["question"], 4)
        parts = [
            part if part["type"] == "text" else {"type": "image", "image": picture}
            for part, picture in _with_pictures(sent[-1])
        ]
        inputs = wrapped.processor.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=True, return_dict=True, add_generation_prompt=True,
            processor_kwargs={"return_tensors": "pt"},
        )  # fmt: skip
        full = [[400] * len(reply.allocation.patches)]  # its pictures are patches already
        with torch.no_grad():
            output = wrapped.model.generate(**inputs, do_sample=False, max_new_tokens=4, allocation=full)
        (text,) = answers(wrapped.processor, inputs["input_ids"], output)
        # With a tokenizer of words that server says the prompt again in front of the answer, and unknown words too.
        assert text and " ".join(reply.text.replace("<unk>", "").split()).endswith(text)
        assert reply.text.count("<img>") in (0, reply.allocation.tokens)
        assert len(sent[-1]["messages"][0]["content"]) == 2 * 4 + 1


def _with_pictures(body: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Image.Image | None]]:
    shown = iter(pictures(body))
    for part in body["messages"][0]["content"]:
        yield part, next(shown) if part["type"] == "image_url" else None


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"<html>", "no chat completion"), (b"[1]", "no chat completion"), (b'{"choices": []}', "no chat completion"),
        (b'{"choices": [{"message": {"content": 1}}], "usage": {"prompt_tokens": 1}}', "no chat completion"),
        (b'{"choices": [{"message": {"content": "yes"}}]}', "no chat completion"),
        (b'{"choices": [{"message": {"content": "yes"}}], "usage": null}', "no chat completion"),
        (b"[" * 100_000, "no chat completion"),
        (b" " * (LARGEST_REPLY + 1), "more than 4,194,304 bytes"),
    ],
)  # fmt: skip
def test_what_a_foreign_server_says_is_bounded_and_checked(said: bytes, problem: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(said)

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ValueError, match=problem):
            poster(f"http://127.0.0.1:{server.server_port}", None, 10)({"messages": []})
    finally:
        server.shutdown()
        server.server_close()
