"""A running member follows this host's addresses, and says when it cannot."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from wesher_agent.cli.commands import agent_settings
from wesher_agent.net.addresses import ALL_ADDRESSES, HostAddress
from wesher_agent.runtime.host import HostNetwork
from wesher_agent.runtime.myself import Myself, listen_where
from wesher_agent.swim.address import Address
from wesher_common.keys import KEY_BYTES, ClusterKey, KeyRing, WireGuardPrivateKey

PUBLIC, OTHER_PUBLIC, PRIVATE, OTHER_PRIVATE = "93.184.216.34", "93.184.216.40", "10.0.0.5", "10.0.0.9"


def host(*addresses: str) -> HostNetwork:
    """Return a host with these addresses on one link, and the loopback."""
    entries = [
        HostAddress(ip_address("127.0.0.1"), 8, "lo", link_up=True, has_default_route=False),
        *(HostAddress(ip_address(a), 24, "eth0", link_up=True, has_default_route=True) for a in addresses),
    ]
    return HostNetwork(tuple(entries), frozenset(), frozenset())


def started(on: HostNetwork, *flags: str) -> Myself:
    settings = agent_settings([*flags, "--node-name=a"], {})
    document = settings.mesh_document()
    return Myself(
        name="a",
        key=WireGuardPrivateKey(bytes(KEY_BYTES)),
        ring=KeyRing(ClusterKey(bytes(KEY_BYTES))),
        settings=settings,
        document=document,
        host=on,
        listening=listen_where(settings, document, None, on),
        overlay_address=None,
        node=None,
    )


def test_one_that_listens_everywhere_announces_another_address_and_goes_on_listening_everywhere() -> None:
    me = started(host(PRIVATE))
    for address in (OTHER_PRIVATE, PUBLIC, PRIVATE):
        me.look_at_host(host(address))
        assert me.gossip_address == Address(address, 7946)
        assert me.listening.bind == ALL_ADDRESSES
    assert me.lost_address is None


@pytest.mark.parametrize("flags", [[], ["--bind-iface=eth0"]], ids=["public", "link"])
def test_one_that_listens_on_one_address_follows_it(flags: list[str]) -> None:
    me = started(host(PUBLIC), *flags)
    me.look_at_host(host(OTHER_PUBLIC))
    assert me.gossip_address == Address(OTHER_PUBLIC, 7946)
    assert me.listening.bind == (ip_address(OTHER_PUBLIC),)
    assert me.lost_address is None


def test_an_address_that_the_host_still_has_is_kept_whatever_comes_beside_it() -> None:
    me = started(host(PUBLIC))
    me.look_at_host(host(OTHER_PUBLIC, PUBLIC))
    assert me.listening.bind == (ip_address(PUBLIC),)


def test_a_host_that_is_public_no_more_is_reached_at_the_address_it_has() -> None:
    me = started(host(PUBLIC, PRIVATE))
    me.look_at_host(host(PRIVATE))
    assert (me.listening.bind, me.gossip_address) == (ALL_ADDRESSES, Address(PRIVATE, 7946))


def test_an_address_that_was_asked_for_by_flag_cannot_be_followed_and_is_missed_until_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    me = started(host(PRIVATE), f"--bind-addr={PRIVATE}")
    for addresses in ([OTHER_PRIVATE], [OTHER_PRIVATE, PUBLIC]):
        me.look_at_host(host(*addresses))
        assert me.lost_address == ip_address(PRIVATE)
        assert me.gossip_address == Address(PRIVATE, 7946)
    line = "the address that gossip listens on is gone from this host address=10.0.0.5"
    assert caplog.messages == [line]
    me.look_at_host(host(PRIVATE))
    assert me.lost_address is None


def test_a_link_without_an_address_for_a_while_loses_nothing_but_time() -> None:
    me = started(host(PRIVATE), "--bind-iface=eth0")
    for addresses in ([], ["2001:db8::5"]):
        me.look_at_host(host(*addresses))
        assert me.lost_address == ip_address(PRIVATE)
        assert me.gossip_address == Address(PRIVATE, 7946)
    me.look_at_host(host(OTHER_PRIVATE))
    assert (me.lost_address, me.listening.bind) == (None, (ip_address(OTHER_PRIVATE),))


def test_an_address_that_the_host_never_listed_is_not_missed() -> None:
    me = started(host(PRIVATE), "--bind-addr=127.0.0.9")
    me.look_at_host(host(OTHER_PRIVATE))
    assert me.lost_address is None
