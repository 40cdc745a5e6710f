"""Drives one core: gives it packets and the time, does what it asks, hands on what happened.

It owns the sockets and the clock. What an event means is left to its taker; what goes
on streams is left to `streams`. Nothing raised while a packet is judged or an event
taken passes the driver: it is logged, and the mesh runs on.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol, TypeVar

from wesher_agent.mesh.events import Event
from wesher_agent.net.core import Core
from wesher_agent.net.event_log import EventLog
from wesher_agent.net.sockets import GossipSockets, open_sockets
from wesher_agent.net.streams import Streams
from wesher_agent.swim.address import Address
from wesher_agent.swim.events import PacketRejected
from wesher_agent.wire.limits import DATAGRAM
from wesher_common.event_logger import TRACE, EventLogger
from wesher_common.overlay import IPAddress

log = EventLogger("wesher.net")

BATCH = 32
"""Datagrams read at one go, before anything else on the loop gets its turn."""
BATCH_SECONDS = 0.005
"""After which a batch ends early: a compressed datagram can take as long as a hundred others."""

Result_co = TypeVar("Result_co", covariant=True)


class CoreCall(Protocol[Result_co]):
    """A method of the core with all but the time filled in."""

    def __call__(self, *, now: float) -> Result_co:
        """Do it."""


class Driver:
    """Runs one core on the current event loop.

    Args:
        core: an engine or a whole member, not started yet.
        on_event: takes each event after it was logged; may call `tell`.
        on_turn: called after the core took an input and all it wants of the network was done.
        on_fault: called when the core, or the taker of its events, failed because of a bug.
        mark: of its packets; 0 for none.

    """

    def __init__(
        self,
        core: Core,
        on_event: Callable[[Event], None],
        *,
        on_turn: Callable[[], None] = lambda: None,
        on_fault: Callable[[], None] = lambda: None,
        mark: int = 0,
    ) -> None:
        self.rejected: Counter[str] = Counter()
        """How many packets were dropped, by reason."""
        self._core = core
        self._on_event = on_event
        self._on_turn = on_turn
        self._on_fault = on_fault
        self._loop = asyncio.get_running_loop()
        self._events = EventLog(self._loop.time)
        self._datagrams: dict[socket.AddressFamily, socket.socket] = {}
        self._mark = mark
        self._streams = Streams(core, self._tell_safely, self._take, mark=mark)
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = self._closed = False

    @property
    def now(self) -> float:
        """The time on the core's clock, in seconds."""
        return self._loop.time()

    async def listen(self, addresses: Sequence[IPAddress], port: int) -> None:
        """Listen there on UDP and TCP, and no longer elsewhere; when that fails, nowhere.

        Args:
            addresses: one a family; an unspecified one means all of that family.
            port: the gossip port.

        Raises:
            GossipPortTaken: it can be tried again.
            InvalidSpec: an address does not belong to this host, or we may not listen there.

        """
        # First, since the new addresses may include the old ones.
        self._close_datagrams()
        self._streams.stop_listening()
        for pair in _open_all(addresses, port, self._mark):
            self._datagrams[pair.datagram.family] = pair.datagram
            self._loop.add_reader(pair.datagram, self._readable, pair.datagram)
            self._streams.listen(pair.listener)

    async def close(self) -> None:
        """Close every socket, once what was written has left or within a second or so."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._close_datagrams()
        await self._streams.close()

    def _close_datagrams(self) -> None:
        for sock in self._datagrams.values():
            self._loop.remove_reader(sock)
            sock.close()
        self._datagrams.clear()

    def tell(self, call: CoreCall[Result_co]) -> Result_co:
        """Call the core at the present time, then do what it wants done."""
        try:
            return call(now=self.now)
        finally:
            self._pump()

    def _tell_safely(self, call: CoreCall[Result_co]) -> Result_co | None:
        try:
            return self.tell(call)
        except Exception:
            # Our bug in judging one packet must not take the member down.
            log.exception("engine failed")
            self._on_fault()
            return None

    def _readable(self, sock: socket.socket) -> None:
        until = self.now + BATCH_SECONDS
        traces = log.is_enabled_for(TRACE)
        for _ in range(BATCH):
            if self.now > until:
                break
            try:
                data, sender = sock.recvfrom(DATAGRAM.most)
            except BlockingIOError:
                break
            except OSError as error:
                # What an earlier send met: an ICMP answer, say. The datagrams behind it are fine.
                log.debug("datagram socket reported an error", error=error)
                continue
            try:
                if traces:
                    types = self._core.message_types(data)
                    source = Address(sender[0], sender[1])
                    log.trace("datagram received", sender=source, bytes=len(data), types=types)
                self._core.receive_datagram(data, Address(sender[0], sender[1]), now=self.now)
            except Exception:
                log.exception("engine failed on a datagram")
                self._on_fault()
        self._pump()

    def _pump(self) -> None:
        """Send what is due, hand on what happened, sleep until the next deadline."""
        if self._pumping:
            return
        self._pumping = True
        try:
            busy = True
            while busy:
                busy = self._send() | self._streams.act(self._core.stream_actions()) | self._report()
        except Exception:
            # Without its next deadline the member would never wake again.
            log.exception("engine failed")
            self._on_fault()
        finally:
            self._pumping = False
            self._rearm()
        self._on_turn()

    def _send(self) -> bool:
        datagrams = self._core.datagrams_to_send()
        traces = log.is_enabled_for(TRACE)
        for data, address in datagrams:
            family = socket.AF_INET6 if ":" in address.ip else socket.AF_INET
            sock = self._datagrams.get(family)
            if sock is None:
                log.debug("datagram dropped: no socket for its address family", to=address)
                continue
            try:
                sock.sendto(data, address)
            except OSError as error:
                # Gossip over UDP may be lost, so a full buffer or a missing route costs a retry.
                log.debug("datagram not sent", to=address, error=error)
                continue
            if traces:
                types = self._core.message_types(data)
                log.trace("datagram sent", to=address, bytes=len(data), types=types)
        return bool(datagrams)

    def _report(self) -> bool:
        reported = False
        while (event := self._core.next_event()) is not None:
            reported = True
            self._take(event)
        return reported

    def _take(self, event: Event) -> None:
        if isinstance(event, PacketRejected):
            self.rejected[event.reason] += 1
        self._events.write(event)
        try:
            self._on_event(event)
        except Exception:
            log.exception("event not handled", kind=type(event).__name__)
            self._on_fault()

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._core.next_timer()
        if deadline is not None and not self._closed:
            self._timer = self._loop.call_at(deadline, self._timer_fired)

    def _timer_fired(self) -> None:
        self._tell_safely(self._core.handle_timer)


def _open_all(addresses: Sequence[IPAddress], port: int, mark: int) -> list[GossipSockets]:
    """Open the port on every address whose family this host has, or on none."""
    with ExitStack() as held:
        opened: list[GossipSockets] = []
        for address in addresses:
            if (pair := open_sockets(address, port, mark=mark)) is not None:
                opened.append(pair)
                held.callback(pair.close)
        held.pop_all()
        return opened
