"""What the kernel says of a host's addresses, and which one is announced for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from wesher_testing.agents.process import wait_until
from wesher_testing.lab.namespaces import Host, Lab

pytestmark = pytest.mark.needs_root

ANNOUNCED = """
import sys
from ipaddress import ip_address
from wesher_agent.mesh.host import choose_addresses
from wesher_agent.netlink.host import look_at_host

host = look_at_host(map(ip_address, sys.argv[1:]))
print(choose_addresses(host, bind_addr=None, bind_iface="", advertise_addr=None, own_link="wg").advertise)
"""


@pytest.fixture
def host() -> Iterator[Host]:
    """Return a host whose first link has no address yet, and a second link that has no carrier."""
    with Lab() as lab:
        host = lab.host("a")
        for command in (
            "addr flush dev eth0",
            "link add virbr0 type bridge",
            "addr add 192.168.122.1/24 dev virbr0",
            "link set virbr0 up",
            "addr add 192.168.8.1/24 dev eth0",
        ):
            ip(host, command)
        yield host


def ip(host: Host, command: str) -> str:
    return host.run(["ip", *command.split()]).stdout


def announced(host: Host, *seeds: str) -> str:
    return host.run([sys.executable, "-c", ANNOUNCED, *seeds]).stdout.strip()


def backup_link(host: Host) -> None:
    """Give the host a second link that works."""
    ip(host, "link add wwan0 type veth peer name modem")
    ip(host, "addr add 10.64.10.5/30 dev wwan0")
    ip(host, "link set wwan0 up")
    ip(host, "link set modem up")


def test_a_link_without_a_carrier_is_not_announced(host: Host) -> None:
    assert announced(host) == "192.168.8.1"


def test_the_better_metric_decides_between_two_default_routes(host: Host) -> None:
    backup_link(host)
    ip(host, "route add default via 192.168.8.254 dev eth0 metric 100")
    ip(host, "route add default via 10.64.10.6 dev wwan0 metric 700")
    assert announced(host) == "192.168.8.1"
    ip(host, "route add default via 10.64.10.6 dev wwan0 metric 50")
    assert announced(host) == "10.64.10.5"


def test_the_way_to_a_seed_decides_before_the_default_route(host: Host) -> None:
    backup_link(host)
    ip(host, "route add default via 10.64.10.6 dev wwan0")
    assert announced(host, "192.168.8.2") == "192.168.8.1"
    assert announced(host, "192.168.8.1") == "10.64.10.5", "the way to itself says nothing"


def test_the_lasting_ipv6_address_is_announced_and_the_temporary_one_is_not(host: Host) -> None:
    host.run(["sysctl", "-qw", "net.ipv6.conf.eth0.use_tempaddr=2", "net.ipv6.conf.eth0.accept_dad=0"])
    ip(host, "-6 addr add 2a02:8071:5::10/64 dev eth0 mngtmpaddr valid_lft 86400 preferred_lft 43200")
    ip(host, "-6 route add default via fe80::1 dev eth0")
    wait_until(lambda: "temporary" in ip(host, "-6 addr show dev eth0"), what="a temporary address")
    assert announced(host) == "2a02:8071:5::10"
    ip(host, "-6 addr change 2a02:8071:5::10/64 dev eth0 valid_lft 86400 preferred_lft 0")
    ip(host, "-6 addr add 2a02:8071:5::20/64 dev eth0 nodad")
    assert announced(host) == "2a02:8071:5::20", "the former one is deprecated"


def test_an_address_under_duplicate_detection_is_not_announced(host: Host) -> None:
    host.run(["sysctl", "-qw", "net.ipv6.conf.eth0.dad_transmits=100", "net.ipv6.conf.eth0.accept_dad=1"])
    ip(host, "-6 addr add 2a02:8071:5::10/64 dev eth0")
    ip(host, "-6 route add default via fe80::1 dev eth0")
    assert "tentative" in ip(host, "-6 addr show dev eth0")
    assert announced(host) == "192.168.8.1"
