"""The running app through its named endpoints: answers, bad uploads, many at once, private pupils."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from demo.gallery import Entry
from demo.host import Host
from demo.space import AT_THE_TOP, assemble
from demo.tabs.chooser import FREE, LIMITED
from demo.tabs.common import MAX_PIXELS

ROOT = Path(__file__).parents[2]
ALL = [64, 128, 256, 400]
ENDPOINTS = {
    "/ask", "/compare", "/know", "/learn", "/forget", "/try_one", "/thumbs_up", "/thumbs_down", "/results", "/browse",
}  # fmt: skip


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def sign(pictures: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("uploads") / "sign.png"
    pictures[0].image.save(file)
    return file


def terms(policy: str = "learned", spending: str = FREE, limit: float = 0.4) -> list[Any]:
    return [policy, spending, 0.2, limit, "rescale", ALL]


def ask(client: Client, file: Any, question: str, **settings: Any) -> dict[str, Any]:
    _, _, record = client.predict(file, question, *terms(**settings), api_name="/ask")
    return dict(record)


def refused(client: Client, file: Any, *needles: str) -> None:
    with pytest.raises(AppError) as caught:
        ask(client, file, "is there a red sign ?")
    for needle in needles:
        assert needle in str(caught.value), str(caught.value)
    assert "/tmp" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_the_endpoints_are_named(client: Client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == ENDPOINTS


def test_ask_gives_the_record(client: Client, host: Host, pictures: list[Entry], sign: Path) -> None:
    question = pictures[0].questions[0].text
    record = ask(client, handle_file(sign), question)
    assert record["tokens"] == sum(record["realised"]) and record["question"] == question
    expected = host.ask(pictures[0].image, question).record()
    assert (record["answer"], record["budgets"]) == (expected["answer"], expected["budgets"])
    limited = ask(client, handle_file(sign), question, spending=LIMITED, limit=0.2)
    assert limited["tokens"] <= 0.2 * limited["full_tokens"]
    assert set(ask(client, handle_file(sign), question, policy="uniform-128")["budgets"]) == {128}


def test_compare_and_know(client: Client, pictures: list[Entry], sign: Path) -> None:
    question = pictures[0].questions[0].text
    *_, records = client.predict(handle_file(sign), question, "learned", "uniform-64", *terms(), api_name="/compare")
    assert [r["policy"] for r in records] == ["learned", "uniform-64", "uniform-400"]
    assert records[2]["tokens"] == records[2]["full_tokens"] > records[0]["tokens"] > records[1]["tokens"]
    blind = ["propositional", "perspectival", "detail", "doubt", "price"]  # all but where the question looks
    told, *_, record = client.predict(handle_file(sign), question, blind, ["price"], *terms(), api_name="/know")
    assert "instead of" in told and record["tension"]["price_factor"] != 1
    assert len(set(record["scores"]["participatory"])) == 1


def test_bad_uploads_are_told_what_is_wrong(client: Client, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("I am not a picture")
    refused(client, handle_file(tmp_path / "text.png"), "text.png", "it holds text")
    (tmp_path / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    refused(client, handle_file(tmp_path / "drawing.svg"), "SVG drawing; export it as PNG")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    refused(client, handle_file(tmp_path / "huge.png"), "too large", f"{MAX_PIXELS:,} pixels")
    whole = tmp_path / "whole.png"
    Image.effect_noise((200, 200), 90).save(whole)
    (tmp_path / "torn.png").write_bytes(whole.read_bytes()[:2000])
    refused(client, handle_file(tmp_path / "torn.png"), "truncated or corrupt")
    (tmp_path / "empty.png").write_bytes(b"")
    refused(client, handle_file(tmp_path / "empty.png"), "empty")
    refused(client, None, "there is no picture")


def test_an_animation_is_its_first_frame(client: Client, host: Host, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (320, 320), color) for color in ("white", "red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    record = ask(client, handle_file(tmp_path / "moving.gif"), "is there a red sign ?")
    assert record["budgets"] == host.ask(frames[0], "is there a red sign ?").allocation.budgets


def test_no_file_of_the_server_and_no_address_is_opened(
    client: Client, sign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("an address was opened")

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", opened)
    api = f"{client.src}gradio_api"
    for path in (
        "/etc/passwd",
        str(ROOT / "eval" / "records" / "learning.png"),
        str(sign),
        "http://example.org/a.png",
    ):
        # Past the Python client, which would upload a file that it finds here.
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "is there a red sign ?", *terms()]
        event = httpx.post(f"{api}/call/ask", json={"data": data}, timeout=120).json()["event_id"]
        answer = httpx.get(f"{api}/call/ask/{event}", timeout=120).text
        assert "event: error" in answer and "event: complete" not in answer and "root:" not in answer
        if "://" not in path:
            assert httpx.get(f"{api}/file={path}").status_code in (403, 404)
    assert "addresses are not opened" in answer


def test_uploads_are_limited(url: str, tmp_path: Path) -> None:
    answer = httpx.post(f"{url}gradio_api/upload", files={"files": ("big.png", b"0" * 21_000_000)}, timeout=120)
    assert answer.status_code == 413


def test_bad_questions_and_settings_are_messages(client: Client, sign: Path) -> None:
    for question, changes, said in (
        ("  ", {}, "there is no question"),
        ("word " * 200, {}, "letters; at most 500"),
        ("is there a red sign ?", {"spending": LIMITED, "limit": 0.16}, None),  # exactly the floor
    ):
        if said is None:
            assert ask(client, handle_file(sign), question, **changes)["tokens"] == 64 * 6
            continue
        with pytest.raises(AppError, match=said):
            ask(client, handle_file(sign), question, **changes)
    with pytest.raises(AppError):
        ask(client, handle_file(sign), "is there a red sign ?", policy="../../etc")
    with pytest.raises(AppError, match="tick at least one"):
        client.predict(handle_file(sign), "a sign ?", "learned", FREE, 0.2, 0.4, "rescale", [], api_name="/ask")


def test_twenty_at_once_get_their_own_answers(
    url: str, client: Client, host: Host, pictures: list[Entry], tmp_path: Path
) -> None:
    """Five visitors, each with four questions under way at the same time."""
    asked = [(n, q.text) for n, entry in enumerate(pictures[:4]) for q in entry.questions[:2]]
    expected = {(n, text): host.ask(pictures[n].image, text).record() for n, text in asked}
    for n in range(4):
        pictures[n].image.save(tmp_path / f"{n}.png")
    clients = [client, *(Client(url, verbose=False) for _ in range(4))]
    jobs = [(clients[i % 5], *asked[i % len(asked)]) for i in range(20)]

    def one(job: tuple[Client, int, str]) -> dict[str, Any]:
        who, number, text = job
        return ask(who, handle_file(tmp_path / f"{number}.png"), text)

    with ThreadPoolExecutor(20) as pool:
        records = list(pool.map(one, jobs))
    for (_, number, text), record in zip(jobs, records, strict=True):
        known = expected[number, text]
        assert record["question"] == text
        assert (record["answer"], record["budgets"]) == (known["answer"], known["budgets"])


def test_two_pupils_do_not_meet(url: str, client: Client, sign: Path) -> None:
    other = Client(url, verbose=False)
    with pytest.raises(AppError, match="teach it on the Learning tab"):
        ask(client, handle_file(sign), "is there a red sign ?", policy="taught")
    first = client.predict("prior", 0.2, 8, api_name="/learn")
    assert first[0].startswith("**8** episodes") and 'download="policy.zip"' in first[1]
    # What was learned answers on the other tabs, and only those of its visitor.
    question = "what number is on the purple sign ?"
    assert ask(client, handle_file(sign), question, policy="taught")["policy"] == "taught"
    *_, records = client.predict(handle_file(sign), question, "taught", "learned", *terms(), api_name="/compare")
    assert records[0]["policy"] == "taught"
    assert "<b>" in client.predict(handle_file(sign), question, ["price"], [], *terms("taught"), api_name="/know")[0]
    with pytest.raises(AppError, match="teach it on the Learning tab"):
        ask(other, handle_file(sign), question, policy="taught")
    assert other.predict("prior", 0.2, 8, api_name="/learn")[0].startswith("**8** episodes")  # not 16
    with pytest.raises(AppError, match="nothing waits"):
        client.predict(api_name="/thumbs_up")
    client.predict("prior", 0.2, api_name="/try_one")
    with pytest.raises(AppError, match="nothing waits"):
        other.predict(api_name="/thumbs_up")  # it is the first one's question
    assert client.predict(api_name="/thumbs_up")[0].startswith("**9** episodes, 1 of them judged by you")
    assert client.predict("prior", 0.2, api_name="/forget")[0] == "Nothing learned yet."
    with pytest.raises(AppError, match="greater than maximum"):
        client.predict("prior", 0.2, 10_000, api_name="/learn")


def test_two_clicks_are_one_lesson(url: str) -> None:
    visitor = Client(url, verbose=False)
    clicks = [visitor.submit("prior", 0.2, 8, api_name="/learn") for _ in range(2)]
    ended = []
    for click in clicks:
        try:
            ended.append(click.result(timeout=300)[0])
        except AppError as error:
            ended.append(str(error))
    refused = [text for text in ended if "still under way" in text]
    assert len(refused) == 1 and [text for text in ended if text.startswith("**8** episodes")]
    assert visitor.predict("prior", 0.2, 8, api_name="/learn")[0].startswith("**16** episodes")  # one and one


def test_results_are_those_of_the_records(client: Client) -> None:
    found = client.predict("records/headline-0", api_name="/results")
    assert "<th>method</th>" in found[1] and "<td>learned</td>" in found[1] and "<td>uniform-400</td>" in found[1]
    with pytest.raises(AppError):
        client.predict("../../etc", api_name="/results")


def test_nothing_leaves_the_machine_by_default(app: Any, url: str) -> None:
    assert url.startswith("http://127.0.0.1:") and app.share_url is None
    assert app.analytics_enabled is False and app.delete_cache == (600, 3600)
    config = app.get_config_file()
    assert not config.get("stylesheets"), "the theme names style sheets of elsewhere"
    assert not config.get("is_space")


def test_a_space_is_whole(tmp_path: Path) -> None:
    folder = assemble(tmp_path / "space")
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio" and (folder / front["app_file"]).is_file()
    assert all((folder / name).is_file() for name in AT_THE_TOP)
    # It starts from there, with nothing but what lies in the folder.
    here = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import app, demo.app; print(demo.app.__file__, callable(app.main))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=here, capture_output=True, text=True, timeout=300, check=True
    )
    assert found.stdout.split() == [str(folder / "demo" / "app.py"), "True"]
    assert (folder / "demo" / "style.css").is_file() and (folder / "eval" / "reporting" / "page.py").is_file()
    assert not list(folder.rglob("*.pyc"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {r for r in [*project["dependencies"], *extras["eval"], *extras["demo"]] if not r.startswith("arr-coc")}
    lines = {line for line in (folder / "requirements.txt").read_text().splitlines() if not line.startswith("#")}
    assert lines == wanted
    (pinned,) = (r for r in wanted if r.startswith("gradio"))
    assert front["sdk_version"].startswith("6.") and "gradio>=6" in pinned
    with pytest.raises(ValueError, match="exists already"):
        assemble(folder)
