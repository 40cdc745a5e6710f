"""One agent as a process: its log, its loop and its signals.

What a termination signal means, leaving the mesh or a restart, is `mesh.member`'s. A restart
for another mesh.json happens inside the process: the tunnels stay, and the kubelet sees no exit
that it would answer with a longer pause each time.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterable
from contextlib import AsyncExitStack

from wesher_agent.health import HealthServer
from wesher_agent.netlink.rights import check_rights
from wesher_agent.runtime.agent import Agent
from wesher_agent.runtime.startup import start_up
from wesher_agent.runtime.systemd import notify, notify_ready
from wesher_agent.settings import Settings
from wesher_common.conditions import Condition
from wesher_common.errors import WesherError
from wesher_common.event_logger import EventLogger, log_to_stderr
from wesher_common.variables import UnknownVariable

log = EventLogger("wesher.agent")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between two tries of a restart; doubled each time."""
_RESTART_FAILED = Condition("Ready", "False", "RestartFailed")
"""What `/readyz` says until the next try."""


def run_agent(settings: Settings, unknown: Iterable[UnknownVariable]) -> int:
    """Run one agent until it is told to stop; return its exit code.

    Args:
        settings: as given.
        unknown: variables of the environment that look like settings.

    Raises:
        InvalidSpec: it could not begin, and the user must change something.

    """
    log_to_stderr(settings.log_level, settings.log_format)
    # asyncio's debug lines are about event loops, and pyroute2 writes a page for every message.
    logging.getLogger("asyncio").setLevel(max(settings.log_level, logging.INFO))
    logging.getLogger("pyroute2").setLevel(max(settings.log_level, logging.WARNING))
    for variable in unknown:
        log.warning(
            "unknown environment variable ignored", variable=variable.name, nearest=variable.nearest or None
        )
    asyncio.run(_run(settings))
    return 0


async def _run(settings: Settings) -> None:
    # Before all else: a container's first process never hears of a signal that it does not handle.
    signalled = _catch_signals()
    # Nothing is written before it is known that the agent can do its work.
    check_rights()
    async with AsyncExitStack() as held:
        restarts = await _run_one(await _start(settings, held), signalled)
    pause = 0.0
    while restarts:
        async with AsyncExitStack() as held:
            try:
                agent = await _start(settings, held)
            except (WesherError, OSError) as error:
                # Not the end of the process: in a container, wireguard-go would end with it.
                pause = min(2 * pause or FIRST_PAUSE, LONGEST_PAUSE)
                log.error("restart failed: trying again", error=error, seconds=pause)  # noqa: TRY400
            else:
                pause = 0.0
                restarts = await _run_one(agent, signalled)
        if pause:
            await _wait(pause, signalled, settings.health_port)
            restarts = not signalled.done()


async def _wait(seconds: float, signalled: asyncio.Future[None], health_port: int) -> None:
    """Wait for a signal, so long at most; meanwhile tell the kubelet that this process runs.

    Unanswered for two minutes, it would end the container, and wireguard-go with it.
    """
    async with AsyncExitStack() as held:
        if health_port:
            health = HealthServer(health_port, lambda: (_RESTART_FAILED,), on_change=lambda: None)
            held.callback(asyncio.create_task(health.run()).cancel)
        await asyncio.wait([signalled], timeout=seconds)


async def _start(settings: Settings, held: AsyncExitStack) -> Agent:
    agent = Agent(await start_up(settings, held))
    await agent.start()
    return agent


async def _run_one(agent: Agent, signalled: asyncio.Future[None]) -> bool:
    """Run an agent to its end; tell whether another one is to go on in this process."""

    def stop(_: object) -> None:
        agent.stop()

    signalled.add_done_callback(stop)
    notifying = asyncio.create_task(notify_ready(agent.device_is_up, agent.device_problem))
    try:
        await agent.run()
        # A signal that comes later stops the next agent at once, which then decides how to end.
        is_told = signalled.done()
        if is_told:
            notify("STOPPING=1")
            await agent.decide_ending()
    finally:
        notifying.cancel()
        signalled.remove_done_callback(stop)
        # Save the state even when a bug ends the process.
        await agent.end()
    return not (is_told or agent.has_left)


def _catch_signals() -> asyncio.Future[None]:
    """Return what is done once a signal asked this process to end."""
    loop = asyncio.get_running_loop()
    signalled = loop.create_future()
    # nohup ignores SIGHUP for its command, and a shell SIGINT for what a script runs in the background.
    awaited = [signal.SIGTERM, *filter(_is_not_ignored, (signal.SIGINT, signal.SIGHUP))]

    def caught() -> None:
        # Of a terminal that closes, one SIGHUP comes from the kernel and one from the shell.
        if signalled.done():
            return
        # Any other second signal kills: Python would raise KeyboardInterrupt while the agent ends.
        for number in awaited:
            if number != signal.SIGHUP:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)
        signalled.set_result(None)

    for number in awaited:
        loop.add_signal_handler(number, caught)
    # The command has held it back until now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return signalled


def _is_not_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is not signal.SIG_IGN
