"""The clock of a running event loop, which a test advances instead of waiting.

A time limit of the product then expires at the event that the test chooses, however
slow the machine is.
"""

from __future__ import annotations

import asyncio


class LoopClock:
    """Advances the running event loop's clock.

    The loop keeps this clock until it is closed: create it in the test's own loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._true_time = self._loop.time
        self._ahead = 0.0
        self._loop.time = self._time  # type: ignore[method-assign]

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass at once; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._advance, seconds)

    def _advance(self, seconds: float) -> None:
        self._ahead += seconds

    def _time(self) -> float:
        return self._true_time() + self._ahead
