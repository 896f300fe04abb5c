"""A bound on the bytes that wait: pictures are small on the wire and large in memory."""

from __future__ import annotations

import asyncio


class Room:
    """Room for so many bytes, inside one event loop.

    Parameters
    ----------
    size
        Bytes that may be inside at once. Something larger goes in when nothing else is there.
    """

    def __init__(self, size: int) -> None:
        self.size, self.held = size, 0
        self._changed = asyncio.Condition()

    async def enter(self, size: int) -> None:
        """Wait until there is room, and take it."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.held or self.held + size <= self.size)
            self.held += size

    async def leave(self, size: int) -> None:
        """Give it back."""
        async with self._changed:
            self.held -= size
            self._changed.notify_all()
