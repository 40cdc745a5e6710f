"""What a device that cannot be made says of itself."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from wesher_agent.mesh.device import DeviceConfig
from wesher_agent.netlink.errors import WireGuardUnavailable
from wesher_agent.wireguard.device import Device
from wesher_agent.wireguard.userspace import UserspaceBackend
from wesher_common.keys import WireGuardPrivateKey
from wesher_testing.device.links import NO_LINKS

NO_SUCH_INDEX = 2**31 - 1


async def test_a_device_that_is_gone_and_cannot_be_made_again_has_no_link() -> None:
    """Its program was removed while it ran."""
    device = Device(UserspaceBackend("wgnone", None), NO_LINKS)
    device._own_index = NO_SUCH_INDEX
    wanted = DeviceConfig(
        interface="wgnone",
        private_key=WireGuardPrivateKey.from_random(bytes(32)),
        listen_port=51820,
        address=ip_address("10.9.0.1"),
        overlay=ip_network("10.9.0.0/16"),
        mtu=1420,
        peers=(),
        unreachable=(),
    )
    with pytest.raises(WireGuardUnavailable):
        await device.configure(wanted)
    assert device.link_index is None
