"""The page in a real browser: every tab, a phone, the keyboard, bad files, two visitors, no foreign request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from PIL import Image

from demo.gallery import Entry
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
    said = page.locator("#answer b").all_inner_texts()
    assert said[0] == f"{sum(after):,}"

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
    details.nth(3).get_by_text("context vector").click()
    assert details.nth(3).locator(".arr-context li").count() > 10
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


def test_a_phone(chrome: Browser, url: str, pictures: list[Entry]) -> None:
    page = visit(chrome, url, PHONE)
    stays_inside(page)
    second = pictures[0].questions[1].text
    page.locator("#suggestions label").filter(has_text=second).tap()
    expect_asked(page, second)
    page.wait_for_function("document.querySelector('#answer').getBoundingClientRect().top < innerHeight")
    page.locator("#map .arr-patch").nth(2).tap()
    assert page.locator("#map .arr-detail").nth(2).is_visible()
    for name, ready in (("Compare", "#compare"), ("Knowing", "#know"), ("Learning", "#learn"), ("Results", "#pareto")):
        open_tab(page, name)
        page.locator(ready).wait_for()
        stays_inside(page)
    page.context.close()


def test_uploads(page: Page, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("I am not a picture")
    (tmp_path / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>')
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    moving = [Image.new("RGB", (320, 160), color) for color in ("white", "red")]
    moving[0].save(tmp_path / "moving.gif", save_all=True, append_images=moving[1:])

    def upload(name: str) -> None:
        remove = page.locator("#picture").get_by_label(re.compile("clear|remove", re.I))
        if remove.count():
            remove.first.click()
        page.locator("#picture input[type=file]").set_input_files(tmp_path / name)
        page.locator("#picture img").wait_for()
        page.locator("#ask").click()

    for name, told in (("text.png", "it holds text"), ("drawing.svg", "SVG drawing"), ("huge.png", "too large")):
        upload(name)
        error_shown(page, told)
    upload("moving.gif")
    page.locator("#map .arr-patch").nth(2).wait_for(state="detached")  # 320 x 160 is two patches
    assert len(tokens(page)) == 2
    # The page is none the worse for it.
    page.locator("#shelf button").nth(2).click()
    page.locator("#ask").click()
    page.locator("#map .arr-patch").nth(3).wait_for()


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
