"""A state that cannot be written is said once, counted each time, and written once it can be."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_agent.mesh.roster import Roster
from wesher_agent.net.driver import Driver
from wesher_agent.runtime.beginning import begin
from wesher_agent.runtime.counts import Counts
from wesher_agent.runtime.saving import StateSaver
from wesher_agent.swim.engine import Engine
from wesher_agent.swim.members import LocalNode
from wesher_agent.swim.profile import LAN


async def test_a_state_that_cannot_be_written_is_said_once_and_counted_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "state"
    flags = [f"--state-dir={directory}", "--node-name=a", "--interface=wgsaving", "--bind-addr=127.0.0.1"]
    counts = Counts()
    async with AsyncExitStack() as held:
        begun = await begin(agent_settings(flags, {}), held)
        me = begun.myself
        options: dict[str, Any] = {"packet_format": me.packet_format, "incarnation": 1, "nonce": bytes}
        engine = Engine(LocalNode("a", me.gossip_address), LAN, rng=Random(1), **options)
        driver = Driver(engine, lambda _: None)
        roster = Roster(
            "a",
            gossip_port=7946,
            overlay=me.document.overlay,
            overlay_is_apart=True,
            forget_after=3600.0,
            rng=Random(1),
        )
        saver = StateSaver(begun, roster=roster, engine=engine, driver=driver, counts=counts)
        # Where the file is to be there is a directory, which even root cannot replace.
        file = directory / "wgsaving.json"
        (file / "in the way").mkdir(parents=True)
        with caplog.at_level(logging.WARNING):
            await saver.save()
            await saver.save()
        assert (saver.failed, counts.numbers["stateNotSaved"]) == (True, 2)
        said = [
            line
            for line in caplog.messages
            if line.startswith("state not saved, running on from memory error=")
        ]
        assert len(said) == 1
        (file / "in the way").rmdir()
        file.rmdir()
        await saver.save()
        assert (saver.failed, file.is_file()) == (False, True)
