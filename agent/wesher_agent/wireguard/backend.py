"""What a WireGuard implementation must be able to do for us.

Two fulfil it: `kernel`, the module in the Linux kernel, and `userspace`, a
wireguard-go that we start and look after. Addresses, routes and MTU are the
same for both and left to `link`; what to change is left to `plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from wesher_agent.wireguard.plan import DeviceChange, ObservedDevice, PeerSession
from wesher_common.keys import WireGuardPublicKey

BackendKind = Literal["Kernel", "Userspace"]


class Backend(Protocol):
    """One WireGuard device of one implementation.

    No method blocks the event loop. Each raises `errors.WireGuardUnavailable`
    when the device cannot be made or reached.
    """

    @property
    def kind(self) -> BackendKind:
        """Which implementation it is."""

    @property
    def interface(self) -> str:
        """The device's name."""

    @property
    def link_kind(self) -> str:
        """What the kernel calls the kind of its network device."""

    async def peek(self) -> ObservedDevice | None:
        """Ask a WireGuard that was not made ours yet what it holds; None when none answers."""

    async def ensure(self) -> bool:
        """Make the device exist and answer; adopt one that does.

        Returns:
            Whether it was made or started now, so that it holds no session yet.

        """

    async def observe(self) -> ObservedDevice:
        """Ask WireGuard what it holds."""

    async def sessions(self) -> Mapping[WireGuardPublicKey, PeerSession]:
        """Ask WireGuard for each peer's endpoint, handshake and counters, which is cheaper than `observe`."""

    async def apply(self, change: DeviceChange) -> None:
        """Send a change, in as few messages as it takes; an empty one sends nothing."""

    async def wait_lost(self) -> None:
        """Return when the device must be made again; never, where only a look can tell."""

    async def remove(self) -> None:
        """Take the device away; one that is gone already is fine."""

    def close(self) -> None:
        """Let go of the device without touching it: it outlives us, and we adopt it later."""
