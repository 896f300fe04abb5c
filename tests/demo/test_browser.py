"""The page in a real browser: every tab, a phone, the keyboard, bad files, two visitors, no foreign request."""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import pytest
from PIL import Image

from demo.gallery import SIGN_QUESTIONS, Asking, Entry
from demo.host import Host
from demo.models import Models
from demo.screenshots import PHONE, browser, open_tab, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytest.importorskip("playwright", reason="the browser tests need playwright: pip install playwright")


@pytest.fixture(scope="module")
def chrome(need_browser: None) -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def page(chrome: Browser, url: str) -> Iterator[Page]:
    """A fresh visit; at its end nothing but this machine was asked and no script had failed."""
    seen: list[str] = []
    failed: list[str] = []

    def watch(context: BrowserContext) -> None:
        context.on("request", lambda request: seen.append(request.url))
        context.on("weberror", lambda error: failed.append(str(error.error)))

    page = visit(chrome, url, prepare=watch)
    yield page
    page.context.close()
    foreign = {u for u in seen if urlsplit(u).scheme not in ("data", "blob") and urlsplit(u).hostname != "127.0.0.1"}
    assert len(seen) > 5 and not foreign and not failed, (foreign, failed)


SHIFTS = """window.shift = 0
new PerformanceObserver(list => { for (const e of list.getEntries()) if (!e.hadRecentInput) window.shift += e.value })
  .observe({ type: 'layout-shift', buffered: true })"""
"""Adds up what jumped about without being touched."""


def expect_asked(page: Page, text: str) -> None:
    """Wait for the answer to a question."""
    page.locator("#answer .asked").get_by_text(text, exact=True).wait_for()


def tokens(page: Page) -> list[int]:
    """What the tags of the map say."""
    return [int(text) for text in page.locator("#map .arr-tag").all_inner_texts()]


def stays_inside(page: Page) -> None:
    """The page is no wider than the window."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def error_shown(page: Page, text: str) -> None:
    """A message with a text appears; close it."""
    toast = page.get_by_test_id("toast-body").filter(has_text=text)
    toast.first.wait_for()
    toast.first.get_by_role("button").first.click()


def test_every_tab(page: Page, pictures: list[Entry]) -> None:
    first, second = (q.text for q in pictures[0].questions[:2])
    expect_asked(page, first)
    before = tokens(page)
    page.get_by_role("radio", name=second).check()
    expect_asked(page, second)
    after = tokens(page)
    assert len(after) == len(before) == 6 and after != before
    page.locator(".moved").get_by_text("The budgets moved").wait_for()
    beside_full_detail(page)
    own, most = page.locator("#answer .bars").first.locator("b").all_inner_texts()
    assert own == f"{sum(after):,}" and most == f"{6 * 400:,}"

    open_tab(page, "Compare")
    page.locator("#compare").click()
    page.locator("#saving tbody tr").nth(2).wait_for()
    assert page.locator("#saving tbody tr").count() == 3
    page.locator("#budgets-slider img").first.wait_for()
    page.locator("#seen-slider img").first.wait_for()

    open_tab(page, "Knowing")
    page.locator("#know").click()
    page.locator("#known").get_by_text("As the policy is").wait_for()
    page.locator("#maps img").nth(3).wait_for()
    assert page.locator("#known-tables table").first.locator("tbody tr").count() == 6
    page.get_by_label("price of tokens").uncheck()
    page.locator("#known").get_by_text("instead of").wait_for()

    open_tab(page, "Learning")
    page.locator("#episodes input[type=number]").fill("16")
    page.locator("#learn").click()
    page.locator("#progress").get_by_text("episodes").wait_for()
    page.locator("#stop").click()
    page.locator("#chart img").wait_for()
    page.locator("#try:not([disabled])").wait_for()  # the lesson is over
    page.locator("#taught a").wait_for()
    learned = int(page.locator("#progress strong").first.inner_text())
    page.locator("#try").click()
    page.locator("#trial-map .arr-map").wait_for()
    page.locator("#up").click()
    page.locator("#progress").get_by_text("judged by you").wait_for()
    assert int(page.locator("#progress strong").first.inner_text()) == learned + 1
    page.locator("#reset").click()
    page.locator("#progress").get_by_text("Nothing learned yet").wait_for()

    open_tab(page, "Results")
    page.locator("#pareto img").wait_for()
    methods = page.locator("#methods tbody tr")
    methods.filter(has_text="uniform-400").wait_for()
    assert all(row.is_visible() for row in methods.all()) and methods.count() > 5
    height = "e => [e.scrollHeight - e.clientHeight, e.querySelector('table').offsetHeight]"
    hidden, whole = page.locator("#methods .scroll").evaluate(height)
    assert hidden <= 1 and whole > 100  # all of it at once, nothing to scroll


def test_hover_click_and_legend(page: Page) -> None:
    patches = page.locator("#map .arr-patch")
    details = page.locator("#map .arr-detail")
    patches.nth(0).hover()
    assert details.nth(0).is_visible() and not details.nth(1).is_visible()
    page.locator("#map table").first.locator("tr.arr-chosen").wait_for()
    patches.nth(3).click()
    page.locator("h1").hover()
    assert details.nth(3).is_visible() and not details.nth(0).is_visible()
    details.nth(3).get_by_text("what the policy read of it").click()
    lines = details.nth(3).locator(".arr-context li").all_inner_texts()
    assert any("doubt about the answer" in line for line in lines) and not any("_" in line for line in lines)
    mask = page.locator("#map .arr-m64")
    assert mask.is_visible()
    page.locator("#map .arr-l64").uncheck()
    assert not mask.is_visible()
    seen = page.locator("#map img.arr-seen")
    assert not seen.is_visible()
    page.locator("#map .arr-see").check()
    assert seen.is_visible()


def test_keyboard_alone(page: Page) -> None:
    page.locator("#question textarea, #question input").first.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("is there a blue sign ?")
    page.keyboard.press("Enter")
    expect_asked(page, "is there a blue sign ?")
    # The patches are one group of choices: arrows go from one to the next.
    radios = page.locator("#map .arr-patch input")
    radios.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert radios.nth(1).is_checked() and page.locator("#map .arr-detail").nth(1).is_visible()
    assert "row 1, column 2" in str(radios.nth(1).get_attribute("aria-label"))
    page.get_by_role("tab", name="Compare").focus()
    page.keyboard.press("Enter")
    page.locator("#compare").wait_for()


def test_nothing_jumps_about_while_a_phone_loads_the_page(chrome: Browser, url: str) -> None:
    """Of several visits the calmest: on a busy machine gradio's parts arrive one by one, which is not this page's."""
    shifts = []
    for _ in range(5):
        page = visit(chrome, url, PHONE, prepare=lambda context: context.add_init_script(SHIFTS))
        page.wait_for_timeout(2000)
        shifts.append(page.evaluate("window.shift"))
        page.context.close()
        if shifts[-1] < 0.1:
            return
    pytest.fail(f"layout shifts {shifts}, all of .1 or more")


def test_a_phone(chrome: Browser, url: str, pictures: list[Entry]) -> None:
    page = visit(chrome, url, PHONE)
    page.wait_for_timeout(2000)
    stays_inside(page)
    # The first answer is in view without a finger lifted.
    box = page.locator("#answer .saved").bounding_box()
    assert box is not None and box["y"] + box["height"] <= PHONE[1] and page.evaluate("scrollY") == 0
    second = pictures[0].questions[1].text
    page.locator("#suggestions label").filter(has_text=second).tap()
    expect_asked(page, second)
    page.wait_for_function("document.querySelector('#answer').getBoundingClientRect().top < innerHeight * .7")
    page.locator("#map .arr-patch").nth(2).tap()
    assert page.locator("#map .arr-detail").nth(2).is_visible()
    for name, ready in (("Compare", "#compare"), ("Knowing", "#know"), ("Learning", "#learn"), ("Results", "#pareto")):
        open_tab(page, name)
        page.locator(ready).wait_for()
        stays_inside(page)
    table = page.locator("#methods .scroll")
    assert table.evaluate("e => e.scrollWidth > e.clientWidth + 50")
    assert "radial-gradient" in table.evaluate("e => getComputedStyle(e).backgroundImage")  # the cue
    assert "scroll" in table.evaluate("e => getComputedStyle(e).backgroundAttachment")
    name = table.locator("tbody td").first
    at = name.bounding_box()
    table.evaluate("e => e.scrollLeft = 100")
    now = name.bounding_box()
    assert at is not None and now is not None and abs(now["x"] - at["x"]) < 2  # the method stays in sight
    page.context.close()


def test_uploads(page: Page, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("I am not a picture")
    (tmp_path / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>')
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    moving = [Image.new("RGB", (320, 160), color) for color in ("white", "red")]
    moving[0].save(tmp_path / "moving.gif", save_all=True, append_images=moving[1:])

    for name, told in (("text.png", "it holds text"), ("drawing.svg", "SVG drawing"), ("huge.png", "too large")):
        upload(page, tmp_path / name)
        error_shown(page, told)
        nothing_answered(page)
    upload(page, tmp_path / "moving.gif")
    nothing_answered(page)
    page.locator("#map img").wait_for()
    page.locator("#ask").click()
    page.locator("#map .arr-patch").nth(1).wait_for()
    assert len(tokens(page)) == 2  # 320 x 160 is two patches
    # The page is none the worse for it.
    page.locator("#shelf button").nth(2).click()
    page.locator("#map .arr-patch").nth(3).wait_for()


def upload(page: Page, file: Path) -> None:
    """Bring a picture of one's own."""
    remove = page.locator("#picture").get_by_label(re.compile("clear|remove", re.I))
    if remove.count():
        remove.first.click()
        page.locator("#answer .notice").get_by_text("No picture yet").wait_for()
    page.locator("#picture input[type=file]").set_input_files(file)
    page.locator("#answer .notice").wait_for()


def nothing_answered(page: Page) -> None:
    """Neither an answer nor budgets are there."""
    page.locator("#answer .answer").wait_for(state="detached")
    page.locator("#map .arr-tag").first.wait_for(state="detached")
    assert not page.locator("#saves a").count()


def beside_full_detail(page: Page) -> None:
    """Wait until full detail was measured too."""
    page.locator("#answer .saved:not(.waiting)").wait_for()


def fresh(chrome: Browser, url: str) -> Page:
    """Another visitor, who comes by an address; the first answer need not be there."""
    page = chrome.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(120_000)
    page.goto(url)
    page.wait_for_selector("#ask")
    return page


def test_a_new_picture_brings_its_own_questions(page: Page, pictures: list[Entry], tmp_path: Path) -> None:
    photograph = tmp_path / "mine.png"
    pictures[-1].image.save(photograph)
    before = page.locator("#suggestions label").all_inner_texts()
    upload(page, photograph)
    nothing_answered(page)
    page.locator("#suggestions").get_by_text(SIGN_QUESTIONS[0]).wait_for()
    after = page.locator("#suggestions label").all_inner_texts()
    assert [text.strip() for text in after] == list(SIGN_QUESTIONS) and before != after
    box = page.locator("#question textarea")
    assert box.input_value() == SIGN_QUESTIONS[0]
    # One's own words stay when another picture comes.
    box.fill("is there a lighthouse ?")
    upload(page, photograph)
    page.locator("#map img").wait_for()
    assert box.input_value() == "is there a lighthouse ?"
    page.locator("#ask").click()
    expect_asked(page, "is there a lighthouse ?")
    # A picture of the shelf is asked about at once.
    page.locator("#shelf button").nth(1).click()
    expect_asked(page, pictures[1].questions[0].text)
    assert len(tokens(page)) == 9


def test_an_answer_that_was_overtaken_is_not_shown(
    page: Page, host: Host, pictures: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a slow answer is on its way another picture is chosen: what comes late never stands beside it."""
    slow, go, real = pictures[0].questions[1].text, threading.Event(), host.ask

    def ask(image: Image.Image, question: str, *args: Any, **kwargs: Any) -> Any:
        if question == slow:
            assert go.wait(60)
        return real(image, question, *args, **kwargs)

    monkeypatch.setattr(host, "ask", ask)
    page.get_by_role("radio", name=slow).check()
    page.wait_for_timeout(500)
    page.locator("#shelf button").nth(1).click()
    expect_asked(page, pictures[1].questions[0].text)
    beside_full_detail(page)
    go.set()
    page.wait_for_timeout(4000)
    expect_asked(page, pictures[1].questions[0].text)
    assert len(tokens(page)) == 9 and page.locator("#answer .asked").count() == 1


def test_what_was_changed_since_is_said(page: Page) -> None:
    page.locator("#question textarea").fill("is there a red star")
    page.locator("#question textarea").press_sequentially(" ?")
    note = "getComputedStyle(document.querySelector('#results'), '::before').content"
    page.wait_for_function(f"{note}.includes('press Ask')")
    page.locator("#ask").click()
    expect_asked(page, "is there a red star ?")
    page.wait_for_function(f"{note} === 'none'")


def test_ask_and_the_answer_are_above_the_fold(page: Page) -> None:
    for what in ("#ask", "#question", "#answer .saved", "#shelf"):
        box = page.locator(what).bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + box["height"] <= 700, (what, box)


def test_what_is_shown_can_be_saved(page: Page, tmp_path: Path) -> None:
    beside_full_detail(page)
    files = {}
    for number in range(2):
        with page.expect_download() as waiting:
            page.locator("#saves a").nth(number).click()
        files[waiting.value.suggested_filename] = tmp_path / str(number)
        waiting.value.save_as(tmp_path / str(number))
    with Image.open(files["overlay.png"]) as overlay:
        assert overlay.format == "PNG" and overlay.width >= 640
    record = json.loads(files["records.json"].read_text())
    assert record["realised"] == tokens(page)
    assert record["full detail"]["tokens"] == record["full_tokens"] and record["seconds"] > 0


def test_the_address_keeps_what_was_asked(page: Page, chrome: Browser, url: str, pictures: list[Entry]) -> None:
    asked = pictures[1].questions[2].text
    page.locator("#shelf button").nth(1).click()
    page.get_by_role("radio", name=asked).check()
    expect_asked(page, asked)
    page.get_by_text("Policy, price, limit, budgets").click()
    page.locator("#policy input").click()
    page.get_by_role("option", name="uniform-128").click()
    page.locator("#ask").click()
    page.wait_for_function("location.search.includes('uniform-128')")
    beside_full_detail(page)
    other = fresh(chrome, page.url)
    expect_asked(other, asked)
    assert tokens(other) == tokens(page) == [128] * 9
    assert other.locator("#question textarea").input_value() == asked
    assert other.locator("#suggestions label.selected").inner_text().strip() == asked
    other.get_by_text("Policy, price, limit, budgets").click()
    assert other.locator("#policy input").input_value() == "uniform-128"
    other.context.close()


def test_an_address_is_not_believed(chrome: Browser, url: str, pictures: list[Entry]) -> None:
    text = "<img src=x onerror='window.hit=1'> ?"
    query = urlencode({"picture": "no such", "policy": "../../etc", "limit": "nan", "budgets": "65", "question": text})
    page = fresh(chrome, f"{url}?{query}")
    expect_asked(page, text)
    page.get_by_test_id("toast-body").filter(has_text="no such").filter(has_text="../../etc").first.wait_for()
    assert page.evaluate("window.hit") is None and len(tokens(page)) == 6
    page.context.close()
    page = fresh(chrome, f"{url}?{urlencode({'picture': 'own', 'question': 'is it mine ?'})}")
    page.locator("#answer .notice").get_by_text("No picture yet").wait_for()
    assert page.locator("#question textarea").input_value() == "is it mine ?" and not tokens(page)
    page.context.close()


def test_two_clicks_are_one_lesson_and_it_is_used_elsewhere(page: Page, pictures: list[Entry]) -> None:
    open_tab(page, "Learning")
    page.locator("#episodes input[type=number]").fill("8")
    page.locator("#learn").dblclick()
    with page.expect_download() as waiting:
        page.locator("#taught a").click()
    assert waiting.value.suggested_filename == "policy.zip"
    page.locator("#try:not([disabled])").wait_for()
    page.wait_for_timeout(1500)
    assert page.locator("#progress strong").first.inner_text() == "8"
    open_tab(page, "Ask")
    page.get_by_text("Policy, price, limit, budgets").click()
    page.locator("#policy input").click()
    page.get_by_role("option", name="what I taught it").click()
    page.locator("#ask").click()
    page.locator("#answer .bars").first.get_by_text("taught", exact=True).wait_for()


@pytest.mark.parametrize(("size", "lowest", "highest"), [((200, 1800), 300, 700), ((9000, 300), 90, 700)])
def test_strips_can_be_looked_at(page: Page, tmp_path: Path, size: tuple[int, int], lowest: int, highest: int) -> None:
    Image.effect_noise(size, 90).convert("RGB").save(tmp_path / "strip.png")
    upload(page, tmp_path / "strip.png")
    page.locator("#map img").wait_for()
    page.locator("#ask").click()
    page.locator("#map .arr-tag").first.wait_for()
    box = page.locator("#map .arr-view").bounding_box()
    assert box is not None and lowest <= box["height"] <= highest
    for tag in page.locator("#map .arr-tag").all():
        shape, patch = tag.bounding_box(), tag.locator("xpath=..").bounding_box()
        assert shape is not None and patch is not None
        assert patch["height"] >= 24 and shape["width"] <= patch["width"] and shape["height"] <= patch["height"]
    page.get_by_text("A long strip").wait_for()
    stays_inside(page)


def test_another_model_brings_its_own_pictures_and_terms(chrome: Browser, host: Host, pictures: list[Entry]) -> None:
    from demo.app import build, serve

    second = copy.copy(host)
    second.name, second.world, second.folder, second.price = "second", None, None, 0.31
    second.pictures = [Entry("page", pictures[2].image, (Asking("is there a page ?"),)), *pictures[3:5]]

    def torn() -> Host:
        raise ValueError("its weights are torn")

    models = Models({host.name: lambda: host, "second": lambda: second, "torn": torn})
    app, address, _ = serve(models, page=build(models), prevent_thread_lock=True, quiet=True)
    page = visit(chrome, address)

    def choose(name: str) -> None:
        page.locator("#model input").click()
        page.get_by_role("option", name=name).click()

    choose("second")
    expect_asked(page, "is there a page ?")
    assert len(tokens(page)) == 4 and page.locator("#shelf button").count() == 3
    assert not page.locator("#world").is_visible()
    page.get_by_text("Policy, price, limit, budgets").click()
    assert page.locator("#policy input").input_value() == "heuristic"  # it has learned nothing
    page.wait_for_function("location.search.includes('model=second')")
    other = fresh(chrome, page.url)
    expect_asked(other, "is there a page ?")
    assert other.locator("#model input").input_value() == "second"
    other.context.close()
    choose("torn")
    page.get_by_test_id("toast-body").filter(has_text="its weights are torn").first.wait_for()
    page.wait_for_function("document.querySelector('#model input').value === 'second'")
    expect_asked(page, "is there a page ?")
    page.context.close()
    models["reference"]  # noqa: B018  still there


@pytest.mark.parametrize(
    "text",
    ["<img src=x onerror='window.hit=1'> ?", "${window.hit=1} `${window.hit=1}` ?", "{{value}} {{#each value}} \\"],
)
def test_foreign_words_stay_words(page: Page, text: str) -> None:
    page.locator("#question textarea, #question input").first.fill(text)
    page.locator("#ask").click()
    expect_asked(page, text)
    assert page.evaluate("window.hit") is None


def test_two_visitors(page: Page, chrome: Browser, url: str, pictures: list[Entry]) -> None:
    """Other questions, other pictures, other pupils."""
    other = visit(chrome, url)
    page.get_by_role("radio", name=pictures[0].questions[1].text).check()
    other.locator("#shelf button").nth(1).click()
    asked = pictures[1].questions[0].text
    other.locator("#question textarea, #question input").first.wait_for()
    other.locator("#suggestions").get_by_text(asked).first.wait_for()
    other.locator("#ask").click()
    expect_asked(page, pictures[0].questions[1].text)
    expect_asked(other, asked)
    assert len(tokens(page)) == 6 and len(tokens(other)) == 9
    for visitor in (page, other):
        open_tab(visitor, "Learning")
        visitor.locator("#try").click()
    for visitor in (page, other):
        visitor.locator("#trial-map .arr-map").wait_for()
    page.locator("#up").click()
    page.locator("#progress").get_by_text("1 of them judged by you").wait_for()
    assert other.locator("#progress").inner_text().strip() == "Nothing learned yet."
    other.context.close()


def test_the_browser_helper_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.screenshots.chromium", lambda: None)
    with pytest.raises(OSError, match="apt-get install chromium"), browser():
        pass


def test_where_a_browser_must_run_its_absence_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.demo import conftest

    monkeypatch.setattr(conftest, "chromium", lambda: None)
    check = conftest.check_browser
    monkeypatch.setenv("REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="not installed"):
        check()
    monkeypatch.delenv("REQUIRE_BROWSER")
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        check()
