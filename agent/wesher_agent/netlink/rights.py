"""Whether this process may change the network of its network namespace."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

from wesher_agent.netlink.netlink_socket import NETLINK_ROUTE, NetlinkSocket
from wesher_common.errors import InvalidSpec

_CAP_NET_ADMIN = 12
_RTM_SETLINK = 19
_NO_LINK = bytes(16)
"""A ``struct ifinfomsg`` that names no link: the kernel refuses it, first for the lack of a right."""


def check_rights() -> None:
    """Ask the kernel whether this process may change links, addresses and routes.

    The kernel is asked, since a user id and a capability do not tell: root of a user namespace
    has every capability, but only over the network namespaces that belong to it.

    Raises:
        InvalidSpec: it may not.

    """
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        (refusal,) = kernel.send_all(_RTM_SETLINK, 0, [_NO_LINK])
    if refusal not in {errno.EPERM, errno.EACCES}:
        return
    if _has_capability():
        raise InvalidSpec(
            "CAP_NET_ADMIN",
            "has no effect on this network, because a security module forbids changes or the network belongs "
            "to another user namespace, as in a rootless container: run the agent as root of the host, or "
            "give the container its own network",
        )
    raise InvalidSpec(
        "CAP_NET_ADMIN",
        "is missing, so the agent cannot create its interface: run it as root, or grant the capability "
        "(AmbientCapabilities=CAP_NET_ADMIN in systemd, --cap-add=NET_ADMIN for a container)",
    )


def _has_capability() -> bool:
    """Tell whether the capability is in effect, in whatever user namespace (proc_pid_status(5))."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "CapEff":
                return bool(int(value, 16) >> _CAP_NET_ADMIN & 1)
    return False
