"""uvicorn's HTTP/1.1 with two more bounds: a time for heads, and reads that are taken apart in a moment.

Whoever opens a connection and never ends a head would hold it for ever. And h11 takes apart all that was read before
anything else runs: 256 KiB, which is what asyncio reads at a time, may be 40,000 chunks.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0
"""Time for a head, from the connection or from its first byte on."""
READ_BYTES = 2**15
"""Bytes that are read, and taken apart, at a time."""


class Protocol(H11Protocol):
    """One connection."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        if hasattr(transport, "max_size"):  # asyncio's own transports
            transport.max_size = READ_BYTES
        super().connection_made(transport)
        self._time_head()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        super().data_received(data)
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        super().connection_lost(exc)
        self._cancel()

    def _time_head(self) -> None:
        """Start the clock where a head is expected, and leave it running while parts of one come."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
