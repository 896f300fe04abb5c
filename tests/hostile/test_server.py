"""A server under pictures that are small on the wire and large in memory, and the names of clients on its log."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi", reason="pip install 'arr-coc[serve]'")

from arr_coc.serving.room import Room


def test_what_waits_decoded_is_bounded_in_bytes() -> None:
    """60 uploads of 65 KiB waited decoded at 80 MB each."""

    async def run() -> tuple[int, int]:
        room, most, done = Room(250), 0, 0
        busy = asyncio.Semaphore(1)

        async def one(size: int) -> None:
            nonlocal most, done
            await room.enter(size)
            try:
                most = max(most, room.held)
                async with busy:
                    await asyncio.sleep(0.001)
            finally:
                await room.leave(size)
            done += 1

        waiting = [asyncio.create_task(one(80)) for _ in range(60)]
        waiting.append(asyncio.create_task(one(1000)))  # larger than the room: alone
        await asyncio.sleep(0.005)
        waiting[30].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert room.held == 0
        return most, done

    most, done = asyncio.run(run())
    assert most in (1000, 240) and done == 60
