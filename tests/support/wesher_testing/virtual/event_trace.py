"""What happened in a simulation, to be read when it has failed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import fields

from wesher_agent.mesh.events import Event
from wesher_agent.swim.events import PacketRejected, PushPullDone, PushPullFailed
from wesher_agent.swim.members import Member

KEPT = 4000
SHOWN = 60
_COMMON = (PacketRejected, PushPullDone, PushPullFailed)
"""Events that would bury all others."""


class Trace:
    """The last things that happened.

    Args:
        clock: tells the virtual time.

    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._happened: deque[tuple[float, str, Event | None]] = deque(maxlen=KEPT)

    def say(self, what: str) -> None:
        """Note what a test did."""
        self._happened.append((self._clock(), what, None))

    def heard(self, node: str, event: Event) -> None:
        """Note what a node's engine reported."""
        if not isinstance(event, _COMMON):
            self._happened.append((self._clock(), node, event))

    def __str__(self) -> str:
        """Return the last of it, a line each."""
        lines = [
            f"{time:10.3f}  {who if event is None else f'{who}: {_shown(event)}'}"
            for time, who, event in list(self._happened)[-SHOWN:]
        ]
        return "\n".join(lines)


def _shown(event: Event) -> str:
    values = (f"{field.name}={_short(getattr(event, field.name))}" for field in fields(event))
    return f"{type(event).__name__} {' '.join(values)}"


def _short(value: object) -> str:
    if isinstance(value, Member):
        return f"{value.name}@{value.address} inc {value.incarnation} {value.state.name.lower()}"
    return str(value)
