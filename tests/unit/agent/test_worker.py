"""A worker does its job for every reason, and once for many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from wesher_agent.runtime.worker import Worker


class _Job:
    """Counts its runs, and takes as long as it is told."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended = False
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self) -> None:
        self.runs += 1
        self.begun.set()
        await self.may_end.wait()
        self.ended = True


@pytest.fixture
def job() -> _Job:
    """Return a job that waits to be let go."""
    return _Job()


@pytest.fixture
async def worker(job: _Job) -> AsyncIterator[Worker]:
    """Return a running worker on it."""
    made = Worker(job)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_nothing_is_done_without_a_reason(worker: Worker, job: _Job) -> None:
    await _settle()
    assert job.runs == 0


async def test_many_reasons_before_it_begins_cost_one_run(worker: Worker, job: _Job) -> None:
    job.may_end.set()
    for _ in range(5):
        worker.wake()
    await _settle()
    assert job.runs == 1


async def test_reasons_that_come_during_a_run_cost_one_more(worker: Worker, job: _Job) -> None:
    worker.wake()
    await job.begun.wait()
    for _ in range(5):
        worker.wake()
    job.may_end.set()
    await _settle()
    assert job.runs == 2


async def test_a_worker_that_is_stopped_finishes_what_it_is_at(job: _Job) -> None:
    worker = Worker(job)
    task = asyncio.create_task(worker.run())
    worker.wake()
    await job.begun.wait()
    task.cancel()
    await _settle()
    assert not task.done()
    job.may_end.set()
    await asyncio.wait([task], timeout=60.0)
    assert task.cancelled()
    assert job.ended
