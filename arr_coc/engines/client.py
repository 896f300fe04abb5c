"""A small model looks, a big one answers: budgets for any OpenAI-compatible server of a native-resolution model.

The local model, wrapped, plans the budgets. Each patch then goes to the server as a picture of its own whose size
makes the server's processor yield just the budgeted tokens. That works for models of any size of picture (Qwen2-VL,
Qwen2.5-VL, Qwen3-VL), and asks nothing of the server: no plugin, no option.

What is lost against budgets inside the server: relevance is what the *local* model sees; patches of one picture don't
see each other in the server's vision tower, and each carries vision marks of its own (two tokens); pictures are
rounded to 8 bits; and the server sees no more detail than the local model's processor left.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from ..asking.ask import ask, seen_pixels
from ..families.base import resize
from ..wrapping.wrapper import ArrCoc
from .gateway import Reply, poster

Caption = Callable[[int, int], str]


def numbered(index: int, count: int) -> str:
    """What stands in front of a patch by default."""
    return f"Part {index + 1} of {count}:"


class Client:
    """Asks a server, at the budgets of a local model.

    Parameters
    ----------
    arr
        The local wrapped model.
    url
        Of the server, without ``/v1``.
    model
        The name of the model there.
    side
        Pixels along the side of one visual token of the *server's* model: 28 for Qwen2-VL and Qwen2.5-VL, 32 for
        Qwen3-VL.
    caption
        What to write in front of patch ``index`` of ``count``, so that the model can tell where it stood.
    key
        Bearer token, or None.
    timeout
        Seconds for an answer.

    Raises
    ------
    ValueError
        If ``side`` is no positive number of pixels.
    """

    def __init__(
        self,
        arr: ArrCoc,
        url: str,
        model: str,
        side: int = 28,
        caption: Caption = numbered,
        key: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        if side < 1:
            raise ValueError(f"side={side} must be the pixels along a visual token of the server's model, such as 28")
        self.arr, self.model, self.side, self.caption = arr, model, side, caption
        self.post = poster(url, key, timeout)

    def answer(self, image: Image.Image, question: str, max_tokens: int = 64) -> Reply:
        """Answer a question about a picture.

        Raises
        ------
        ValueError
            If the local model can't show its pixels, or the server refuses.
        """
        asked = ask(self.arr, image, question, max_new_tokens=1)
        pixels = seen_pixels(self.arr, asked)
        if not pixels:
            raise ValueError(f"{type(self.arr.model).__name__} does not show the pixels of its patches; use another")
        grids = [
            self.arr.realizer.grid(self.arr.family, patch, budget)
            for patch, budget in zip(asked.allocation.patches, asked.allocation.budgets, strict=True)
        ]
        content = self.content(pixels, grids, question)
        text, prompt_tokens = self.post({
            "model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0,
            "max_tokens": max_tokens,
        })  # fmt: skip
        return Reply(text, asked.allocation, prompt_tokens)

    def content(
        self, pixels: Sequence[torch.Tensor], grids: Sequence[tuple[int, int]], question: str
    ) -> list[dict[str, Any]]:
        """The parts of the message: every patch ``[3, H, W]`` in [0, 1] at its grid, then the question."""
        parts: list[dict[str, Any]] = []
        for index, (crop, (rows, columns)) in enumerate(zip(pixels, grids, strict=True)):
            small = resize(255 * crop, rows * self.side, columns * self.side).round().clamp(0, 255).to(torch.uint8)
            shown = Image.fromarray(small.permute(1, 2, 0).numpy())
            parts += [{"type": "text", "text": self.caption(index, len(pixels))}, _picture(shown)]
        return [*parts, {"type": "text", "text": question}]


def _picture(image: Image.Image) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
