"""The gateway: plan here, answer in a stock OpenAI-compatible vLLM server, by features.

    vllm serve MODEL --enable-mm-embeds --limit-mm-per-prompt '{"image": 0, "video": 0}'

The server's public options suffice; its own vision tower is not even loaded. Its price: the model is here too (the
glance runs its language model once), and features travel: tokens times width times 4 bytes. For whoever can't have a
plugin in the server, or where a seam of `arr_coc.engines.vllm` has moved.

Only pictures that are one patch can be sent, or patches that are entries of their own: the server gives each piece the
positions of an image of its own.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from ..asking.ask import prepare
from ..realizing.call import Call
from ..wrapping.inputs import with_mask
from ..wrapping.record import Allocation
from ..wrapping.wrapper import ArrCoc

LARGEST_REPLY = 1 << 22
"""Bytes of a server's reply that are read."""


@dataclass(frozen=True)
class Reply:
    """What a server said.

    Attributes
    ----------
    text
        The answer.
    allocation
        What was planned here.
    prompt_tokens
        As the server counts them.
    """

    text: str
    allocation: Allocation
    prompt_tokens: int


class Gateway:
    """Answers through a server.

    Parameters
    ----------
    arr
        The wrapped model, of the same weights as the server's.
    url
        Of the server, without ``/v1``.
    model
        The name by which it serves the model.
    key
        Bearer token, or None.
    timeout
        Seconds for an answer.
    raw
        Whether the server's chat template writes nothing but the parts of a message, an image as its placeholder. Then
        pictures of several entries can be sent, with the words between them; the model's own template is applied here.
        Otherwise the server applies it, and a picture must be one entry.
    """

    def __init__(
        self, arr: ArrCoc, url: str, model: str, key: str | None = None, timeout: float = 60.0, raw: bool = False
    ) -> None:
        self.arr, self.model, self.raw = arr, model, raw
        self.post = poster(url, key, timeout)

    def answer(
        self, image: Image.Image, question: str, max_tokens: int = 64, allocation: Sequence[int] | None = None
    ) -> Reply:
        """Answer a question about a picture.

        Parameters
        ----------
        image, question
            What is asked.
        max_tokens
            Of the answer.
        allocation
            Per patch its budget; planned by default.

        Raises
        ------
        ValueError
            If the picture's patches can't be sent one by one, or the server refuses.
        """
        arr, model = self.arr, self.arr.model
        inputs = prepare(arr.processor, [image], [question]).to(model.device)
        with torch.no_grad():
            call = Call(model, arr.family, with_mask(model, dict(inputs), True), arr.config.patch_side)
            given = None if allocation is None else [list(allocation)]
            arr.builder.check_allocation(call, given)
            planned = arr.builder.plan_all(call, [None], arr.planner, given, False)
            call.adopt([glance.call if glance is not None else None for glance in planned.glances])
            realised = arr.realizer.realize(call, planned.grids, planned.known)
        whole = len(call.patches) == len(call.entries) and (self.raw or len(call.entries) == 1)
        if not whole or len(realised.streams) != 1:
            raise ValueError(
                f"{type(model).__name__} makes {len(call.patches)} patches of {len(call.entries)} image entries, "
                f"with {len(realised.streams)} levels of features; only pictures of one patch can be sent, or with "
                "raw=True patches that are entries of their own, with one level. Use arr_coc.engines.vllm instead"
            )
        rows = realised.streams[0].float().cpu()
        if self.raw:
            parts = self._parts(call, rows, planned.grids)
        else:
            parts = [self._image(rows, planned.grids[0]), {"type": "text", "text": question}]
        text, prompt_tokens = self.post({
            "model": self.model, "messages": [{"role": "user", "content": parts}], "temperature": 0,
            "max_tokens": max_tokens,
        })  # fmt: skip
        return Reply(text, planned.records[0], prompt_tokens)

    def _parts(self, call: Call, rows: torch.Tensor, grids: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """The prompt in words, with the features of each entry in its place."""
        ids = call.inputs["input_ids"][0][call.prompt(0)].tolist()
        image = call.family.image_token(self.arr.model)
        features = iter(rows.split([height * width for height, width in grids]))
        sizes, parts, words, before = iter(grids), [], [], None
        for token in [*ids, None]:
            if token is not None and token != image:
                words.append(token)
            elif token != before or token is None:
                if words:
                    parts.append({"type": "text", "text": self.arr.processor.tokenizer.decode(words)})
                    words = []
                if token is not None:
                    parts.append(self._image(next(features), next(sizes)))
            before = token
        return parts

    def _image(self, rows: torch.Tensor, grid: tuple[int, int]) -> dict[str, Any]:
        """The part of one entry."""
        merge = int(getattr(self.arr.model.config.vision_config, "spatial_merge_size", 1))
        sizes = torch.tensor([1, grid[0] * merge, grid[1] * merge])
        return {
            "type": "image_embeds",
            "image_embeds": {"image_embeds": packed(rows), "image_grid_thw": packed(sizes)},
        }


def packed(tensor: torch.Tensor) -> str:
    """A tensor as vLLM takes it over HTTP: what ``torch.save`` writes, in base64."""
    file = io.BytesIO()
    torch.save(tensor.clone(), file)
    return base64.b64encode(file.getvalue()).decode()


def poster(url: str, key: str | None, timeout: float) -> Callable[[Mapping[str, Any]], tuple[str, int]]:
    """A function that posts a chat completion, and returns what was said and the prompt's tokens as the server counts.

    It raises ValueError where the server refuses or says what is no chat completion, ConnectionError where it is out
    of reach.
    """
    import httpx

    client = httpx.Client(
        base_url=url.rstrip("/").removesuffix("/v1"), timeout=timeout,
        headers={} if key is None else {"authorization": f"Bearer {key}"},
    )  # fmt: skip

    def post(body: Mapping[str, Any]) -> tuple[str, int]:
        said = b""
        try:
            with client.stream("POST", "/v1/chat/completions", json=dict(body)) as reply:
                for part in reply.iter_bytes():
                    said += part
                    if len(said) > LARGEST_REPLY:
                        raise ValueError(f"{url} sends more than {LARGEST_REPLY:,} bytes; is it a chat server?")
        except httpx.HTTPError as error:
            raise ConnectionError(f"{url} can't be reached ({error}); is the server up?") from error
        text = said.decode(errors="replace")
        if reply.status_code != 200:
            raise ValueError(f"{url} refuses the question ({reply.status_code}): {text[:500]}")
        try:
            found = json.loads(text)
            words, tokens = found["choices"][0]["message"]["content"], found["usage"]["prompt_tokens"]
        except (ValueError, LookupError, TypeError, RecursionError):
            words, tokens = None, None
        if not isinstance(words, str | None) or not isinstance(tokens, int):
            raise ValueError(f"{url} answers with what is no chat completion: {text[:200]!r}; check its address")
        return (words or "").strip(), tokens

    return post
