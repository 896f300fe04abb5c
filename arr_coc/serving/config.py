"""What a server may be told, with its defaults and limits."""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass, field

from allocator.logged.explore import Exploration


@dataclass(kw_only=True, frozen=True)
class ServeConfig:
    """Settings of one server.

    Parameters
    ----------
    host, port
        Address to listen on. One that other machines reach needs a token, or `anonymous`.
    token
        Bearer token that /answer, /reward and /metrics then ask for.
    anonymous
        Whether to listen beyond this machine without a token.
    queue
        Questions that may be inside the server at once, and as many requests whose body is arriving; beyond it, 429.
    upload_bytes, pixels, question_chars
        Bounds of one request's body, picture and question.
    waiting_bytes
        Bytes of decoded pictures that may wait at once.
    upload_seconds
        Time in which a request's body must have arrived.
    timeout
        Seconds after which a question that still waits is given up, with 503.
    max_new_tokens
        Longest answer; the model's default if None.
    log_questions
        Whether the decision log holds the questions. It never holds images.
    reload_seconds
        How often the version pointer is looked at.
    exploration
        See `allocator.logged.explore.Exploration`.

    Raises
    ------
    ValueError
        For a value out of its range, or an open address without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    anonymous: bool = False
    queue: int = 64
    upload_bytes: int = 8 * 2**20
    pixels: int = 20_000_000
    waiting_bytes: int = 256 * 2**20
    question_chars: int = 2000
    upload_seconds: float = 20.0
    timeout: float = 30.0
    max_new_tokens: int | None = None
    log_questions: bool = False
    reload_seconds: float = 2.0
    exploration: Exploration = field(default_factory=Exploration)

    @property
    def hosts(self) -> list[str]:
        """Names by which the server may be called.

        A page that is rebound to 127.0.0.1 calls it by a name of its own. Where a token is asked for, or something in
        front decides who may ask, any name will do.
        """
        return ["*"] if self.token or self.anonymous else ["localhost", "127.0.0.1", "[::1]", "::1", self.host]

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                least = 0.0 if item.name == "port" else 1e-3
                if not least <= value < float("inf"):
                    raise ValueError(f"{item.name}={value!r} must be a finite number of at least {least:g}")
        if self.port > 65535:
            raise ValueError(f"port={self.port} must be at most 65535")
        if self.token is not None and len(self.token) < 16:
            raise ValueError("the token is shorter than 16 characters; make one with: openssl rand -hex 32")
        if not (self.token or self.anonymous or is_loopback(self.host)):
            raise ValueError(
                f"host={self.host!r} can be reached from other machines; set the environment variable ARR_COC_TOKEN, "
                "or say --anonymous if something in front of the server decides who may ask"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
