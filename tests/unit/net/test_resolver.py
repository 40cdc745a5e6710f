"""Names of seeds, and resolvers that do not answer."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from threading import Event, Thread

import pytest

from wesher_agent.net import resolver
from wesher_agent.net.resolver import resolve


async def test_names_are_resolved_to_every_address_once() -> None:
    assert ip_address("127.0.0.1") in await resolve("127.0.0.1")
    answers = await resolve("localhost")
    assert len(answers) == len(set(answers)) > 0


async def test_what_cannot_be_a_name_is_refused() -> None:
    with pytest.raises(UnicodeError):
        await resolve("a" * 64 + ".example")


def test_a_resolver_that_does_not_answer_holds_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in other threads goes on meanwhile, and the process can end."""
    answered = Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait() and [])
    monkeypatch.setattr(resolver, "RESOLVE_TIMEOUT", 0.05)

    async def agent() -> list[object]:
        asked = [resolve(f"seed-{number}.example") for number in range(50)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.to_thread(lambda: None)
        return [type(outcome) for outcome in outcomes]

    outcomes: list[object] = []
    running = Thread(target=lambda: outcomes.extend(asyncio.run(agent())))
    running.start()
    running.join(timeout=60.0)
    held_up = running.is_alive()
    answered.set()
    running.join()
    assert not held_up
    assert outcomes == [TimeoutError] * 50
