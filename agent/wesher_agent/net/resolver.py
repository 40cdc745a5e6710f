"""Resolves the names of seeds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from threading import Thread
from typing import Any

from wesher_common.overlay import IPAddress

RESOLVE_TIMEOUT = 10.0


async def resolve(host: str) -> tuple[IPAddress, ...]:
    """Return every address of a name, without duplicates.

    Raises:
        OSError: the name has none, or no resolver answered in time.
        ValueError: it cannot be a host's name.

    """
    loop = asyncio.get_running_loop()
    answers: asyncio.Future[tuple[IPAddress, ...]] = loop.create_future()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = tuple(dict.fromkeys(ip_address(answer[4][0]) for answer in found))
        except (OSError, ValueError) as error:
            tell(answers.set_exception, error)
        else:
            tell(answers.set_result, addresses)

    def tell(settle: Callable[[Any], None], outcome: object) -> None:
        # By now the loop may have ended, or the question may have been given up.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if answers.done() else settle(outcome))

    # Not in the loop's own pool: a resolver that does not answer would hold up the
    # work on files and devices there, and the end of the process, for half a minute.
    Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    async with asyncio.timeout(RESOLVE_TIMEOUT):
        return await answers
