"""Reverse-path filtering of a link (``rp_filter``, ip-sysctl.rst), read and set over netlink.

Works with CAP_NET_ADMIN alone, also where ``/proc/sys`` is read-only. IPv6 has no such filter.
Blocking, but short.
"""

from __future__ import annotations

import errno
import os
import struct

from wesher_agent.netlink.errors import MalformedReply, WireGuardUnavailable
from wesher_agent.netlink.messages import AF_INET, NLA_F_NESTED, pack_attribute, parse_attributes
from wesher_agent.netlink.netlink_socket import NetlinkSocket

STRICT, LOOSE = 1, 2

ALL = -1
"""The index of the setting for all links; for each link, the higher of the two numbers applies."""
_RTM_SETLINK, _RTM_GETNETCONF = 19, 82
_NETCONF_HEADER = struct.Struct("=Bxxx")
_NETCONF_INDEX, _NETCONF_RP_FILTER = 1, 3
_LINK_HEADER = struct.Struct("=BBHiII")
_IFLA_AF_SPEC, _IFLA_INET_CONF, _DEVCONF_RP_FILTER = 26, 1, 8
_S32, _U32 = struct.Struct("=i"), struct.Struct("=I")
_GONE = {errno.ENODEV, errno.EINVAL, errno.EAFNOSUPPORT}


def read_path_filter(kernel: NetlinkSocket, index: int) -> int | None:
    """Return the filter of the link of that index, or of `ALL`; None if the link has no IPv4."""
    body = _NETCONF_HEADER.pack(AF_INET) + pack_attribute(_NETCONF_INDEX, _S32.pack(index))
    (answer,) = kernel.ask_all(_RTM_GETNETCONF, [body])
    if answer is None:
        return None
    payload = dict(parse_attributes(answer[_NETCONF_HEADER.size :])).get(_NETCONF_RP_FILTER)
    if payload is None or len(payload) != _S32.size:
        raise MalformedReply("kernel settings: a link without a reverse-path filter")
    return int(_S32.unpack(payload)[0])


def set_path_filter(kernel: NetlinkSocket, index: int, value: int) -> None:
    """Set the filter of the link of that index; one that is gone already is fine.

    Raises:
        WireGuardUnavailable: the kernel refused.

    """
    setting = pack_attribute(_DEVCONF_RP_FILTER, _U32.pack(value))
    inet = pack_attribute(AF_INET | NLA_F_NESTED, pack_attribute(_IFLA_INET_CONF | NLA_F_NESTED, setting))
    body = _LINK_HEADER.pack(0, 0, 0, index, 0, 0) + pack_attribute(_IFLA_AF_SPEC | NLA_F_NESTED, inet)
    (result,) = kernel.send_all(_RTM_SETLINK, 0, [body])
    if result and result not in _GONE:
        raise WireGuardUnavailable(f"could not set a reverse-path filter: {os.strerror(result)}")
