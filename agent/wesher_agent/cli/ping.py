"""``wesher ping``: asks a member through its tunnel, and says what the agent knows if no answer comes."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from wesher_agent.cli.output import show
from wesher_agent.cli.ping_text import answer_line, failure_line, summary_line, why_no_answer, why_no_tunnel
from wesher_agent.cli.tables import find_member
from wesher_agent.control import ask
from wesher_agent.tunnel.echo import Echo
from wesher_common.errors import InvalidSpec

USUAL_COUNT, MOST = 4, 100_000
"""Packets."""
NO_ANSWER = 1
"""Exit code, as of the program ``ping``."""
INTERVAL_SECONDS = 1.0
"""From one packet to the next."""
PATIENCE_SECONDS = 2.0
"""How long to wait for an answer."""


def read_count(text: str | None) -> int:
    """Return how many packets to send.

    Raises:
        InvalidSpec: not a number from 1 to `MOST`.

    """
    if text is None:
        return USUAL_COUNT
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) else 0
    if not 1 <= number <= MOST:
        raise InvalidSpec("--count", f"must be a whole number from 1 to {MOST}", value=text)
    return number


def ping(name: str, count: int, path: Path) -> int:
    """Ping a member and return the exit code.

    Args:
        name: the member's name or overlay address.
        count: how many packets.
        path: the agent's control socket, named after its interface.

    Raises:
        InvalidSpec: there is no such member, or it is this node.
        WesherError: as `ask`, and if the kernel permits no ping.
        KeyError: the agent is of a release that does not tell enough.

    """
    member = find_member(ask(path, "members"), name)
    if member["isThisNode"]:
        raise InvalidSpec("MEMBER", "is the local node: ping another member", value=name)
    if why := why_no_tunnel(member):
        return _fail(member, f"has no tunnel: {why}")
    try:
        echo = Echo(ip_address(member["overlayIP"]), path.stem)
    except OSError as error:
        return _fail(member, f"has no tunnel: {path.stem}: {error.strerror}")
    with echo:
        answers = _ask(echo, member, count)
    times = [seconds for seconds in answers if seconds is not None]
    show(summary_line(len(answers), times))
    if times:
        return 0
    # What the agent knows now: the packets may have changed it.
    known = {found["name"]: found for found in ask(path, "members")}
    return _fail(member, f"does not answer: {why_no_answer(known.get(member['name'], member))}")


def _ask(echo: Echo, member: Mapping[str, Any], count: int) -> list[float | None]:
    """Return what became of each packet; Ctrl-C ends it early, as that of the program ``ping``."""
    answers: list[float | None] = []
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for sequence in range(1, count + 1):
            began = time.monotonic()
            answers.append(None)
            try:
                # Stored before it is shown: Ctrl-C after a shown answer must still count it.
                answers[-1] = echo.ask(sequence, timeout=PATIENCE_SECONDS)
                show(_outcome(member, sequence, answers[-1]))
            except OSError as error:
                show(f"not sent: seq={sequence}: {error.strerror}")
            if sequence < count:
                time.sleep(max(0.0, began + INTERVAL_SECONDS - time.monotonic()))
    except KeyboardInterrupt:
        # The terminal shows ^C on the line.
        show("")
    finally:
        signal.signal(signal.SIGINT, former)
    return answers


def _outcome(member: Mapping[str, Any], sequence: int, seconds: float | None) -> str:
    if seconds is None:
        return f"no answer within {PATIENCE_SECONDS:.0f} s: seq={sequence}"
    return answer_line(sequence, member, seconds)


def _fail(member: Mapping[str, Any], why: str) -> int:
    show(failure_line(member, why))
    return NO_ANSWER
