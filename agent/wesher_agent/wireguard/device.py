"""The one thing the rest of the agent uses: a wish in, a working device out.

Brings backend, interface and routes together, remembers what was done last so
that an unchanged wish costs nothing, and repairs what other hands changed.
What to wish for is left to `wesher_agent.mesh.desired`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wesher_agent.mesh.device import DeviceConfig
from wesher_agent.wireguard.backend import BackendKind
from wesher_agent.wireguard.plan import ObservedPeer
from wesher_common.mesh_document import WireGuardMode
from wesher_common.overlay import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class RouteConflict:
    """A foreign route stands where one of ours should; it is never replaced."""

    destination: IPNetwork
    holder: str
    """The foreign route in words, as ``ip route`` would say it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one `Device.configure` or `Device.repair` did."""

    changed: bool
    """Whether anything had to be changed."""
    sessions_lost: bool
    """Whether the device started without sessions: send every peer a packet, or
    they stay silent for up to 15 s."""
    conflicts: tuple[RouteConflict, ...] = ()


class Device:
    """One WireGuard interface, its peers, address and routes.

    Calls run one after the other; a failed one leaves the wish standing, and
    the next `configure` or `repair` starts from what is really there.
    """

    @property
    def kind(self) -> BackendKind:
        """Which WireGuard carries the device, for status."""

    async def configure(self, config: DeviceConfig) -> Outcome:
        """Bring the device to ``config``, making it first if need be.

        Compares with what was left by the last call, so that one changed peer
        costs one small message. Use `repair` to compare with what is there.

        Raises:
            WireGuardUnavailable: the text says what to install or change.
            InvalidSpec: the interface's name belongs to a device of another kind,
                or the port is taken.

        """

    async def repair(self) -> Outcome:
        """Look at the device as it is and bring it back to the last wish; call it every 30 s.

        Raises: as `configure`.
        """

    async def peers(self) -> Sequence[ObservedPeer]:
        """Return every peer with handshake time, endpoint and counters, sorted by key.

        Empty before the first `configure`.
        """

    async def wait_lost(self) -> None:
        """Return when `repair` should be called at once: the user-space program died.

        Restarts that come too often are held back here. With the kernel's
        WireGuard it never returns; cancel it.
        """

    async def remove(self) -> None:
        """Take away the device, and with it address and routes; nothing there is fine."""

    def close(self) -> None:
        """Leave everything running and let go of it; the next start adopts it."""


async def open_device(mode: WireGuardMode, interface: str, *, userspace_binary: str | None = None) -> Device:
    """Choose the backend and return a device that nothing has been done to yet.

    ``Auto`` keeps the backend of a living device, else prefers the kernel's.

    Args:
        mode: ``spec.wireguard.mode``; ``Auto`` outside Kubernetes.
        interface: name of the device.
        userspace_binary: path of wireguard-go; otherwise ``wireguard-go`` or
            ``wireguard`` on PATH.

    Raises:
        WireGuardUnavailable: neither kernel nor user space can do it; the text
            says what to install.
        InvalidSpec: ``userspace_binary`` is not wireguard-go, or the
            interface's name belongs to a device of another kind.

    """


async def overlay_mtu(underlay: Sequence[IPAddress]) -> int:
    """Return the MTU to use when none is set: the underlay's less 80 bytes, at least 1280.

    80 bytes are an IPv6 header, UDP and WireGuard's own, as wg-quick reckons.

    Args:
        underlay: addresses of the peers' endpoints. The narrowest interface or
            route towards any of them counts; empty means the default route's.

    """
