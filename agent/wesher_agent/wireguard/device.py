"""The one thing the rest of the agent uses: a desired state in, a working device out.

Brings backend, interface and routes together, remembers what was done last so
that an unchanged desired state costs nothing, and repairs what other programs changed.
What is desired is left to `wesher_agent.mesh.desired`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace

from wesher_agent.files.link_memory import LinkMemory
from wesher_agent.mesh.device import DeviceConfig, Endpoint
from wesher_agent.netlink.errors import PortTaken, WireGuardUnavailable
from wesher_agent.wireguard import kernel, userspace
from wesher_agent.wireguard.backend import Backend, BackendKind
from wesher_agent.wireguard.carrying import complete, observe_carrying, prepare, remove_carrying, stop_routing
from wesher_agent.wireguard.carrying_plan import CarryChange, CarryProblem, must_look_first
from wesher_agent.wireguard.kernel import KernelBackend, kernel_has_wireguard
from wesher_agent.wireguard.link import (
    change_link,
    find_link,
    link_index,
    link_kind,
    observe_link,
    remove_own_unreachable,
    restore_name,
)
from wesher_agent.wireguard.ownership import Owner, why_foreign
from wesher_agent.wireguard.plan import (
    NO_CHANGE,
    Change,
    DeviceChange,
    Observed,
    PeerChange,
    PeerSession,
    needs_sessions,
    plan,
    plan_next,
)
from wesher_agent.wireguard.routes import RouteConflict
from wesher_agent.wireguard.userspace import UserspaceBackend
from wesher_agent.wireguard.userspace_binary import find_userspace_binary
from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.event_logger import EventLogger
from wesher_common.keys import WireGuardPublicKey
from wesher_common.mesh_document import WireGuardMode

log = EventLogger("wesher.wireguard")

_IPV6 = 6


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one `Device.configure` or `Device.repair` did."""

    changed: bool
    """Whether anything had to be changed."""
    sessions_lost: bool
    """Whether the device started without sessions: send every peer a packet, or
    they stay silent for up to 15 s."""
    port_moved: bool = False
    """Whether a living device listens on another port: send every peer a packet, so
    that they learn it from that."""
    conflicts: tuple[RouteConflict, ...] = ()
    """Desired routes that cannot be added now; tried again by each `repair`."""
    carry_problems: tuple[CarryProblem, ...] = ()
    """Why packets of the cluster are not carried as desired; tried again by each `repair`."""
    change: Change = NO_CHANGE
    """What was sent to WireGuard and the network stack, conflicting routes included."""


class Device:
    """One WireGuard interface, its peers, address and routes.

    Calls run one after the other. A failed one keeps the desired state, and
    the next starts from what is really there.

    Args:
        backend: what carries the device; see `open_device`.
        memory: what links were like before the device needed them otherwise.

    """

    def __init__(self, backend: Backend, memory: LinkMemory) -> None:
        self._backend = backend
        self._memory = memory
        self._lock = asyncio.Lock()
        self._wish: DeviceConfig | None = None
        self._left: DeviceConfig | None = None
        """The desired state that the device was left at; None when only a look can tell how it is."""
        self._sessions: Mapping[WireGuardPublicKey, PeerSession] = {}
        """As last read, by whichever call."""
        self._conflicts: tuple[RouteConflict, ...] = ()
        self._carry_problems: tuple[CarryProblem, ...] = ()
        self._own_index: int | None = None
        """The network device that was made or found to be this mesh's."""

    @property
    def link_index(self) -> int | None:
        """The kernel's number of this mesh's network device, which stays when it is renamed."""
        return self._own_index

    @property
    def kind(self) -> BackendKind:
        """Which WireGuard carries the device, for status."""
        return self._backend.kind

    async def configure(self, config: DeviceConfig) -> Outcome:
        """Bring the device to ``config``, making it first if need be.

        Compares with what was left by the last call, so that one changed peer
        costs one small message. Use `repair` to compare with what is there. Where it fails, packets of
        the cluster are led into the device no longer, unless they are still to be carried.

        Raises:
            WireGuardUnavailable: the text says what to install or change.
            InvalidSpec: the interface's name belongs to a network device of another kind,
                or to another program's WireGuard, which is left as it is.

        """
        async with self._one_at_a_time():
            self._wish = config
            try:
                if self._left is None:
                    return await self._from_what_is_there(config)
                return await self._from_what_we_left(self._left, config)
            except (WesherError, OSError):
                # Switching off is the way out while the tunnels do not work.
                if not config.is_routing:
                    await asyncio.to_thread(stop_routing, self._backend.interface)
                raise

    async def repair(self) -> Outcome:
        """Look at the device as it is and bring it back to the last desired state; call it every 30 s.

        Without a desired state yet, do nothing.

        Raises: as `configure`.
        """
        async with self._one_at_a_time():
            if self._wish is None:
                return Outcome(changed=False, sessions_lost=False)
            settled = self._left is not None
            outcome = await self._from_what_is_there(self._wish)
            if outcome.changed and settled:
                log.info("device repaired", interface=self._backend.interface)
            return outcome

    async def peers(self) -> Sequence[PeerSession]:
        """Return every peer with handshake time, endpoint and counters, sorted by key.

        Raises:
            WireGuardUnavailable: the device is not there.

        """
        with self._translated():
            self._sessions = await self._backend.sessions()
        return [self._sessions[key] for key in sorted(self._sessions)]

    async def move_peers(self, endpoints: Mapping[WireGuardPublicKey, Endpoint]) -> None:
        """Send to these peers at other endpoints for a while; peers that are gone stay so.

        Once the last handshake is not fresh, `repair` sets a configured endpoint again.

        Raises:
            WireGuardUnavailable: the device is not there.

        """
        async with self._one_at_a_time():
            changes = [PeerChange(key, endpoint=endpoint) for key, endpoint in endpoints.items()]
            await self._backend.apply(DeviceChange(peers=tuple(changes)))

    async def wait_lost(self) -> None:
        """Return when `repair` should be called at once: the user-space program died.

        Restarts that come too often are held back here. With the kernel's
        WireGuard it never returns; cancel it.
        """
        await self._backend.wait_lost()

    async def remove(self, owner: Owner) -> None:
        """Take away the device, and with it address and routes; nothing there is fine.

        Args:
            owner: this node. A device that belongs to another program stays.

        """
        async with self._one_at_a_time():
            await self._restore_name()
            if await self._why_foreign(owner):
                return
            overlay = owner.overlay if self._wish is None else self._wish.overlay
            self._wish = self._left = self._own_index = None
            # First: without the device, nothing that it carried would reach its destination.
            await asyncio.to_thread(remove_carrying, self._backend.interface, self._memory)
            await asyncio.to_thread(remove_own_unreachable, self._backend.interface, overlay)
            await self._backend.remove()

    async def why_foreign(self, owner: Owner) -> str:
        """Return what shows that the device belongs to another program; empty when it does not."""
        async with self._one_at_a_time():
            return await self._why_foreign(owner)

    def close(self) -> None:
        """Leave everything running and let go of it; the next start adopts it."""
        self._backend.close()

    @asynccontextmanager
    async def _one_at_a_time(self) -> AsyncIterator[None]:
        async with self._lock:
            with self._translated():
                yield

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what the operating system refuses, such as a socket, into our own error."""
        try:
            yield
        except OSError as error:
            raise WireGuardUnavailable(f"{self._backend.interface}: {error}") from error

    async def _from_what_is_there(self, config: DeviceConfig) -> Outcome:
        self._left = None
        renamed = await self._restore_name()
        await self._check_owner(config)
        try:
            fresh = await self._backend.ensure()
        except WireGuardUnavailable:
            self._own_index = await asyncio.to_thread(link_index, self._backend.interface)
            raise
        self._own_index = await asyncio.to_thread(link_index, self._backend.interface)
        device = await self._backend.observe()
        self._sessions = device.peers
        link = await asyncio.to_thread(observe_link, self._backend.interface)
        carrying = await asyncio.to_thread(observe_carrying, self._backend.interface, config, self._memory)
        self._carry_problems = carrying.conflicts
        change = plan(config, Observed(device, link, carrying), now=time.time())
        outcome = await self._make(config, change, fresh=fresh)
        return replace(outcome, changed=outcome.changed or renamed)

    async def _restore_name(self) -> bool:
        """Take back a rename by another hand; tell whether there was one."""
        name = self._backend.interface
        if self._own_index is None or await asyncio.to_thread(link_index, name) is not None:
            return False
        former = await asyncio.to_thread(restore_name, self._own_index, name)
        if former:
            log.info("device renamed back", interface=name, former=former)
        return bool(former)

    async def _check_owner(self, config: DeviceConfig) -> None:
        if why := await self._why_foreign(Owner(config.private_key.public, config.overlay)):
            rule = (
                f"belongs to another program: {why}; choose a free name, or delete the device if it is unused"
            )
            raise InvalidSpec("interface", rule, value=self._backend.interface)

    async def _why_foreign(self, owner: Owner) -> str:
        interface = self._backend.interface
        # First the index, which costs little: the rest looks at routes and peers.
        if await asyncio.to_thread(link_index, interface) in {None, self._own_index}:
            return ""
        found = await asyncio.to_thread(find_link, interface)
        if found is None or found.kind != self._backend.link_kind:
            return ""
        return why_foreign(owner, found, await self._backend.peek())

    async def _from_what_we_left(self, left: DeviceConfig, config: DeviceConfig) -> Outcome:
        if self._carry_problems or must_look_first(left, config):
            return await self._from_what_is_there(config)
        self._left = None
        try:
            if needs_sessions(left, config, self._sessions, now=time.time()):
                self._sessions = await self._backend.sessions()
            change = plan_next(left, config, self._sessions, now=time.time())
            return await self._make(config, change, fresh=False)
        except PortTaken:
            raise
        except WireGuardUnavailable:
            # Another hand took away what we built on; a look makes it whole.
            return await self._from_what_is_there(config)

    async def _make(self, config: DeviceConfig, change: Change, *, fresh: bool) -> Outcome:
        if change.device.listen_port is not None:
            _check_port_is_free(change.device.listen_port)
        problems = await asyncio.to_thread(prepare, change.carry, self._memory)
        await self._backend.apply(change.device)
        conflicts = await asyncio.to_thread(change_link, self._backend.interface, change.link)
        problems += await asyncio.to_thread(complete, self._backend.interface, change.carry, self._memory)
        self._carry_problems += tuple(problems)
        self._conflicts = self._still_standing(config, change) + conflicts
        self._left = config
        held = {conflict.destination for conflict in conflicts}
        added = tuple(network for network in change.link.add_routes if network not in held)
        return Outcome(
            changed=fresh
            or bool(change.device)
            or bool(replace(change.link, add_routes=added))
            or bool(_succeeded(change.carry, problems)),
            sessions_lost=fresh or change.device.private_key is not None,
            port_moved=not fresh and change.device.listen_port is not None,
            conflicts=self._conflicts,
            carry_problems=self._carry_problems,
            change=change,
        )

    def _still_standing(self, config: DeviceConfig, change: Change) -> tuple[RouteConflict, ...]:
        """Return the conflicts known before that this change did not try to settle."""
        if not self._conflicts:
            return ()
        open_ones = set(config.routes).difference(change.link.add_routes)
        return tuple(conflict for conflict in self._conflicts if conflict.destination in open_ones)


async def open_device(
    mode: WireGuardMode, interface: str, memory: LinkMemory, *, userspace_binary: str | None = None
) -> Device:
    """Choose the backend and return a device that nothing has been done to yet.

    ``Auto`` keeps the backend of a living device, otherwise prefers the kernel's.

    Args:
        mode: ``spec.wireguard.mode``; ``Auto`` outside Kubernetes.
        interface: name of the device.
        memory: as of `Device`.
        userspace_binary: path of wireguard-go; otherwise ``wireguard-go`` or
            ``wireguard`` on PATH.

    Raises:
        WireGuardUnavailable: neither kernel nor user space can do it; the text
            says what to install.
        InvalidSpec: ``userspace_binary`` is not wireguard-go.

    """
    return Device(await asyncio.to_thread(_choose_backend, mode, interface, userspace_binary), memory)


def check_mode(mode: WireGuardMode, *, userspace_binary: str | None = None) -> None:
    """See whether this host has the WireGuard that a mode names. Blocking.

    Args:
        mode: ``spec.wireguard.mode``; ``Auto`` is left to `open_device`.
        userspace_binary: as of `open_device`.

    Raises:
        WireGuardUnavailable: it has not; the text says what to install.
        InvalidSpec: ``userspace_binary`` is not wireguard-go.

    """
    if mode == "Kernel" and not kernel_has_wireguard():
        raise WireGuardUnavailable(kernel.HOW_TO_GET_IT)
    if mode == "Userspace" and find_userspace_binary(userspace_binary) is None:
        raise WireGuardUnavailable(userspace.HOW_TO_GET_IT)


async def find_device(interface: str, memory: LinkMemory) -> Device | None:
    """Return the device that an earlier run of this agent left, to be removed; None if there is none."""
    match await asyncio.to_thread(link_kind, interface):
        case kernel.LINK_KIND:
            return Device(KernelBackend(interface), memory)
        case userspace.LINK_KIND:
            return Device(UserspaceBackend(interface, None), memory)
    return None


async def why_taken(interface: str, owner: Owner, memory: LinkMemory) -> str:
    """Return what shows that a name belongs to another program; empty when this node can have it.

    Args:
        interface: the name.
        owner: this node.
        memory: as of `Device`.

    Raises:
        WireGuardUnavailable: the host cannot be asked.

    """
    if await asyncio.to_thread(link_kind, interface) is None:
        return ""
    device = await find_device(interface, memory)
    return "it is not a WireGuard device" if device is None else await device.why_foreign(owner)


def _choose_backend(mode: WireGuardMode, interface: str, userspace_binary: str | None) -> Backend:
    living = link_kind(interface)
    in_kernel = mode == "Kernel" or (
        mode == "Auto"
        and living != userspace.LINK_KIND
        and (living == kernel.LINK_KIND or kernel_has_wireguard())
    )
    binary = None
    # The kernel needs no program, but one that the user named is checked all the same.
    if not in_kernel or (mode == "Auto" and userspace_binary is not None):
        binary = find_userspace_binary(userspace_binary)
    if in_kernel:
        return KernelBackend(interface)
    if binary is None and mode == "Auto" and living != userspace.LINK_KIND:
        raise WireGuardUnavailable(f"{kernel.HOW_TO_GET_IT}; and {userspace.HOW_TO_GET_IT}")
    return UserspaceBackend(interface, binary)


def _succeeded(change: CarryChange, problems: Sequence[CarryProblem]) -> CarryChange:
    """Return a change without the parts that did not succeed, which each look tries again."""
    reasons = {problem.reason for problem in problems}
    if "ReversePathFilter" in reasons:
        change = replace(change, loosen=(), restore=())
    if reasons & {"TableConflict", "AddressNotPresent", "IPv6SwitchedOff"}:
        change = replace(change, add_routes=(), change_routes=())
    if "IPv6SwitchedOff" in reasons:
        # A kernel without IPv6 has no rules of it either.
        change = replace(
            change,
            first_rules=tuple(rule for rule in change.first_rules if rule.version != _IPV6),
            last_rules=tuple(rule for rule in change.last_rules if rule.version != _IPV6),
            add_unreachable=tuple(place for place in change.add_unreachable if place[1].version != _IPV6),
        )
    return change


def _check_port_is_free(port: int) -> None:
    # WireGuard itself would tell us late or not at all: the kernel when the
    # interface goes up, wireguard-go in its own log only.
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PortTaken(port) from error
                raise
