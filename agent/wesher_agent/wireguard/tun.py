"""The network device under a user-space WireGuard: a TUN that outlives its program.

Address and routes hang on the device, so they stay while wireguard-go is
started again. Blocking, but short.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from wesher_agent.netlink.errors import WireGuardUnavailable

_DEVICE = Path("/dev/net/tun")
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
# The flags with which wireguard-go attaches (tun/tun_linux.go, CreateTUN).
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_IFREQ = struct.Struct("16sH22x")


def create_persistent_tun(interface: str) -> None:
    """Make a TUN device that stays when no program holds it; one that is there is made to stay.

    Raises:
        WireGuardUnavailable: no ``/dev/net/tun``, no right to it, or another
            program holds the device.

    """
    try:
        descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise WireGuardUnavailable(_why_not_opened(error)) from error
    try:
        request = _IFREQ.pack(interface.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    except OSError as error:
        raise WireGuardUnavailable(_why_not_made(interface, error)) from error
    finally:
        os.close(descriptor)


def _why_not_opened(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return (
                f"user-space WireGuard needs {_DEVICE}, which does not exist: load the module with "
                "`modprobe tun`, or give the container the device"
            )
        case errno.EPERM | errno.EACCES:
            return f"user-space WireGuard is not allowed to open {_DEVICE}: run as root or with CAP_NET_ADMIN"
        case _:
            return f"user-space WireGuard could not open {_DEVICE}: {error.strerror}"


def _why_not_made(interface: str, error: OSError) -> str:
    match error.errno:
        case errno.EPERM:
            return f"could not create {interface}: not permitted: run as root or with CAP_NET_ADMIN"
        case errno.EBUSY:
            return f"{interface} is used by a program without a WireGuard socket: stop that program"
        case _:
            return f"could not create {interface}: {error.strerror}"
