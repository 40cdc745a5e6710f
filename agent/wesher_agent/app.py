"""One agent as a process: its log, its loop and its signals.

What a termination signal means, leaving the mesh or a restart, is `mesh.member`'s.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterable
from contextlib import AsyncExitStack

from wesher_agent.netlink.rights import check_rights
from wesher_agent.runtime.agent import Agent
from wesher_agent.runtime.startup import start_up
from wesher_agent.runtime.systemd import notify
from wesher_agent.settings import Settings
from wesher_common.event_logger import EventLogger, log_to_stderr
from wesher_common.variables import UnknownVariable

log = EventLogger("wesher.agent")


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
        agent = Agent(await start_up(settings, held))
        await agent.start()
        signalled.add_done_callback(lambda _: agent.stop())
        notify("READY=1")
        try:
            await agent.run()
            notify("STOPPING=1")
            if signalled.done():
                await agent.decide_ending()
        finally:
            # A fault of ours ends the process, but not without its state being saved.
            await agent.end()


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
