"""A job that is done whenever there is reason to, one at a time, never twice for the same reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def finish(work: Awaitable[T]) -> T:
    """Await some work; when cancelled meanwhile, let it come to its end first.

    For changes of the machine, which must not be left half done with a thread
    still at them while somebody undoes them.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


class Worker:
    """Runs an action after `wake`; any number of wakes before it begins cost one run.

    Args:
        action: looks at the world as it is then; what it raises ends `run`.
        pause: seconds at least between two runs, so that a storm of news costs little.

    """

    def __init__(self, action: Callable[[], Awaitable[None]], *, pause: float = 0.0) -> None:
        self._action = action
        self._pause = pause
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Have the action run once more, from now on."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled; an action under way is finished first."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            await finish(self._action())
            await asyncio.sleep(self._pause)
