"""vLLM's own server with the plugin: answers, chat completions, rewards, and what must not end it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import arr_coc
from allocator.logged.log import read_records
from arr_coc import reference
from arr_coc.asking.ask import answers, prepare
from arr_coc.cli import app
from arr_coc.serving.store import Store
from eval.serving.server import ENGINE, Server, samples

from .conftest import needs_vllm

pytestmark = needs_vllm
QUESTIONS = 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.create(tmp_path_factory.mktemp("store"), reference.policy_path())


@pytest.fixture(scope="module")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    with Server(log, *ENGINE, "--explore", "0.5", "--policy", str(store.path), "--max-new-tokens", "4") as running:
        yield running.wait()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=300) as made:
        yield made


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    return samples(QUESTIONS, seed=9)


def ask(client: httpx.Client, q: dict[str, Any]) -> httpx.Response:
    return client.post("/answer", files={"image": ("a.png", q["png"])}, data={"question": q["question"]})


def chat(q: dict[str, Any], **more: Any) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(q["png"]).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": q["question"]}]
    message = {"role": "user", "content": content}
    return {"model": "reference", "messages": [message], "max_tokens": 4, "temperature": 0, **more}


def wait_for(client: httpx.Client, needle: str) -> None:
    until = time.monotonic() + 60
    while needle not in client.get("/arr_coc/metrics").text:
        assert time.monotonic() < until, needle
        time.sleep(0.2)


def test_answers_budgets_and_the_log_are_the_wrappers(
    client: httpx.Client, server: Server, questions: list[dict[str, Any]]
) -> None:
    """What was not explored is at the wrapper's budgets; every answer is the wrapper's at the budgets that it got."""
    served = [ask(client, q).json() for q in questions]
    chats = [client.post("/v1/chat/completions", json=chat(q)).json() for q in questions]
    model, processor = reference.load()
    with arr_coc.ArrCoc.from_pretrained(reference.policy_path(), model, processor) as arr:
        arr.planner.config = dataclasses.replace(arr.planner.config, direct=False)  # a server always looks
        for q, answer, completion in zip(questions, served, chats, strict=True):
            inputs = prepare(processor, [q["image"]], [q["question"]])
            for noted, said in (
                (answer, answer["answer"]),
                (completion["arr_coc"], completion["choices"][0]["message"]["content"].strip()),
            ):
                given = {"allocation": [noted["budgets"]]} if noted["explored"] else {}
                output = model.generate(**inputs, do_sample=False, **given)
                assert (said, noted["budgets"]) == (
                    *answers(processor, inputs["input_ids"], output),
                    arr.last[0].budgets,
                )
                assert (noted["tokens"], noted["fallback"]) == (arr.last[0].tokens, "")
    records = {record["id"]: record for record in read_records(server.log, "decision")}
    assert len({noted["explored"] for noted in served}) == 2
    for answer in served:
        # Half are not explored, and an explored one may still draw the policy's own budgets.
        propensity = records[answer["id"]]["decision"]["log_propensity"]
        assert propensity < 0.0 and (answer["explored"] or propensity > math.log(0.5) - 1e-6)
        assert records[answer["id"]]["tokens"] == answer["tokens"] <= answer["full_tokens"]
    assert all(completion["arr_coc"]["id"] in records for completion in chats)
    assert all("question" not in record for record in records.values())


def test_rewards_join_answers_and_completions(client: httpx.Client, questions: list[dict[str, Any]]) -> None:
    answer = ask(client, questions[0]).json()
    given = client.post("/reward", json={"id": answer["id"], "answers": questions[0]["answers"]}).json()
    assert given["repeated"] is False
    again = client.post("/reward", json={"id": answer["id"], "reward": given["reward"]}).json()
    assert again == {**given, "repeated": True}
    streamed = client.post("/v1/chat/completions", json=chat(questions[1], stream=True)).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in streamed if line.startswith("data: {")]
    noted, said = events[0]["arr_coc"], [event["choices"][0]["delta"].get("content") or "" for event in events]
    assert len(events) >= 3 and "".join(said).strip()
    assert client.post("/reward", json={"id": noted["id"], "answers": ["x"]}).status_code == 422  # no words on the log
    assert client.post("/reward", json={"id": noted["id"], "reward": 1.0}).json()["reward"] == 1.0
    page = client.get("/arr_coc/metrics").text
    assert "arr_coc_reward_count 2.0" in page and "arr_coc_fallbacks_total 0.0" in page


def test_an_unchanged_openai_client_gets_budgets(server: Server, questions: list[dict[str, Any]]) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as made:
        reply = made.chat.completions.create(**chat(questions[0]))
        noted = reply.model_extra["arr_coc"]
        assert reply.choices[0].message.content and reply.usage.prompt_tokens < noted["full_tokens"]
        # The server explores: only the same budgets give the same words.
        same = chat(questions[0], extra_body={"mm_processor_kwargs": {"arr_coc": [noted["budgets"]]}}, stream=True)
        chunks = list(made.chat.completions.create(**same))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == reply.choices[0].message.content


def test_an_allocation_may_be_given_and_a_wrong_one_is_refused(
    client: httpx.Client, questions: list[dict[str, Any]]
) -> None:
    q = questions[0]
    patches = len(ask(client, q).json()["budgets"])
    mixed = [(64, 128, 256, 400)[i % 4] for i in range(patches)]
    good = client.post("/v1/chat/completions", json=chat(q, mm_processor_kwargs={"arr_coc": [mixed]})).json()
    assert good["arr_coc"]["tokens"] == sum(mixed) and good["arr_coc"]["fallback"] == "given by the client"
    for bad, needle in (
        ([mixed[1:]], f"must hold {patches} budgets"), ([mixed, mixed], "each of the 1 images"), ("all", "one list"),
        ([[65] * patches], "none of"), ([["64"] * patches], "none of"),
    ):  # fmt: skip
        reply = client.post("/v1/chat/completions", json=chat(q, mm_processor_kwargs={"arr_coc": bad}))
        assert reply.status_code == 400 and needle in reply.json()["error"]["message"], reply.text


def test_bad_requests_are_refused_in_one_sentence(client: httpx.Client, questions: list[dict[str, Any]]) -> None:
    q = questions[0]
    for changes, status in (({"png": b"%PDF"}, 422), ({"question": " "}, 422), ({"question": "what <eos> ?"}, 422)):
        reply = ask(client, {**q, **changes})
        assert reply.status_code == status and "Traceback" not in reply.text and reply.json()["detail"]
    assert client.post("/reward", json={"id": "nobody", "reward": 1}).status_code == 404
    assert client.post("/reward", content=b"x" * 100_000).status_code == 413
    kind = {"content-type": "application/json; charset=punycode"}
    assert client.post("/reward", content=b"{}", headers=kind).status_code == 415
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 400
    words = {"model": "reference", "messages": [{"role": "user", "content": "what ?"}], "max_tokens": 2}
    text = client.post("/v1/chat/completions", json=words)
    assert text.status_code == 200 and "arr_coc" not in text.json()


def test_clients_that_go_away_end_nothing(
    server: Server, client: httpx.Client, questions: list[dict[str, Any]]
) -> None:
    body = json.dumps(chat(questions[0], stream=True)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}"
    for wait in (0.0, 0.02, 0.1):
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            gone.sendall(head.encode() + b"\r\n\r\n" + body)
            time.sleep(wait)
    assert ask(client, questions[0]).json()["fallback"] == ""


def test_a_policy_that_vanishes_is_served_on_and_another_is_adopted(
    client: httpx.Client, store: Store, questions: list[dict[str, Any]]
) -> None:
    def copied(new: Path) -> Any:
        return shutil.copytree(store.folder("0001"), new, dirs_exist_ok=True)

    lost = store.add(copied, {})
    (store.folder(lost) / "policy.safetensors").unlink()
    store.point_to(lost)
    wait_for(client, 'arr_coc_policy_reloads_total{result="failed"} 1.0')
    assert ask(client, questions[0]).json()["version"] == "0001"
    good = store.add(copied, {})
    store.point_to(good)
    wait_for(client, f'arr_coc_policy_info{{version="{good}"}}')
    assert ask(client, questions[0]).json()["version"] == good
    assert client.get("/readyz").status_code == 200


def test_a_night_learns_from_the_engines_log_and_the_engine_serves_what_it_learned(
    client: httpx.Client, server: Server, store: Store, questions: list[dict[str, Any]]
) -> None:
    before = store.current
    for turn in range(4):
        for number, q in enumerate(questions):
            reply = ask(client, q).json()
            given = {"id": reply["id"], "reward": float(reply["answer"] == q["answer"] and (number + turn) % 4 > 0)}
            assert reply["version"] == before and client.post("/reward", json=given).status_code == 200
    lax = ["--margin", "1", "--reference-margin", "1", "--fewest", "2", "--client-share", "1"]
    shown = CliRunner().invoke(app, ["retrain", "--log", str(server.log), "--out", str(store.path), *lax])
    assert shown.exit_code == 0, (shown.output, shown.exception)
    (report,) = [json.loads(file.read_text()) for file in (store.path / "reports").glob("*.json")]
    assert report["promoted"] == store.current != before, shown.output
    wait_for(client, f'arr_coc_policy_info{{version="{store.current}"}}')
    after = ask(client, questions[0]).json()
    assert (after["version"], after["fallback"]) == (store.current, "")


def test_the_picture_is_read_as_everywhere(client: httpx.Client, questions: list[dict[str, Any]]) -> None:
    """An upload goes through our own reader: a rotated JPEG, a palette, sixteen bits."""
    file = io.BytesIO()
    questions[0]["image"].convert("P").save(file, "GIF")
    assert ask(client, {**questions[0], "png": file.getvalue()}).status_code == 200
