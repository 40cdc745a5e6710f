"""Ends the process: signals ask for it, and a deadline makes sure of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """Sets an event on SIGTERM, SIGINT and SIGHUP, except for those that were ignored at the start.

    nohup ignores SIGHUP for its command, and a shell SIGINT for what a script runs in the background.
    """

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        ignored = {number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_IGN}
        self._ignored = ignored - {signal.SIGTERM}

    def take(self) -> None:
        """Handle the signals from now on, also those that a library has taken since."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            if number in self._ignored:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
            else:
                loop.add_signal_handler(number, self._stop.set)


class Deadline:
    """Forces the process to exit if it does not end: a library's task or thread may never return.

    Args:
        seconds: counted from `start`; long enough for a busy machine, since a forced exit keeps the Lease.
        code: exit code.

    """

    def __init__(self, seconds: float, code: int) -> None:
        self._seconds = seconds
        self._code = code
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Begin to count, unless that was done before."""
        if self._timer is None:
            self._timer = threading.Timer(self._seconds, self._exit)
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """Count no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _exit(self) -> None:
        text = f"wesher-operator: forced to exit: it was still running after {self._seconds:g} s"
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - the one line a user reads
        os._exit(self._code)
