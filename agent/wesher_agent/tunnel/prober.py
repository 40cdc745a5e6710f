"""Sends the probes that `probe_plan` plans, and reads the answers off the device."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv6Address
from random import Random

from wesher_agent.tunnel.probe_plan import PROBED_BYTES, ProbePlan
from wesher_agent.tunnel.tunnel import Tunnel
from wesher_agent.wireguard.plan import PeerSession
from wesher_common.event_logger import EventLogger
from wesher_common.keys import WireGuardPublicKey
from wesher_common.overlay import IPAddress
from wesher_common.report import SHOWN_NAMES

log = EventLogger("wesher.probe")

DISCARD_PORT = 9
_UDP_HEADER = 8
_PAYLOAD = {
    socket.AF_INET: PROBED_BYTES - 20 - _UDP_HEADER,
    socket.AF_INET6: PROBED_BYTES - 40 - _UDP_HEADER,
}
"""Bytes of a probe by family."""
LOOK_SECONDS = 1.0
"""At least, between two looks at the counters: each reads every peer of the device."""
ANSWER_SECONDS = 2.0
"""How long a command may wait for the counters: a program that hangs must not hold up `wesher status`."""
YIELD_SECONDS = 0.5
"""How long the one of a pair with the greater key lets the other begin the handshake."""
PAUSE_SECONDS = 0.005
"""Between two datagrams, since each may cost a handshake."""


class Prober:
    """Keeps asking peers through the tunnel.

    Args:
        tunnel: whose counters tell who answered.
        own_key: this member's.
        rng: for the order.
        on_change: called when the set of unreachable peers changed, and once all
            peers known at startup were asked.

    """

    def __init__(
        self, tunnel: Tunnel, own_key: WireGuardPublicKey, rng: Random, *, on_change: Callable[[], None]
    ) -> None:
        self.plan = ProbePlan(rng)
        self.observed: Mapping[WireGuardPublicKey, PeerSession] = {}
        """The device's peers as last looked at."""
        self._tunnel = tunnel
        self._own_key = own_key
        self._on_change = on_change
        self._peers: dict[str, tuple[WireGuardPublicKey, IPAddress]] = {}
        self._woken = asyncio.Event()

    def set_peers(self, peers: Mapping[str, tuple[WireGuardPublicKey, IPAddress]]) -> None:
        """Replace who is asked: by name, key and overlay address."""
        self._peers = dict(peers)
        self.plan.set_peers(self._peers, now=asyncio.get_running_loop().time())
        self._woken.set()

    async def look(self) -> bool:
        """Read the device's counters; tell whether they could be read; otherwise the former ones stay."""
        observed = await self._tunnel.peers()
        if observed is None:
            return False
        self.observed = observed
        return True

    async def look_for_an_answer(self) -> None:
        """Read the device's counters, if that takes a moment; otherwise the former ones stay."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self.look()

    def ask_everyone(self) -> None:
        """Send every peer something as soon as possible, so that sessions are made at once."""
        self.plan.start_over(now=asyncio.get_running_loop().time())
        self._woken.set()

    def greet_everyone(self) -> None:
        """Send every peer something as soon as possible, so that it learns this machine's new port."""
        self.plan.ask_everyone(now=asyncio.get_running_loop().time())
        self._woken.set()

    def sessions(self) -> dict[str, PeerSession]:
        """Return the device's peers by name, as last looked at."""
        return {name: self.observed[key] for name, (key, _) in self._peers.items() if key in self.observed}

    def find_key(self, name: str) -> WireGuardPublicKey | None:
        """Return the key of a peer; None if no peer has that name now."""
        peer = self._peers.get(name)
        return None if peer is None else peer[0]

    async def ask(self, names: Iterable[str]) -> None:
        """Send these peers a probe now, whatever the plan says."""
        await _send(self._peers[name][1] for name in names if name in self._peers)

    async def run(self) -> None:
        """Probe until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            # Counters that cannot be read are not zero: the next would look like an answer.
            if self._tunnel.ready and self._is_due(loop.time()) and await self.look():
                now = loop.time()
                known = self.plan.unreachable
                changed = self._judge(now)
                wanted = self.plan.due(self._received(), now=now)
                await self._send(wanted)
                self.plan.sent(wanted, now=loop.time())
                if self.plan.unreachable != known:
                    _log_unreachable(self.plan.unreachable)
                if changed:
                    self._on_change()
            await self._rest(loop)

    def _judge(self, now: float) -> bool:
        """Judge the probes under way, and log which tunnels began or ceased to answer."""
        if not log.is_enabled_for(logging.DEBUG):
            return self.plan.judge(self._received(), now=now)
        answered, silent = self.plan.reachable, {*self.plan.unreachable}
        changed = self.plan.judge(self._received(), now=now)
        for name in sorted(self.plan.reachable - answered):
            log.debug("tunnel established", node=name, endpoint=self._session(name).endpoint)
        for name in self.plan.unreachable:
            if name not in silent:
                session = self._session(name)
                age = None if session.last_handshake is None else round(time.time() - session.last_handshake)
                log.debug("tunnel silent", node=name, endpoint=session.endpoint, handshake_age=age)
        return changed

    def _session(self, name: str) -> PeerSession:
        key = self._peers[name][0]
        # The device may lack a peer that was added a moment ago.
        return self.observed.get(key, PeerSession(key))

    def _is_due(self, now: float) -> bool:
        timer = self.plan.next_timer()
        return timer is not None and timer <= now

    async def _send(self, names: Iterable[str]) -> None:
        """Ask peers: those with a session first, then those to which this machine begins the handshake.

        When two members begin at the same moment, each may end with the session that the
        other gave up, and neither receives anything for the 15 s until WireGuard starts a new handshake.
        """
        wall = time.time()
        known, peers = [], []
        for key, address in (self._peers[name] for name in names):
            session = self.observed.get(key)
            if session is not None and session.has_fresh_handshake(now=wall):
                known.append(address)
            else:
                peers.append((key, address))
        # No pauses: these cost no handshake, and may wait to learn a new port from this.
        await _send(known, pause=0.0)
        await _send(address for key, address in peers if self._own_key < key)
        yielded = [address for key, address in peers if self._own_key >= key]
        if yielded:
            await asyncio.sleep(YIELD_SECONDS)
            await _send(yielded)

    async def _rest(self, loop: asyncio.AbstractEventLoop) -> None:
        timer = self.plan.next_timer()
        wait = LOOK_SECONDS if timer is None else max(LOOK_SECONDS, timer - loop.time())
        try:
            async with asyncio.timeout(wait):
                await self._woken.wait()
        except TimeoutError:
            pass

    def _received(self) -> dict[str, int]:
        return {name: session.rx_bytes for name, session in self.sessions().items()}


def _log_unreachable(names: Sequence[str]) -> None:
    # With a thousand names each change would fill pages.
    log.info("unreachable peers changed", count=len(names), peers=names[:SHOWN_NAMES])


async def _send(addresses: Iterable[IPAddress], *, pause: float = PAUSE_SECONDS) -> None:
    """Send a few bytes to each address's discard port; what cannot be sent shows as no answer."""
    for address in addresses:
        family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)  # noqa: FBT003 - the library's signature
                sock.sendto(bytes(_PAYLOAD[family]), (str(address), DISCARD_PORT))
        except OSError as error:
            log.debug("probe not sent", to=address, error=error)
        await asyncio.sleep(pause)
