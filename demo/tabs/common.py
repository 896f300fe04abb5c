"""What every tab needs: errors as messages, pictures read by our own rules, the shared queue."""

from __future__ import annotations

import functools
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from arr_coc.asking.images import ImageError, load_image
from arr_coc.commands.terminal import EXPECTED

MODEL = {"concurrency_id": "model", "concurrency_limit": 16}
"""One question is in the model at a time; `demo.turns` decides whose turn is next, so that none waits outside."""
MAX_PIXELS = 20_000_000
"""Largest upload; as a server's."""
QUIET = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
"""Listeners that only tidy the page."""
STALE, FRESH = (f"() => {{ document.body.classList.{verb}('stale') }}" for verb in ("add", "remove"))
"""The page says that what is shown was asked on other terms, and no longer says so."""


def friendly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the expected errors of a listener into a message on the page."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        try:
            return function(*args)
        except EXPECTED as error:
            raise message(error) from error

    return run


def message(error: BaseException | str, title: str = "That did not work") -> gr.Error:
    """An error for the page, its words escaped."""
    text = " ".join(str(error).split()) or type(error).__name__
    return gr.Error(escape(text), title=title, duration=None, print_exception=False)


class Picture(gr.Image):
    """An image input that reads uploads by `arr_coc.asking.images`: its limits, its messages, its conversions.

    Gradio's own reading would decode first and judge afterwards, and would fetch an address that a client names.
    """

    is_template = True  # the browser shows it as an Image

    def preprocess(self, payload: Any) -> Image.Image | None:
        """The uploaded picture, upright and RGB; a message if it can't be used."""
        if payload is None:
            return None
        if payload.path is None:
            raise message("upload the picture as a file", "This picture can't be used")
        name = payload.orig_name or "the picture"
        try:
            return load_image(payload.path, max_pixels=MAX_PIXELS)
        except ImageError as error:
            told = str(error).replace(str(Path(payload.path)), Path(name).name)
            raise message(told, "This picture can't be used") from error

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Keep to files; what a visitor calls by address is not fetched."""
        if url_or_file_path is not None and "://" in str(url_or_file_path):
            raise message("addresses are not opened; download the picture and upload it", "This picture can't be used")
        return await super().async_move_resource_to_block_cache(url_or_file_path)
