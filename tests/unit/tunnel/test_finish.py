"""Work that has begun comes to its end, whatever is cancelled meanwhile."""

from __future__ import annotations

import asyncio

from wesher_agent.tunnel.finish import finish


async def test_work_that_is_cancelled_is_finished_first() -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await may_end.wait()
        ended.set()

    task = asyncio.create_task(finish(work()))
    await begun.wait()
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    await asyncio.wait([task], timeout=60.0)
    assert task.cancelled()
    assert ended.is_set()


async def test_work_that_nobody_cancels_gives_its_result() -> None:
    async def work() -> int:
        return 7

    assert await finish(work()) == 7
