"""Resolves the names of seeds in threads, which are bounded: the C library's lookup cannot be stopped."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from threading import Thread

from wesher_common.overlay import IPAddress

RESOLVE_TIMEOUT = 10.0
"""Seconds from the start of a lookup."""
MOST_LOOKUPS = 16
"""Lookups at a time, each in a thread. Without an answer a lookup takes up to half a minute."""

_Outcome = tuple[IPAddress, ...] | OSError | ValueError


class Resolver:
    """Looks names up: each name once at a time, and `MOST_LOOKUPS` names at a time.

    Further names wait for their turn, in the order in which they came.
    """

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(MOST_LOOKUPS)
        self._lookups: dict[str, asyncio.Future[_Outcome]] = {}
        """Those whose thread still waits, by name; often nothing awaits their outcome any more."""

    async def resolve(self, host: str) -> tuple[IPAddress, ...]:
        """Return every address of a name, without duplicates.

        Raises:
            OSError: the name has none, or no resolver answered in time.
            ValueError: it cannot be a host's name.
            RuntimeError: no thread can be started.

        """
        if host not in self._lookups:
            await self._turns.acquire()
            if host in self._lookups:
                self._turns.release()
            else:
                self._look_up(host)
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            outcome = await asyncio.shield(self._lookups[host])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _look_up(self, host: str) -> None:
        loop = asyncio.get_running_loop()

        def ask() -> None:
            outcome = _addresses_of(host)
            # By now the loop may have ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(partial(self._ended, host, outcome))

        self._lookups[host] = loop.create_future()
        try:
            # Not in the loop's own pool: a resolver that does not answer would hold up the
            # work on files and devices there, and the end of the process, for half a minute.
            Thread(target=ask, name=f"resolve {host}", daemon=True).start()
        except RuntimeError:
            del self._lookups[host]
            self._turns.release()
            raise

    def _ended(self, host: str, outcome: _Outcome) -> None:
        self._lookups.pop(host).set_result(outcome)
        self._turns.release()


def _addresses_of(host: str) -> _Outcome:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return tuple(dict.fromkeys(ip_address(answer[4][0]) for answer in found))
    except (OSError, ValueError) as error:
        return error
