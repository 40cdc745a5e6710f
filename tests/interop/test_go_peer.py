"""The tests' own handle on a Go member."""

from __future__ import annotations

import asyncio

import pytest

from wesher_testing.lab.loopback import loopback_addresses
from wesher_testing.peers.go_peer import GoPeer, go_peer


async def test_commands_given_at_the_same_time_each_get_their_own_answer() -> None:
    async def ask_again_and_again(go: GoPeer, verb: str) -> None:
        for _ in range(200):
            assert (await go.ask(verb))["answer"] == verb

    async with go_peer("go", *loopback_addresses(1)) as go:
        await asyncio.gather(
            *(ask_again_and_again(go, verb) for verb in ("members", "wrappers", "udp", "tcp"))
        )


async def test_a_member_that_ended_answers_no_command() -> None:
    async with go_peer("go", *loopback_addresses(1)) as go:
        await go.crash()
        with pytest.raises(AssertionError, match="go: members: the member ended"):
            await go.ask("members")
