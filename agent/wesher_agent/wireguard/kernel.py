"""WireGuard in the Linux kernel, over generic netlink.

The bytes are left to `wireguard_messages`. Every request runs in a thread: the
kernel does its work while it is asked.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from typing import Literal

from wesher_agent.netlink.errors import PortTaken, WireGuardUnavailable
from wesher_agent.netlink.netlink_socket import NETLINK_GENERIC, NetlinkSocket
from wesher_agent.wireguard.link import create_link, delete_link, link_kind
from wesher_agent.wireguard.plan import DeviceChange, ObservedDevice, PeerSession
from wesher_agent.wireguard.wireguard_messages import (
    FAMILY_NAME,
    pack_get,
    pack_set,
    parse_device,
    parse_sessions,
)
from wesher_common.errors import InvalidSpec
from wesher_common.keys import WireGuardPublicKey

LINK_KIND = "wireguard"

HOW_TO_GET_IT = "the kernel has no WireGuard: load its module with `modprobe wireguard` (Linux 5.6 or newer)"


class _Refused(WireGuardUnavailable):
    """The kernel does not know what it was sent."""


class KernelBackend:
    """A device of the kernel's own WireGuard.

    Args:
        interface: the device's name.

    """

    kind: Literal["Kernel"] = "Kernel"
    link_kind = LINK_KIND

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self._removes_single = True
        """Whether the kernel is taken to remove single allowed IPs: until it refuses."""

    async def peek(self) -> ObservedDevice | None:
        """See `Backend.peek`."""
        return await self.observe()

    async def ensure(self) -> bool:
        """See `Backend.ensure`."""
        return await asyncio.to_thread(self._ensure)

    async def observe(self) -> ObservedDevice:
        """See `Backend.observe`."""
        return await asyncio.to_thread(lambda: parse_device(self._dump()))

    async def sessions(self) -> Mapping[WireGuardPublicKey, PeerSession]:
        """See `Backend.sessions`."""
        return await asyncio.to_thread(lambda: parse_sessions(self._dump()))

    async def apply(self, change: DeviceChange) -> None:
        """See `Backend.apply`."""
        bodies = pack_set(self.interface, change, removes_single=self._removes_single)
        if not bodies:
            return
        try:
            await asyncio.to_thread(self._send, bodies, change.listen_port)
        except _Refused:
            if not (self._removes_single and change.removes_allowed_ips):
                raise
            # Before Linux 6.16. What it did before it refused is done again.
            self._removes_single = False
            bodies = pack_set(self.interface, change, removes_single=False)
            await asyncio.to_thread(self._send, bodies, change.listen_port)

    async def wait_lost(self) -> None:
        """Never return: the kernel does not die, and a removed device shows at the next look."""
        await asyncio.Event().wait()

    async def remove(self) -> None:
        """See `Backend.remove`."""
        await asyncio.to_thread(delete_link, self.interface, LINK_KIND)

    def close(self) -> None:
        """Nothing is held: the device is the kernel's."""

    def _ensure(self) -> bool:
        kind = link_kind(self.interface)
        if kind == LINK_KIND:
            return False
        if kind is not None:
            raise InvalidSpec(
                "interface", "is the name of another network device: choose a free one", value=self.interface
            )
        with NetlinkSocket(NETLINK_GENERIC) as kernel:
            _family(kernel)
        create_link(self.interface, LINK_KIND)
        return True

    def _dump(self) -> list[memoryview]:
        with NetlinkSocket(NETLINK_GENERIC) as kernel:
            try:
                return kernel.dump(_family(kernel), pack_get(self.interface))
            except OSError as error:
                raise self._failed("asked", error.errno) from error

    def _send(self, bodies: list[bytes], listen_port: int | None) -> None:
        with NetlinkSocket(NETLINK_GENERIC) as kernel:
            family = _family(kernel)
            # One at a time: what follows a refused message would build on what is not there.
            for body in bodies:
                (result,) = kernel.send_all(family, 0, [body])
                if result == errno.EADDRINUSE and listen_port is not None:
                    raise PortTaken(listen_port)
                if result in {errno.EINVAL, errno.EOPNOTSUPP, errno.ERANGE}:
                    raise _Refused(str(self._failed("changed", result)))
                if result:
                    raise self._failed("changed", result)

    def _failed(self, verb: str, number: int | None) -> WireGuardUnavailable:
        reason = os.strerror(number) if number else "unknown error"
        return WireGuardUnavailable(f"kernel wireguard device {self.interface} could not be {verb}: {reason}")


def kernel_has_wireguard() -> bool:
    """Tell whether the kernel can do WireGuard, loading its module if need be. Blocking."""
    with NetlinkSocket(NETLINK_GENERIC) as kernel:
        return kernel.family(FAMILY_NAME) is not None


def _family(kernel: NetlinkSocket) -> int:
    family = kernel.family(FAMILY_NAME)
    if family is None:
        raise WireGuardUnavailable(HOW_TO_GET_IT)
    return family
