"""A time limit on an event loop expires when a test says so, and not before."""

from __future__ import annotations

import asyncio

import pytest

from wesher_testing.virtual.loop_clock import LoopClock


async def wait_for_ever(clock: LoopClock) -> None:
    async with asyncio.timeout(3600.0):
        clock.advance(3599.0)
        await asyncio.to_thread(lambda: None)
        await asyncio.to_thread(clock.advance, 1.0)
        await asyncio.Event().wait()


async def test_a_limit_expires_once_its_time_was_skipped() -> None:
    with pytest.raises(TimeoutError):
        await wait_for_ever(LoopClock())
