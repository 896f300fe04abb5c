"""The routes: answers with their decisions on the disk, rewards once, refusals in one sentence."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Request
from PIL import Image

import arr_coc
import arr_coc.reference
from allocator import Decision
from allocator.logged.explore import Exploration
from allocator.logged.log import read_records
from allocator.trackers.drift import PageHinkley
from arr_coc.asking.ask import answers, prepare
from arr_coc.learning.rewards import vqa_accuracy
from arr_coc.serving import service
from arr_coc.serving.config import ServeConfig
from arr_coc.serving.engine import Busy
from arr_coc.serving.limits import Limits
from arr_coc.serving.own import OwnEngine
from eval.serving.hooks import better_bodies
from tests.serving.conftest import ask, listening, png


def test_answers_are_those_of_direct_generate(
    client: Any, questions: list[dict[str, Any]], reference: Any, tmp_path: Path
) -> None:
    """Without exploration the server says and spends exactly what the wrapped model does, question by question."""
    with client(exploration=Exploration(share=0)) as c:
        served = [ask(c, q).json() for q in questions]
    model, processor = reference
    with arr_coc.ArrCoc.from_pretrained(arr_coc.reference.policy_path(), model, processor) as arr:
        for q, answer in zip(questions, served, strict=True):
            inputs = prepare(processor, [q["image"]], [q["question"]])
            (text,) = answers(processor, inputs["input_ids"], model.generate(**inputs, do_sample=False))
            assert (answer["answer"], answer["budgets"]) == (text, arr.last[0].budgets)
            assert (answer["tokens"], answer["full_tokens"]) == (arr.last[0].tokens, arr.last[0].full_tokens)
    records = list(read_records(tmp_path / "log"))
    assert [r["id"] for r in records] == [a["id"] for a in served]
    assert all(r["decision"]["log_propensity"] == 0.0 for r in records)
    assert set(answer["milliseconds"]) >= {"queue", "glance", "attending", "generate", "log", "total"}


def test_a_decision_on_the_log_can_be_decided_again(
    client: Any, questions: list[dict[str, Any]], reference: Any, store: Any, tmp_path: Path
) -> None:
    """What is logged suffices to recompute the greedy allocation and the reward model's features."""
    from allocator import Policy

    with client(exploration=Exploration(share=1.0, alpha=1.0, tau=0.2)) as c:
        for q in questions:
            ask(c, q)
    policy, explored = Policy.load(store.folder("0001") / "policy.safetensors"), 0
    for record in read_records(tmp_path / "log", "decision"):
        decision = Decision.from_dict(record["decision"])
        again = policy.select(
            decision.contexts, decision.covariates, record["costs"], record["limit"], decision.price, explore=False
        )
        np.testing.assert_allclose(again.values, decision.values, atol=1e-12)
        assert decision.log_propensity < 0 and record["explored"]
        assert record["tokens"] == decision.cost and "question" not in record
        explored += (again.index != decision.index).any()
    assert explored > 0


def test_rewards_are_idempotent_and_late_ones_join(
    client: Any, questions: list[dict[str, Any]], tmp_path: Path
) -> None:
    with client() as c:
        first, second = (ask(c, q).json() for q in questions[:2])
        given = c.post("/reward", json={"id": first["id"], "answers": questions[0]["answers"]})
        truth = vqa_accuracy(first["answer"], questions[0]["answers"])
        assert given.json() == {"id": first["id"], "reward": truth, "repeated": False}
        assert c.post("/reward", json={"id": first["id"], "reward": truth}).json()["repeated"] is True
        other = c.post("/reward", json={"id": first["id"], "reward": 0.25})
        assert other.status_code == 409 and str(truth) in other.json()["detail"]
    with client() as c:  # after a restart: known rewards are known, late ones find their decision
        assert c.post("/reward", json={"id": first["id"], "reward": truth}).json()["repeated"] is True
        assert c.post("/reward", json={"id": second["id"], "reward": 0.5}).json()["repeated"] is False
        with ThreadPoolExecutor(4) as pool:
            again = list(pool.map(lambda _: c.post("/reward", json={"id": second["id"], "reward": 0.5}), range(8)))
        assert all(r.json() == {"id": second["id"], "reward": 0.5, "repeated": True} for r in again)
    rewards = [(r["decision"], r["reward"]) for r in read_records(tmp_path / "log", "reward")]
    assert rewards == [(first["id"], truth), (second["id"], 0.5)]


@pytest.mark.parametrize(
    ("body", "status", "needle"),
    [
        ({"id": "nobody", "reward": 1}, 404, "nobody"),
        ({"id": "../../../etc/passwd", "reward": 1}, 404, "no decision"),
        ({"id": "x", "reward": 1.5}, 422, "less than or equal to 1"),
        ({"id": "x", "reward": -0.1}, 422, "greater than or equal to 0"),
        ({"id": "x"}, 422, "either reward or answers"),
        ({"id": "x", "reward": 1, "answers": ["a"]}, 422, "either reward or answers"),
        ({"id": "x", "answers": []}, 422, "at least 1"),
        ({"id": "x", "reward": 1, "file": "/etc/passwd"}, 422, "Extra inputs"),
        ({"id": "x" * 1000, "reward": 1}, 422, "at most 80"),
        ("[]", 422, "body"),
        ('{"id": "x", "reward": NaN}', 422, "finite"),
        ("{", 422, "JSON"),
    ],
)
def test_bad_rewards_are_refused_in_one_sentence(client: Any, body: Any, status: int, needle: str) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    with client() as c:
        reply = c.post("/reward", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == status and needle in reply.json()["detail"], reply.text


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that declares an enormous picture."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100_000)), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("changes", "status", "needle"),
    [
        ({"image": b""}, 422, "empty"),
        ({"image": b"GIF89a"}, 422, "damaged"),
        ({"image": b"%PDF-1.7 ..."}, 422, "PDF"),
        ({"image": b"<svg/>"}, 422, "SVG"),
        ({"image": bomb(60_000, 60_000)}, 422, "too large"),
        ({"image": bomb(6_000, 5_000)}, 422, "20,000,000"),
        ({"question": " "}, 422, "empty"),
        ({"question": "x" * 2001}, 422, "2000"),
        ({"question": "what <eos> ?"}, 422, "control token"),
    ],
)
def test_bad_questions_are_refused_in_one_sentence(
    client: Any, questions: list[dict[str, Any]], changes: dict[str, Any], status: int, needle: str, tmp_path: Path,
    reference: Any,
) -> None:  # fmt: skip
    if "<eos>" in changes.get("question", ""):
        changes = {"question": f"what {reference[1].tokenizer.eos_token} ?"}
    with client() as c:
        reply = ask(c, questions[0], **changes)
    assert reply.status_code == status and needle in reply.json()["detail"], reply.text
    assert list(read_records(tmp_path / "log")) == []


def test_truncated_pictures_at_every_place(client: Any, questions: list[dict[str, Any]]) -> None:
    whole = questions[0]["png"]
    with client() as c:
        for cut in range(1, len(whole) - 200, len(whole) // 8):  # the last bytes only say that it ends
            assert ask(c, questions[0], image=whole[:cut]).status_code == 422


def test_one_bad_question_does_not_spoil_its_neighbours(client: Any, questions: list[dict[str, Any]]) -> None:
    """The reference model asks for at least one word it can look for: '?' fails inside the worker, alone."""
    with client() as c, ThreadPoolExecutor(4) as pool:
        changes = [{}, {"question": "?"}, {}, {}]
        replies = list(pool.map(lambda pair: ask(c, pair[0], **pair[1]), zip(questions, changes, strict=False)))
    assert [r.status_code for r in replies] == [200, 422, 200, 200]


def test_a_body_too_large_is_refused_whether_or_not_it_says_so(client: Any, questions: list[dict[str, Any]]) -> None:
    with client(upload_bytes=50_000) as c:
        assert ask(c, questions[0], image=b"x" * 60_000).status_code == 413

        def body() -> Any:
            yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
            for _ in range(100):
                yield b"x" * 1000

        kind = {"content-type": "multipart/form-data; boundary=b"}
        reply = c.post("/answer", content=body(), headers=kind)
        assert reply.status_code == 411 and "Content-Length" in reply.json()["detail"]
        reply = c.post("/answer", content=b"".join(body()), headers={**kind, "content-length": "1000"})  # it lies
        assert reply.status_code == 413 and "50,000 bytes" in reply.json()["detail"]
        reply = c.post("/answer", data={"question": "what ?"})
        assert reply.status_code == 415 and "multipart" in reply.json()["detail"]
        assert ask(c, questions[0], image=png(Image.new("RGB", (40, 40)))).status_code == 200


def test_a_body_that_does_not_arrive_is_refused_in_time() -> None:
    """A client that announces a body and stops talking gets 408; one whose answer takes long does not."""
    inner, counted, sent = FastAPI(), [], []

    @inner.post("/answer")
    async def answer(request: Request) -> str:
        await request.form()
        await asyncio.sleep(0.2)
        return "said"

    limits = Limits(inner, None, 10_000, 0.1, 1, lambda route, status: counted.append((route, status)))

    async def play(*bodies: bytes) -> int:
        waiting = [{"type": "http.request", "body": body, "more_body": body != bodies[-1]} for body in bodies]

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop(0)
            await asyncio.sleep(10)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        kind = (b"content-type", b"multipart/form-data; boundary=b")
        scope = {"type": "http", "method": "POST", "path": "/answer", "headers": [kind], "query_string": b""}
        await limits(scope, receive, send)
        return next(message["status"] for message in sent if message["type"] == "http.response.start")

    whole = b'--b\r\nContent-Disposition: form-data; name="question"\r\n\r\nwhat ?\r\n--b--\r\n'
    assert asyncio.run(play(whole)) == 200 and counted == [("/answer", 200)]
    sent.clear()
    assert asyncio.run(play()) == 408 and counted[-1] == ("/answer", 408)
    sent.clear()

    async def together() -> list[int]:
        """While one request is inside, the only place is taken: the next is refused, and one after it is not."""
        first = asyncio.create_task(play(whole))
        await asyncio.sleep(0.05)
        second = await play(whole)
        sent.clear()
        return [second, await first]

    assert asyncio.run(together()) == [429, 200] and limits.inside == 0
    sent.clear()
    assert asyncio.run(play(whole)) == 200


def test_the_fuzz_gets_beyond_the_door(client: Any, questions: list[dict[str, Any]]) -> None:
    """What `make hostile` puts into the bodies that schemathesis makes is taken by the server."""
    with client() as c:
        bodies = better_bodies("/answer", {"image": b"x", "question": "what ?"}, questions[:2], [])
        replies = [ask(c, {"png": body["image"], "question": body["question"]}) for body in bodies]
        assert [r.status_code for r in replies] == [422, 200, 200, 200, 200]
        known = [reply.json()["id"] for reply in replies[1:]]
        bodies = better_bodies("/reward", {"id": "x", "reward": 0.5}, questions, known)
        assert [c.post("/reward", json=body).status_code for body in bodies] == [404, 200, 200, 200, 200]
    assert better_bodies("/answer", "junk", questions, known) == ["junk"]


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"places": 0}, 429),
        ({"limit": 1_000_000}, 413),
        ({"token": "0123456789abcdef"}, 401),
    ],
)
def test_who_is_refused_while_it_talks_hears_why(settings: dict[str, Any], status: int) -> None:
    """Closing on unread bytes resets the connection, and the reply is lost with it."""
    options = {"token": None, "limit": 10_000_000, "seconds": 10.0, "places": 1, **settings}
    with listening(Limits(FastAPI(), count=lambda route, status: None, **options)) as (host, port):

        async def post() -> list[httpx.Response]:
            async with httpx.AsyncClient(timeout=20) as client:
                url, body = f"http://{host}:{port}/answer", b"x" * 3_000_000
                return await asyncio.gather(*(client.post(url, content=body) for _ in range(20)))

        for reply in asyncio.run(post()):
            assert reply.status_code == status and reply.json()["detail"]


def test_a_disk_that_stalls_while_it_is_read_is_not_waited_for(
    client: Any, questions: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    with client() as c:
        known = ask(c, questions[0]).json()
        for name in ("find", "pseudonym"):
            with monkeypatch.context() as patch:
                patch.setattr(service, "PATIENCE", 0.2)
                where: Any = service if name == "find" else c.app.state.service.log
                patch.setattr(where, name, lambda *arguments: free.wait(20))
                reply = c.post("/reward", json={"id": known["id"], "reward": 1})
                assert reply.status_code == 503 and "disk does not answer" not in reply.text  # only in the log
                assert c.get("/healthz").status_code == 200
        free.set()
        assert c.post("/reward", json={"id": known["id"], "reward": 1}).json()["repeated"] is False


def test_drift_raises_its_alarms(client: Any, questions: list[dict[str, Any]]) -> None:
    """Other questions than before, and rewards that fall: each is counted once, for an alert to act on."""
    with client(exploration=Exploration(share=0)) as c:
        watch = c.app.state.service._watch
        watch.window, watch._recent = 5, deque(maxlen=5)
        watch.rewards = PageHinkley(threshold=0.6, slack=0.0)
        asked = [ask(c, q).json()["id"] for q in [questions[0]] * 5]
        for name, value in zip(asked, (1.0, 1.0, 1.0, 0.0, 0.0), strict=True):
            c.post("/reward", json={"id": name, "reward": value})
        quiet = c.get("/metrics").text
        other = next(q for q in questions if q["kind"] != questions[0]["kind"])
        for _ in range(5):
            ask(c, other)
        page = c.get("/metrics").text
    assert 'arr_coc_drift_alarms_total{kind="reward"} 1.0' in quiet
    assert 'kind="contexts"' not in quiet and 'arr_coc_drift_alarms_total{kind="contexts"} 1.0' in page


def test_a_full_queue_answers_429_and_nothing_is_lost(
    client: Any, questions: list[dict[str, Any]], tmp_path: Path
) -> None:
    with client(queue=2) as c, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda q: ask(c, q), questions))
    codes = [r.status_code for r in replies]
    assert set(codes) == {200, 429} and codes.count(200) >= 2
    assert all(int(r.headers["retry-after"]) >= 1 for r in replies if r.status_code == 429)
    assert len(list(read_records(tmp_path / "log"))) == codes.count(200)


def test_a_question_that_waits_too_long_is_given_up(client: Any, questions: list[dict[str, Any]]) -> None:
    with client(timeout=0.001) as c:
        reply = ask(c, questions[0])
    assert reply.status_code == 503 and reply.headers["retry-after"]


def test_no_acknowledgement_without_the_log(
    client: Any, questions: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from allocator.logged import log

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with client() as c:
        first = ask(c, questions[0]).json()
        with monkeypatch.context() as patch:
            patch.setattr(log.os, "fsync", full)
            assert ask(c, questions[0]).status_code == 503
            assert c.post("/reward", json={"id": first["id"], "reward": 1}).status_code == 503
            assert c.get("/readyz").status_code == 503 and c.get("/healthz").status_code == 200
        assert c.post("/reward", json={"id": first["id"], "reward": 1}).json()["repeated"] is False
        until = time.monotonic() + 60  # the log looks at the disk by itself
        while c.get("/readyz").status_code != 200 and time.monotonic() < until:
            time.sleep(0.05)
        assert c.get("/readyz").status_code == 200


def test_a_token_guards_everything_but_the_probes(client: Any, questions: list[dict[str, Any]]) -> None:
    token = "0123456789abcdef"
    with client(token=token) as c:
        for path in ("/metrics", "/openapi.json", "/nowhere"):
            assert c.get(path).status_code == 401
        assert ask(c, questions[0]).status_code == 401
        assert ask(c, questions[0], headers={"authorization": f"Bearer {token}0"}).status_code == 401
        assert c.get("/healthz").status_code == c.get("/readyz").status_code == 200
        assert ask(c, questions[0], headers={"authorization": f"Bearer {token}"}).status_code == 200


def test_logs_hold_neither_questions_nor_images_unless_asked_for(
    client: Any, questions: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with client() as c:
        ask(c, questions[0])
        ask(c, questions[0], image=b"no picture")
    written = "".join(p.read_text() for p in (tmp_path / "log").iterdir()) + caplog.text
    assert questions[0]["question"] not in written
    with client(log_questions=True) as c:
        ask(c, questions[0])
    assert questions[0]["question"] in "".join(p.read_text() for p in (tmp_path / "log").iterdir())


def test_the_policy_is_replaced_under_load_without_a_lost_request(
    client: Any, questions: list[dict[str, Any]], store: Any
) -> None:
    """Every request of a stream is answered while versions change, and each says which version decided."""
    import shutil

    for _ in range(2):
        store.add(lambda new: shutil.copytree(store.folder("0001"), new, dirs_exist_ok=True), {})
    broken = store.add(lambda new: shutil.copytree(store.folder("0001"), new, dirs_exist_ok=True), {})
    (store.folder(broken) / "policy.safetensors").write_bytes(b"torn")
    stop, replies = threading.Event(), []

    def stream(q: dict[str, Any]) -> None:
        while not stop.is_set():
            replies.append(ask(c, q))

    def wait_until(happened: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not happened():
            assert time.monotonic() < until
            time.sleep(0.02)

    def serves(version: str) -> Callable[[], bool]:
        return lambda: bool(replies) and replies[-1].json().get("version") == version

    with client() as c, ThreadPoolExecutor(3) as pool:
        try:
            for q in questions[:3]:
                pool.submit(stream, q)
            for version in ("0002", "0003", "0002"):
                store.point_to(version)
                wait_until(serves(version))
            store.point_to(broken)  # can't be loaded: the present one goes on, and the failure is counted
            wait_until(lambda: 'arr_coc_policy_reloads_total{result="failed"} 1.0' in c.get("/metrics").text)
            store.roll_back("0001")
            wait_until(serves("0001"))
        finally:
            stop.set()
    assert {r.status_code for r in replies} == {200}
    assert {r.json()["version"] for r in replies} == {"0001", "0002", "0003"}


def test_metrics_say_what_was_spent_and_saved(client: Any, questions: list[dict[str, Any]]) -> None:
    with client() as c:
        replies = [ask(c, q).json() for q in questions[:3]]
        c.post("/reward", json={"id": replies[0]["id"], "reward": 0.5})
        c.get("/no/such/path")
        page = c.get("/metrics").text
    spent, full = sum(r["tokens"] for r in replies), sum(r["full_tokens"] for r in replies)
    for line in (
        f"arr_coc_visual_tokens_total {float(spent)}",
        f"arr_coc_visual_tokens_saved_total {float(full - spent)}",
        'arr_coc_stage_seconds_count{stage="generate"} 3.0',
        "arr_coc_reward_sum 0.5",
        "arr_coc_drift_context_psi 0.0",
        "arr_coc_log_records_total 4.0",
        'arr_coc_requests_total{route="other",status="404"} 1.0',
        'arr_coc_policy_info{version="0001"} 1.0',
    ):
        assert line in page, (line, page)


def test_the_schema_is_typed(client: Any) -> None:
    with client() as c:
        schema = c.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/answer", "/reward", "/healthz", "/readyz", "/metrics"}
    answer = schema["components"]["schemas"]["Answer"]
    pair, none = answer["properties"]["grid"]["anyOf"]  # plain enough for tools that do not know "prefixItems"
    assert (pair["minItems"], pair["maxItems"], pair["items"]) == (2, 2, {"type": "integer"}), (pair, none)
    assert {"id", "answer", "budgets", "tokens", "milliseconds"} <= set(answer["required"])
    assert set(schema["paths"]["/answer"]["post"]["responses"]) >= {"200", "401", "413", "422", "429", "503"}


@pytest.mark.parametrize(
    ("bad", "needle"),
    [
        ({"host": "0.0.0.0"}, "ARR_COC_TOKEN"),
        ({"host": "example.org"}, "ARR_COC_TOKEN"),
        ({"token": "short"}, "16 characters"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"port": 70000}, "65535"),
    ],
)
def test_unsafe_settings_are_refused(bad: dict[str, Any], needle: str) -> None:
    with pytest.raises(ValueError, match=needle):
        ServeConfig(**bad)
    assert ServeConfig(host="0.0.0.0", token="0123456789abcdef").host == "0.0.0.0"


def test_a_policy_that_is_none_is_refused(reference: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a store"):
        OwnEngine(*reference, tmp_path, Exploration())
    assert "generate" not in vars(reference[0])


def test_what_nobody_waits_for_is_never_worked_on(
    reference: Any, store: Any, questions: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that is given up while it waits in line leaves the line; one too many is refused at once."""
    engine = OwnEngine(*reference, store.path, Exploration(), places=2, timeout=5)
    worked, answer = [], engine._answer

    def slow(image: Any, text: str, came: float) -> Any:
        worked.append(text)
        time.sleep(0.2)
        if text == "defect":
            raise ZeroDivisionError
        return answer(image, text, came)

    monkeypatch.setattr(engine, "_answer", slow)

    async def play() -> None:
        image = questions[0]["image"]
        first = asyncio.create_task(engine.answer(image, questions[0]["question"]))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(engine.answer(image, "never"))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await engine.answer(image, "refused")
        second.cancel()
        assert (await first).text is not None and engine.inside == 0
        with pytest.raises(ZeroDivisionError):
            await engine.answer(image, "defect")
        assert (await engine.answer(image, questions[0]["question"])).text is not None
        await engine.stop()

    asyncio.run(play())
    assert worked == [questions[0]["question"], "defect", questions[0]["question"]]


def test_only_names_of_this_machine_are_answered(client: Any, questions: list[dict[str, Any]]) -> None:
    """A page whose name was rebound to 127.0.0.1 reads nothing; with a token any name will do."""
    with client() as c:
        assert c.get("/readyz", headers={"host": "evil.example"}).status_code == 400
        assert ask(c, questions[0], headers={"host": "evil.example:8000"}).status_code == 400
        assert c.get("/readyz", headers={"host": "127.0.0.1:8000"}).status_code == 200
    with client(token="0123456789abcdef") as c:
        assert c.get("/readyz", headers={"host": "shop.example"}).status_code == 200


def test_a_client_names_no_codec_and_a_reward_is_small(client: Any) -> None:
    kind = {"content-type": "application/json; charset=punycode"}
    with client() as c:
        assert c.post("/reward", content=b"{}", headers=kind).status_code == 415
        many = json.dumps({"id": "x", "reward": 1, **{f"k{n}": n for n in range(20_000)}})
        assert c.post("/reward", content=many).status_code == 413
        utf8 = {"content-type": "application/json; charset=UTF-8"}
        assert c.post("/reward", content=b'{"id": "x", "reward": 1}', headers=utf8).status_code == 404
