"""Pictures of the page, taken by a real browser; the tests drive the same one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
"""No sandbox, because inside a container there is none to be had; nothing fetched on the browser's own account."""
LARGEST = 300_000
"""Bytes of a picture."""
DESKTOP, PHONE = (1440, 900), (390, 844)


def chromium() -> str | None:
    """Where Chromium is installed, if it is."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium with a fresh profile, gone afterwards.

    Raises
    ------
    ImportError, OSError
        If playwright or Chromium is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise ImportError("screenshots need playwright: pip install playwright") from error
    path = chromium()
    if path is None:
        raise OSError("chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=path, args=list(FLAGS), headless=True)
        try:
            yield chrome
        finally:
            chrome.close()


def visit(chrome: Browser, url: str, size: tuple[int, int] = DESKTOP, prepare: Any = None) -> Page:
    """A new visitor, the page open and ready.

    Parameters
    ----------
    chrome
        The browser.
    url
        Of the running demo.
    size
        Of the window, in pixels; that of a phone makes it one.
    prepare
        Called with the visitor's ``BrowserContext`` before anything is loaded.
    """
    phone = {"is_mobile": True, "has_touch": True} if size == PHONE else {}
    context = chrome.new_context(viewport={"width": size[0], "height": size[1]}, **phone)
    if prepare is not None:
        prepare(context)
    page = context.new_page()
    page.set_default_timeout(120_000)  # a busy machine answers slowly
    page.goto(url)
    page.wait_for_selector("#map .arr-map")
    return page


def open_tab(page: Page, name: str) -> None:
    """Go to a tab."""
    page.get_by_role("tab", name=name).click()
    page.wait_for_selector(f"#{name.lower()}[role=tabpanel]:visible, .tabitem:visible")


def take(out: Path, episodes: int = 32) -> list[Path]:
    """Serve the reference model, go through the tabs and write one picture of each, and one of a phone.

    Parameters
    ----------
    out
        Folder; pictures in it are replaced.
    episodes
        Length of the lesson that is pictured.
    """
    from .app import serve
    from .models import Models, shipped

    with _served(lambda **more: serve(Models.named(shipped()), **more)) as url, browser() as chrome:
        page = visit(chrome, url)
        # a question whose evidence is fine print, then one about another patch: the budgets have moved
        for number in (1, 0):
            page.locator("#suggestions input").nth(number).check()
            page.locator("#answer .asked").get_by_text(_text(page, number)).wait_for()
            page.locator("#answer .saved:not(.waiting)").wait_for()
        _settle(page)
        files = [_shoot(page, out / "ask.png", "body")]
        open_tab(page, "Compare")
        page.locator("#compare").click()
        page.wait_for_selector("#saving .card")
        _settle(page)
        files.append(_shoot(page, out / "compare.png", "body"))
        open_tab(page, "Knowing")
        page.locator("#know").click()
        page.wait_for_selector("#known-tables table")
        page.get_by_label("where the question looks").uncheck()
        page.get_by_text("instead of").wait_for()
        _settle(page)
        files.append(_shoot(page, out / "knowing.png", "body"))
        open_tab(page, "Learning")
        page.locator("#episodes input[type=number]").fill(str(episodes))
        page.locator("#learn").click()
        page.locator("#progress").get_by_text(str(episodes), exact=True).wait_for(timeout=600_000)
        page.locator("#try").click()
        page.wait_for_selector("#trial-map .arr-map")
        _settle(page)
        files.append(_shoot(page, out / "learning.png", "body"))
        open_tab(page, "Results")
        _settle(page)
        files.append(_shoot(page, out / "results.png", "body"))
        phone = visit(chrome, url, PHONE)
        _settle(phone)
        files.append(_shoot(phone, out / "phone.png", "body"))
    return files


@contextmanager
def _served(launch: Callable[..., Any]) -> Iterator[str]:
    """The app in the background; gives its address."""
    from gradio import close_all

    _, url, _ = launch(prevent_thread_lock=True, quiet=True)
    try:
        yield url
    finally:
        close_all()


def _text(page: Page, number: int) -> str:
    return page.locator("#suggestions label").nth(number).inner_text().strip()


def _settle(page: Page) -> None:
    """Wait until pictures are there and movements over; the page keeps a connection open, so it is never idle."""
    page.wait_for_function("[...document.images].every(image => image.complete)")
    page.wait_for_timeout(1500)


def _shoot(page: Page, file: Path, what: str) -> Path:
    """One picture; a large one gets fewer colours."""
    page.locator(what).screenshot(path=file)
    with Image.open(file) as picture:
        whole = picture.convert("RGB")
    whole.save(file, optimize=True)
    if file.stat().st_size > LARGEST:
        whole.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    return file
