"""Which address a member binds and announces, in the Go program's order."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from wesher_agent.mesh.host import ALL_ADDRESSES, HostAddress, Listening, choose_addresses
from wesher_common.errors import InvalidSpec
from wesher_common.overlay import IPAddress


def at(
    text: str, link: str = "eth0", *, prefix: int = 24, default: bool = False, up: bool = True
) -> HostAddress:
    return HostAddress(ip_address(text), prefix, link, up, default)


LOOPBACK = at("127.0.0.1", "lo", prefix=8)


def choose(
    *host: HostAddress,
    bind: str = "",
    iface: str = "",
    advertise: str = "",
    everywhere: bool = False,
) -> Listening:
    return choose_addresses(
        host,
        bind_addr=ip_address(bind) if bind else None,
        bind_iface=iface,
        advertise_addr=ip_address(advertise) if advertise else None,
        own_link="wgoverlay",
        everywhere=everywhere,
    )


def ip(text: str) -> IPAddress:
    return ip_address(text)


def test_a_public_address_is_bound_and_announced() -> None:
    host = (LOOPBACK, at("10.0.0.5", default=True), at("93.184.216.34", "eth1"))
    assert choose(*host) == Listening((ip("93.184.216.34"),), ip("93.184.216.34"), None)


def test_of_public_addresses_the_default_routes_link_comes_first_then_ipv4_then_the_smaller_network() -> None:
    host = [
        at("2a00:1450::5", default=True, prefix=64),
        at("93.184.216.34", default=True, prefix=24),
        at("93.184.216.40", default=True, prefix=28),
        at("8.8.8.8", "eth1", prefix=32),
    ]
    assert choose(*host).advertise == ip("93.184.216.40")
    assert choose(host[0], host[3]).advertise == ip("2a00:1450::5")


def test_without_a_public_address_all_are_bound_and_the_default_routes_private_one_is_announced() -> None:
    host = (LOOPBACK, at("172.17.0.1", "docker0"), at("192.168.1.5", "eth0", default=True))
    assert choose(*host) == Listening(ALL_ADDRESSES, ip("192.168.1.5"), None)


def test_links_that_are_down_link_local_addresses_and_our_own_device_are_passed_over() -> None:
    host = (
        at("93.184.216.34", up=False),
        at("fe80::1"),
        at("10.9.0.1", "wgoverlay", prefix=32),
        at("10.0.0.5", "eth1"),
    )
    assert choose(*host).advertise == ip("10.0.0.5")


def test_the_first_address_of_a_link_is_bound_whatever_it_is() -> None:
    host = (at("fe80::7", "eth1"), at("10.0.0.5", "eth1"))
    assert choose(*host, iface="eth1").bind == (ip("fe80::7"),)


@pytest.mark.parametrize("iface", ["eth9", "wgoverlay"])
def test_a_link_without_addresses_is_refused(iface: str) -> None:
    with pytest.raises(InvalidSpec, match=f"--bind-iface '{iface}': no such interface, or it has no address"):
        choose(at("10.0.0.5"), iface=iface)


def test_an_address_behind_nat_is_announced_with_the_local_one_for_those_nearby() -> None:
    listening = choose(at("10.0.0.5", default=True), advertise="93.184.216.34")
    assert listening == Listening(ALL_ADDRESSES, ip("93.184.216.34"), ip("10.0.0.5"))
    bound = choose(at("10.0.0.5"), bind="10.0.0.5", advertise="93.184.216.34")
    assert bound == Listening((ip("10.0.0.5"),), ip("93.184.216.34"), ip("10.0.0.5"))


def test_an_announced_address_that_is_ours_needs_no_other() -> None:
    assert choose(at("10.0.0.5"), at("10.1.0.5", "eth1"), advertise="10.1.0.5").internal is None


def test_all_addresses_of_one_family_may_be_bound() -> None:
    host = (at("10.0.0.5"), at("fd00::5"))
    assert choose(*host, bind="::") == Listening((ip("::"),), ip("fd00::5"), None)


def test_told_to_listen_everywhere_a_public_address_is_only_announced() -> None:
    assert choose(at("93.184.216.34"), everywhere=True) == Listening(ALL_ADDRESSES, ip("93.184.216.34"), None)


def test_a_host_without_any_address_must_be_told_one() -> None:
    with pytest.raises(InvalidSpec, match="--advertise-addr: this host has no address"):
        choose(LOOPBACK, at("fe80::1"))
