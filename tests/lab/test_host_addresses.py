"""What the kernel says of a host's addresses, and which one is announced for it."""

from __future__ import annotations

import json
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

GATEWAYS = """
import sys
from ipaddress import ip_address
from wesher_agent.netlink.host import look_at_host

print(*sorted(map(str, look_at_host(endpoints=map(ip_address, sys.argv[1:])).gateways)))
"""
LINKS = """
import json
from wesher_agent.netlink.host import look_at_host

print(json.dumps({e.link: [e.link_up, e.has_default_route] for e in look_at_host().addresses}))
"""
ON_TUNNELS = """
from wesher_agent.netlink.host import look_at_host

print(*(e.link for e in look_at_host().addresses if e.on_tunnel))
"""
OUR_ROUTES = """
import json
import socket
import sys
from wesher_agent.netlink.messages import AF_INET
from wesher_agent.netlink.netlink_socket import NETLINK_ROUTE, NetlinkSocket
from wesher_agent.netlink.route_messages import RTM_GETROUTE, pack_list_into, pack_list_unreachable

with NetlinkSocket(NETLINK_ROUTE) as kernel:
    into = pack_list_into(socket.if_nametoindex(sys.argv[1]), AF_INET)
    unreachable = pack_list_unreachable(AF_INET)
    print(json.dumps([len(kernel.dump(RTM_GETROUTE, body)) for body in (into, unreachable)]))
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


def gateways(host: Host, *endpoints: str) -> set[str]:
    return set(host.run([sys.executable, "-c", GATEWAYS, *endpoints]).stdout.split())


def links(host: Host) -> dict[str, list[bool]]:
    """Return for each link with an address whether it is up and whether it has a default route."""
    found: dict[str, list[bool]] = json.loads(host.run([sys.executable, "-c", LINKS]).stdout)
    return found


def backup_link(host: Host) -> None:
    """Give the host a second link that works."""
    ip(host, "link add wwan0 type veth peer name modem")
    ip(host, "addr add 10.64.10.5/30 dev wwan0")
    ip(host, "link set wwan0 up")
    ip(host, "link set modem up")


def test_a_tunnels_address_is_told_from_others(host: Host) -> None:
    """WireGuard's devices, in the kernel and in user space, have the flags of this one."""
    for command in ("tuntap add tun0 mode tun", "addr add 10.141.246.84/32 dev tun0", "link set tun0 up"):
        ip(host, command)
    assert host.run([sys.executable, "-c", ON_TUNNELS]).stdout.split() == ["tun0"]


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


def test_the_gateways_that_count_are_those_by_which_something_is_reached(host: Host) -> None:
    backup_link(host)
    ip(host, "route add default via 192.168.8.254 dev eth0 metric 100")
    ip(host, "route add default via 10.64.10.6 dev wwan0 metric 700")
    ip(host, "-6 route add default via fe80::1 dev eth0")
    ip(host, "route add 198.18.1.0/24 via 192.168.8.11")
    ip(host, "route add 198.18.2.0/24 nexthop via 192.168.8.21 nexthop via 192.168.8.22")
    ip(host, "route add 198.18.3.0/24 via inet6 fe80::2 dev eth0")
    ip(host, "route add 198.18.4.0/24 via 192.168.8.44")
    by_default = {"192.168.8.254", "10.64.10.6", "fe80::1"}
    assert gateways(host) == by_default
    assert gateways(host, "198.18.1.1") == by_default | {"192.168.8.11"}
    assert gateways(host, "198.18.2.1") == by_default | {"192.168.8.21", "192.168.8.22"}
    assert gateways(host, "198.18.3.1", "192.168.8.9", "203.0.113.9") == by_default | {"fe80::2"}
    (host.root / "etc/resolv.conf").write_text("nameserver 198.18.4.1\n")
    assert gateways(host) == by_default | {"192.168.8.44"}


def test_each_link_with_a_default_route_is_known_whichever_is_the_best(host: Host) -> None:
    backup_link(host)
    found = links(host)
    assert (found["eth0"], found["wwan0"]) == ([True, False], [True, False])
    ip(host, "route add default via 192.168.8.254 dev eth0 metric 100")
    ip(host, "route add default via 10.64.10.6 dev wwan0 metric 700")
    ip(host, "route add 0.0.0.0/0 via 192.168.122.254 dev virbr0 table 100")
    found = links(host)
    assert (found["eth0"], found["wwan0"]) == ([True, True], [True, True])
    assert found["virbr0"] == [False, False], "packets do not meet the route in that table"


def test_a_bridge_counts_as_up_once_it_has_a_port(host: Host) -> None:
    backup_link(host)
    assert not links(host)["virbr0"][0]
    ip(host, "link set modem master virbr0")
    wait_until(lambda: links(host)["virbr0"][0], what="the bridge carries")


def test_of_a_large_routing_table_the_kernel_lists_our_routes_only(host: Host) -> None:
    backup_link(host)
    ip(host, "route add 10.1.1.2/32 dev wwan0 proto 87")
    ip(host, "route add unreachable 10.1.0.0/16 proto 87 metric 1000000")
    ip(host, "route add unreachable 10.2.0.0/16")
    for number in range(50):
        ip(host, f"route add 198.18.{number}.0/24 via 192.168.8.254")
    counts = json.loads(host.run([sys.executable, "-c", OUR_ROUTES, "wwan0"]).stdout)
    # The connected route of its own network leads into the link too.
    assert counts == [2, 1]
