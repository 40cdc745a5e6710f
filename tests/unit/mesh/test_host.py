"""Which address a member binds and announces, in the Go program's order."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from wesher_agent.mesh.host import ALL_ADDRESSES, HostAddress, HostNetwork, Listening, choose_addresses
from wesher_common.errors import InvalidSpec
from wesher_common.overlay import IPAddress


def at(
    text: str,
    link: str = "eth0",
    *,
    prefix: int = 24,
    default: bool = False,
    up: bool = True,
    **flags: bool,
) -> HostAddress:
    return HostAddress(ip_address(text), prefix, link, up, default, **flags)


LOOPBACK = at("127.0.0.1", "lo", prefix=8)


def choose(
    *host: HostAddress,
    bind: str = "",
    iface: str = "",
    advertise: str = "",
    everywhere: bool = False,
    seeds: str = "",
    by_default: str = "",
) -> Listening:
    """Choose; ``seeds`` and ``by_default`` are the kernel's source addresses."""
    return choose_addresses(
        HostNetwork(
            host,
            frozenset(),
            frozenset(),
            towards_seeds=tuple(map(ip_address, seeds.split())),
            by_default=tuple(map(ip_address, by_default.split())),
        ),
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


LAN, BACKUP = at("192.168.8.1", default=True), at("10.64.10.5", "wwan0", prefix=30, default=True)
STABLE, TEMPORARY = (
    at("2a02:8071:5::10", prefix=64, default=True),
    at("2a02:8071:5::abcd", prefix=64, default=True, is_temporary=True),
)


def test_the_kernels_default_route_decides_not_the_smaller_network() -> None:
    """A backup link has a default route too, with a worse metric."""
    assert choose(LAN, BACKUP, by_default="192.168.8.1") == Listening(ALL_ADDRESSES, ip("192.168.8.1"), None)


def test_the_way_to_the_seeds_beats_the_default_route() -> None:
    """Vagrant's first link is NAT, and has the same address on each machine."""
    host = (at("10.0.2.15", default=True), at("192.168.56.11", "eth1"))
    assert choose(*host, seeds="192.168.56.11", by_default="10.0.2.15").advertise == ip("192.168.56.11")


def test_seeds_that_are_reached_by_ipv4_are_not_told_an_ipv6_address() -> None:
    host = (at("192.168.9.2", default=True), STABLE)
    assert choose(*host, seeds="192.168.9.2", by_default="192.168.9.2 2a02:8071:5::10") == Listening(
        ALL_ADDRESSES, ip("192.168.9.2"), None
    )


def test_of_two_default_routes_the_public_one_is_announced() -> None:
    host = (at("192.168.9.2", default=True), STABLE)
    chosen = choose(*host, by_default="192.168.9.2 2a02:8071:5::10")
    assert chosen == Listening((STABLE.address,), STABLE.address, None)


def test_what_the_kernel_says_of_our_own_device_and_of_the_loopback_does_not_count() -> None:
    host = (LOOPBACK, at("10.9.0.1", "wgoverlay", prefix=32), at("10.0.0.5"))
    assert choose(*host, seeds="127.0.0.1", by_default="10.9.0.1").advertise == ip("10.0.0.5")


@pytest.mark.parametrize("flag", ["is_tentative", "is_duplicate"])
def test_an_address_that_cannot_be_used_is_passed_over(flag: str) -> None:
    host = (at("2a02:8071:5::10", prefix=64, **{flag: True}), at("192.168.9.1", default=True))
    assert choose(*host).advertise == ip("192.168.9.1")
    assert choose(*host, iface="eth0").bind == (ip("192.168.9.1"),)


def test_the_lasting_address_is_announced_where_the_kernel_sends_from_a_temporary_one() -> None:
    host = (TEMPORARY, STABLE)
    assert choose(*host, by_default="2a02:8071:5::abcd").bind == (STABLE.address,)
    assert choose(*host).bind == (STABLE.address,)
    assert choose(*host, iface="eth0").bind == (STABLE.address,)
    assert choose(TEMPORARY, by_default="2a02:8071:5::abcd").bind == (TEMPORARY.address,)


def test_a_deprecated_address_comes_last() -> None:
    old = at("2a02:8071:4::10", prefix=64, default=True, is_deprecated=True)
    assert choose(old, STABLE).advertise == STABLE.address
    assert choose(old, at("192.168.9.1", default=True)).advertise == ip("192.168.9.1")


def test_with_several_links_and_no_route_to_tell_one_must_be_given() -> None:
    host = (LOOPBACK, at("172.20.0.2", prefix=16), at("192.168.122.1", "virbr0"))
    with pytest.raises(
        InvalidSpec,
        match=r"--advertise-addr: .* choose one of 192.168.122.1 \(virbr0\), 172.20.0.2 \(eth0\)",
    ):
        choose(*host)
    assert choose(*host, seeds="172.20.0.2").advertise == ip("172.20.0.2")
    assert choose(*host, advertise="172.20.0.2").advertise == ip("172.20.0.2")
    assert choose(*host, iface="eth0").advertise == ip("172.20.0.2")
    assert choose(*host, everywhere=True).bind == ALL_ADDRESSES


def test_the_address_of_a_tunnel_is_a_candidate_only_where_there_is_no_other() -> None:
    """Two meshes on one host start in any order."""
    tunnel = at("10.141.246.84", "wglab", prefix=32, on_tunnel=True)
    assert choose(LOOPBACK, tunnel, at("192.168.7.1")).advertise == ip("192.168.7.1")
    assert choose(LOOPBACK, tunnel).advertise == ip("10.141.246.84")


def test_a_bridge_without_a_carrier_is_not_a_candidate() -> None:
    host = (at("172.20.0.2", prefix=16), at("192.168.122.1", "virbr0", up=False))
    assert choose(*host).advertise == ip("172.20.0.2")
