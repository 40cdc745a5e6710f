"""The host's side of the mesh: brings the WireGuard device and the hosts file to the desired state.

Takes a `Desired` whenever there is a new one, decides its MTU, watches device and hosts
file in between, and remembers in words why something is not as desired. A machine without
WireGuard, or with a read-only hosts file, is a state to report, never a reason to stop
gossiping. When a failed apply is tried again is `mesh.member`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from wesher_agent.files.atomic import CannotWrite
from wesher_agent.files.hosts import HostsFile
from wesher_agent.files.link_memory import LinkMemory
from wesher_agent.mesh.desired import Desired, HostEntry
from wesher_agent.mesh.device import Carrying, Endpoint
from wesher_agent.netlink.errors import PortTaken, WireGuardUnavailable
from wesher_agent.netlink.mtu import overlay_mtu
from wesher_agent.netlink.port_holder import find_holder
from wesher_agent.settings import Settings
from wesher_agent.tunnel.finish import finish
from wesher_agent.wireguard.carrying import remove_carrying, stop_routing
from wesher_agent.wireguard.carrying_plan import CarryProblem
from wesher_agent.wireguard.device import Device, Outcome, find_device, open_device
from wesher_agent.wireguard.ownership import Owner
from wesher_agent.wireguard.plan import Change, PeerSession
from wesher_agent.wireguard.routes import RouteConflict
from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.event_logger import EventLogger
from wesher_common.keys import WireGuardPublicKey
from wesher_common.mesh_document import EtcHosts, WireGuardMode
from wesher_common.overlay import IPAddress

log = EventLogger("wesher.tunnel")

REPAIR_SECONDS = 25.0
"""Between two looks, so that what other hands change is repaired within 30 s."""
Fault = Literal["deviceRestarts", "deviceRepairs", "routeConflicts"]
"""What is counted."""
MAX_NAMED = 20
"""Names in one line of the log."""
Tunnels = Mapping[str, tuple[WireGuardPublicKey, IPAddress]]
"""As `Desired.tunnels`."""
USUAL_MTU = 1420
"""Bytes; Ethernet's less WireGuard's envelope, and the Go program's only one."""


class Tunnel:
    """One interface and one hosts block.

    Args:
        interface: its name.
        owner: this node, which decides whose a device of that name is.
        settings: which program to run in user space.
        hosts: the hosts file; None leaves it alone, whatever the mesh wants.
        on_change: called when what there is to report changed.
        on_sessions_lost: called when peers must be sent something, or they stay silent.
        on_port_moved: called when peers must be sent something, or they lose this machine.
        count: takes each repair, restart and conflict.

    """

    def __init__(
        self,
        interface: str,
        owner: Owner,
        settings: Settings,
        hosts: HostsFile | None,
        *,
        on_change: Callable[[], None],
        on_sessions_lost: Callable[[], None],
        on_port_moved: Callable[[], None],
        count: Callable[[Fault], None],
    ) -> None:
        self.ready = False
        self.was_ready = asyncio.Event()
        """Set when it is ready for the first time; never cleared."""
        self.reason, self.problem = "", ""
        """Why it is not ready; empty before the first try too."""
        self._reported: tuple[object, ...] = (False, "", "", (), None)
        self.mtu = 0
        self.hosts_state = "off" if hosts is None else "not written yet"
        self.carrying: Carrying | None = None
        """As last applied; None while nothing but the overlay's own packets is carried."""
        self.carry_problems: tuple[CarryProblem, ...] = ()
        """Why packets of the cluster are not carried as desired."""
        self._interface = interface
        self._memory = LinkMemory(settings.state_dir, interface)
        self._owner = owner
        self._settings = settings
        self._hosts = hosts
        self._hosts_lock = asyncio.Lock()
        self._entries: tuple[HostEntry, ...] = ()
        """As last desired."""
        self._tunnels: Tunnels = {}
        """As last applied: the log names the members whose peers changed."""
        self._device: Device | None = None
        self._on_change = on_change
        self._on_sessions_lost = on_sessions_lost
        self._on_port_moved = on_port_moved
        self._count = count
        self._conflicts: frozenset[RouteConflict] = frozenset()
        self._skipped_names: frozenset[str] = frozenset()
        """Those that had no room in the hosts file at the last write."""
        self._mtu_for: frozenset[IPAddress] | None = None
        self._opened: asyncio.Future[Device] = asyncio.get_running_loop().create_future()

    @property
    def mode(self) -> str:
        """``Kernel`` or ``Userspace``, which is chosen before there is a device; empty before that."""
        return self._device.kind if self._device is not None else ""

    @property
    def has_device(self) -> bool:
        """Whether the network device exists, as last seen."""
        return self._device is not None and self._device.link_index is not None

    @property
    def link_names(self) -> Mapping[int, str]:
        """The interface's name by the index of its link, which stays when another hand renames it."""
        index = self._device.link_index if self._device is not None else None
        return {} if index is None else {index: self._interface}

    async def apply(self, wanted: Desired, mode: WireGuardMode, etc_hosts: EtcHosts) -> str:
        """Bring device and hosts file to the desired state; return why the device is not (empty: it is)."""
        problem = ""
        device = replace(wanted.device, mtu=await self._decide_mtu(wanted.device.mtu, wanted.endpoints))
        try:
            if self._device is None:
                if not device.is_routing:
                    # Of an earlier run: also where there is no WireGuard any more.
                    await asyncio.to_thread(stop_routing, self._interface)
                self._device = await open_device(
                    mode,
                    self._interface,
                    self._memory,
                    userspace_binary=self._settings.userspace_binary or None,
                )
            outcome = await self._device.configure(device)
            self.carrying = device.carrying
            self._done(outcome, wanted.tunnels)
            self._tunnels = wanted.tunnels
        except (WesherError, OSError) as error:
            named = await _with_its_holder(error)
            problem = str(named) or type(named).__name__
            self._failed(named)
        if self._device is not None and not self._opened.done():
            # Not before its program was started: only then can one wait for the program's end.
            self._opened.set_result(self._device)
        if wanted.hosts != self._entries and log.is_enabled_for(logging.DEBUG):
            former, names = ({entry.name for entry in entries} for entries in (self._entries, wanted.hosts))
            log.debug(
                "hosts entries changed",
                count=len(names),
                added=sorted(names - former)[:MAX_NAMED],
                removed=sorted(former - names)[:MAX_NAMED],
            )
        self._entries = wanted.hosts
        await self._write_hosts(wanted=etc_hosts != "Off")
        return problem

    async def _decide_mtu(self, wanted: int, endpoints: frozenset[IPAddress]) -> int:
        """Return the MTU to use: the one that was set, or what the ways to the members allow."""
        if wanted:
            self.mtu = wanted
        elif endpoints != self._mtu_for:
            try:
                self.mtu = await asyncio.to_thread(overlay_mtu, endpoints)
            except (WesherError, OSError) as error:
                log.warning("underlay mtu not determined", error=error)
                self.mtu = self.mtu or USUAL_MTU
            self._mtu_for = endpoints
        return self.mtu

    async def keep(self) -> None:
        """Watch device and hosts file: every `REPAIR_SECONDS`, and at once when the device's program died."""
        while True:
            device = await self._opened
            lost = asyncio.ensure_future(device.wait_lost())
            try:
                await asyncio.wait([lost], timeout=REPAIR_SECONDS)
            finally:
                # Also when this is cancelled: the loop logs an error for a task that was left pending.
                lost.cancel()
                await asyncio.gather(lost, return_exceptions=True)
            try:
                outcome = await finish(device.repair())
            except (WesherError, OSError) as error:
                self._failed(await _with_its_holder(error))
            else:
                self._count_outcome(outcome)
                self._done(outcome, self._tunnels)
            await finish(self._repair_hosts())

    async def peers(self) -> Mapping[WireGuardPublicKey, PeerSession] | None:
        """Return what the device knows of each peer; None when it does not answer."""
        if self._device is None:
            return {}
        try:
            return {peer.public_key: peer for peer in await self._device.peers()}
        except (WesherError, OSError) as error:
            log.debug("device statistics not read", error=error)
            return None

    async def move_peers(self, endpoints: Mapping[WireGuardPublicKey, Endpoint]) -> None:
        """Send to peers at other endpoints for a while."""
        if self._device is None:
            return
        try:
            await self._device.move_peers(endpoints)
        except (WesherError, OSError) as error:
            log.debug("peer endpoints not set", error=error)

    async def remove(self) -> None:
        """Take the device and our hosts entries away, be they of this run or of one that was killed."""
        await remove_tunnel(self._interface, self._owner, self._hosts, self._memory, device=self._device)

    def close(self) -> None:
        """Leave everything as it is for the next start."""
        if self._device is not None:
            self._device.close()

    def _count_outcome(self, outcome: Outcome) -> None:
        if outcome.sessions_lost:
            self._count("deviceRestarts")
        elif outcome.changed:
            self._count("deviceRepairs")

    def _done(self, outcome: Outcome, tunnels: Tunnels) -> None:
        if outcome.change and log.is_enabled_for(logging.DEBUG):
            _log_change(outcome.change, _names(self._tunnels) | _names(tunnels))
        if not self.ready:
            log.info("device ready", mode=self.mode, mtu=self.mtu)
        for problem in outcome.carry_problems:
            if problem not in self.carry_problems:
                log.warning("traffic not carried as desired", reason=problem.reason, error=problem.text)
        self._report(ready=True, reason="", problem="", carry_problems=outcome.carry_problems)
        if outcome.sessions_lost:
            self._on_sessions_lost()
        elif outcome.port_moved:
            self._on_port_moved()
        for conflict in sorted(set(outcome.conflicts) - self._conflicts, key=str):
            self._count("routeConflicts")
            log.warning(
                "route not added: conflicting route exists",
                destination=conflict.destination,
                holder=conflict.holder,
            )
        self._conflicts = frozenset(outcome.conflicts)

    def _failed(self, error: WesherError | OSError) -> None:
        match error:
            case PortTaken():
                reason = "PortTaken"
            case WireGuardUnavailable():
                reason = "WireGuardUnavailable"
            case InvalidSpec():
                reason = "InvalidSetting"
            case _:
                reason = "Failed"
        if self.problem != str(error):
            log.error("device not ready", reason=reason, error=error)
        self._report(ready=False, reason=reason, problem=str(error), carry_problems=self.carry_problems)

    def _report(
        self, *, ready: bool, reason: str, problem: str, carry_problems: tuple[CarryProblem, ...]
    ) -> None:
        before = self._reported
        self._reported = (ready, reason, problem, carry_problems, self.carrying)
        self.ready, self.reason, self.problem, self.carry_problems = ready, reason, problem, carry_problems
        if ready:
            self.was_ready.set()
        if self._reported != before:
            self._on_change()

    async def _repair_hosts(self) -> None:
        """Write the entries again if another program changed them, or if they could not be written."""
        former = self.hosts_state
        if former in {"off", "not written yet"}:
            return
        has_changed = await self._write_hosts(wanted=True)
        if has_changed and former == "written":
            log.info("hosts entries restored", interface=self._interface)
        if self.hosts_state != former:
            self._on_change()

    async def _write_hosts(self, *, wanted: bool) -> bool:
        """Make the hosts file hold the desired entries; tell whether it had to change."""
        if self._hosts is None or (not wanted and self.hosts_state == "off"):
            return False
        try:
            # One at a time, since both write the same temporary file.
            async with self._hosts_lock:
                has_changed = await asyncio.to_thread(self._hosts.apply, self._entries)
        except CannotWrite as error:
            if not self.hosts_state.startswith("skipped"):
                log.warning("hosts file not written", error=error)
            self.hosts_state = f"skipped: {error}"
            return False
        self._note_skipped(self._hosts.skipped)
        self.hosts_state = "written" if wanted else "off"
        return has_changed

    def _note_skipped(self, names: tuple[str, ...]) -> None:
        for name in sorted({*names} - self._skipped_names):
            log.warning("hosts entry not written: another line has the name", node=name)
        self._skipped_names = frozenset(names)


async def remove_tunnel(
    interface: str,
    owner: Owner,
    hosts: HostsFile | None,
    memory: LinkMemory,
    *,
    device: Device | None = None,
) -> str:
    """Remove this node's device, its rules and routes, and its hosts entries; log what cannot be removed.

    Args:
        interface: its name.
        owner: this node. A device that belongs to another program stays.
        hosts: the interface's lines; None leaves the file alone.
        memory: what links were like before the device needed them otherwise.
        device: None looks for what an earlier run left.

    Returns:
        Why this node's device may still be there; empty when it is not.

    """
    problem = ""
    try:
        device = device or await find_device(interface, memory)
        if device is not None:
            await device.remove(owner)
        # Rules and unreachable routes remain after another program has deleted the device.
        await asyncio.to_thread(remove_carrying, interface, memory)
    except (WesherError, OSError) as error:
        problem = str(error) or type(error).__name__
        log.warning("device not removed", error=error)
    if hosts is not None:
        try:
            await asyncio.to_thread(hosts.remove)
        except CannotWrite as error:
            log.warning("hosts entries not removed", error=error)
    return problem


def _names(tunnels: Tunnels) -> dict[WireGuardPublicKey, str]:
    return {key: name for name, (key, _) in tunnels.items()}


def _log_change(change: Change, names: Mapping[WireGuardPublicKey, str]) -> None:
    """Log what was changed on the device; a peer that another program added has a key only."""
    added: list[str] = []
    removed: list[str] = []
    changed: list[str] = []
    for peer in change.device.peers:
        kind = added if peer.create else removed if peer.remove else changed
        kind.append(names.get(peer.public_key, str(peer.public_key)))
    log.debug(
        "device changed",
        peers=len(change.device.peers),
        peers_added=sorted(added)[:MAX_NAMED],
        peers_removed=sorted(removed)[:MAX_NAMED],
        peers_changed=sorted(changed)[:MAX_NAMED],
        routes_added=list(change.link.add_routes[:MAX_NAMED]),
        routes_removed=list(change.link.remove_routes[:MAX_NAMED]),
        addresses_added=list(change.link.add_addresses),
        addresses_removed=list(change.link.remove_addresses),
        carried_added=[route.network for route in change.carry.add_routes[:MAX_NAMED]],
        carried_removed=[route.network for route in change.carry.remove_routes[:MAX_NAMED]],
    )


async def _with_its_holder(error: WesherError | OSError) -> WesherError | OSError:
    if isinstance(error, PortTaken):
        return PortTaken(error.port, await asyncio.to_thread(find_holder, "UDP", error.port))
    return error
