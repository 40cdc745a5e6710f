"""What becomes of a probe on a machine that cannot send it."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from wesher_agent.tunnel import prober


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Have no socket to be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_probe_for_which_there_is_no_socket_is_one_without_an_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with no_descriptors(), caplog.at_level(logging.DEBUG):
        await prober._send([ip_address("127.0.0.1")])
    assert 'probe not sent to=127.0.0.1 error="[Errno 24] Too many open files"' in caplog.text


def test_of_many_that_cannot_be_reached_the_log_has_the_number_and_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All of a thousand would be a line of pages, at each change."""
    caplog.set_level(logging.INFO)
    for names in ((), ("a", "b"), tuple(f"n{number}" for number in range(500))):
        prober._log_unreachable(names)
    assert caplog.messages == [
        "unreachable peers changed count=0 peers=-",
        "unreachable peers changed count=2 peers=a,b",
        "unreachable peers changed count=500 peers=n0,n1,n2,n3,n4,n5,n6,n7",
    ]
