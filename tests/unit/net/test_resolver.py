"""Names of seeds, and resolvers that do not answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from threading import Event, Thread
from typing import Any

import pytest

from wesher_agent.net import resolver
from wesher_agent.net.resolver import MOST_LOOKUPS, Resolver

ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0))]
FOUND = (ip_address("192.0.2.7"),)
NAMES = [f"seed-{number}.example" for number in range(60)]


class SilentResolver:
    """Stands for the C library while no resolver answers: each lookup waits until `answer`."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._answered = Event()

    def getaddrinfo(self, host: str, *_: Any, **__: Any) -> list[Any]:
        """Count the lookup, and wait."""
        self.asked[host] += 1
        self._answered.wait()
        return ANSWER

    def answer(self) -> None:
        """Let all lookups end, and later ones at once."""
        self._answered.set()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentResolver]:
    silent = SilentResolver()
    monkeypatch.setattr(socket, "getaddrinfo", silent.getaddrinfo)
    yield silent
    silent.answer()


def waiting_threads() -> int:
    return sum(thread.name.startswith("resolve ") for thread in threading.enumerate())


async def test_names_are_resolved_to_every_address_once() -> None:
    resolver = Resolver()
    assert ip_address("127.0.0.1") in await resolver.resolve("127.0.0.1")
    answers = await resolver.resolve("localhost")
    assert len(answers) == len(set(answers)) > 0


async def test_what_cannot_be_a_name_is_refused() -> None:
    with pytest.raises(UnicodeError):
        await Resolver().resolve("a" * 64 + ".example")


async def test_a_name_is_looked_up_once_at_a_time_however_often_it_is_tried(
    monkeypatch: pytest.MonkeyPatch, silent: SilentResolver
) -> None:
    """Each try gives up while the lookup goes on, and the next one waits for the same lookup."""
    names = Resolver()
    with monkeypatch.context() as impatient:
        impatient.setattr(resolver, "RESOLVE_TIMEOUT", 0.0)
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await names.resolve("seed.example")
    again = asyncio.create_task(names.resolve("seed.example"))
    await asyncio.sleep(0)
    silent.answer()
    assert await again == FOUND
    assert silent.asked == {"seed.example": 1}
    assert await names.resolve("seed.example") == FOUND
    assert silent.asked == {"seed.example": 2}, "an answer is not kept"


async def test_sixty_names_without_an_answer_take_a_bounded_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, silent: SilentResolver
) -> None:
    """Those beyond the bound wait for their turn, and each gets it."""
    names = Resolver()
    with monkeypatch.context() as impatient:
        impatient.setattr(resolver, "RESOLVE_TIMEOUT", 0.0)
        asked = [asyncio.create_task(names.resolve(name)) for name in NAMES]
        waiting = set(asked)
        done: set[asyncio.Task[Any]] = set()
        while len(done) < MOST_LOOKUPS:
            ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= ended
    assert [type(task.exception()) for task in done] == [TimeoutError] * MOST_LOOKUPS
    assert waiting_threads() == MOST_LOOKUPS
    silent.answer()
    assert await asyncio.gather(*waiting) == [FOUND] * (len(NAMES) - MOST_LOOKUPS)
    assert silent.asked == dict.fromkeys(NAMES, 1)


async def test_a_name_that_is_given_up_while_it_waits_for_its_turn_leaves_it_to_the_next(
    silent: SilentResolver,
) -> None:
    names = Resolver()
    asked = [asyncio.create_task(names.resolve(name)) for name in NAMES[: MOST_LOOKUPS + 1]]
    await asyncio.sleep(0)
    asked[-1].cancel()
    last = asyncio.create_task(names.resolve("last.example"))
    await asyncio.sleep(0)
    silent.answer()
    assert await last == FOUND
    assert NAMES[MOST_LOOKUPS] not in silent.asked


async def test_without_a_thread_a_name_is_given_up_and_can_be_looked_up_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    names = Resolver()
    with monkeypatch.context() as full:
        full.setattr(Thread, "start", refuse)
        for _ in range(MOST_LOOKUPS + 1):
            with pytest.raises(RuntimeError):
                await names.resolve("localhost")
    assert await names.resolve("localhost")


def test_a_resolver_that_does_not_answer_holds_up_nothing_else(silent: SilentResolver) -> None:
    """Work in other threads goes on meanwhile, and the loop can end."""

    async def agent() -> None:
        names = Resolver()
        asked = [asyncio.create_task(names.resolve(name)) for name in NAMES]
        await asyncio.to_thread(lambda: None)
        assert not any(task.done() for task in asked)

    running = Thread(target=lambda: asyncio.run(agent()))
    running.start()
    running.join(timeout=60.0)
    assert not running.is_alive()
