"""What a node carries of the cluster's traffic: allowed IPs, routes, sources and what is never carried."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_agent.mesh.carrying import NETWORK_OVERLAP, OwnTraffic, loose_links
from wesher_agent.mesh.desired import Desired, desired
from wesher_agent.mesh.device import CarriedRoute, Carrying, DirectRule
from wesher_agent.mesh.host import HostAddress, HostNetwork
from wesher_agent.mesh.identity import Rank, Verdict
from wesher_agent.mesh.problem import Problem
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_common.certificate import Authority, Refusal
from wesher_common.mesh_document import TrustedAuthority
from wesher_common.overlay import IPNetwork, candidate_address
from wesher_common.seeds import parse_seed
from wesher_common.traffic import DirectPort, TrafficSettings
from wesher_testing.virtual.members import OVERLAY, local_peer, meta, private_key, remembered

AUTHORITY, FOREIGN = (Authority(bytes([number]) * 32) for number in (1, 2))
SERIAL = 1_790_000_000_000
ALL = TrafficSettings(nodes="All", pods="All", node_cidrs=(ip_network("192.0.2.0/24"),))
OTHER_LOCATIONS = replace(ALL, nodes="OtherLocations", pods="OtherLocations")
OWN = ("192.0.2.100/32", "10.244.0.0/24")
WEST = TrustedAuthority(
    cluster_name="west", key=FOREIGN.key, cidrs=(ip_network("10.189.0.0/25"), ip_network("10.60.0.0/16"))
)


def nets(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(map(ip_network, texts))


def node(
    name: str, *networks: str, by: Authority = AUTHORITY, serial: int = SERIAL, location: str = ""
) -> RosterMember:
    """Return a certified member that lists some networks."""
    announced = meta(name, networks=nets(*networks), location=location)
    subject = announced.subject(name)
    assert subject is not None
    member = remembered(name, announced=replace(announced, certificate=by.issue(subject, serial=serial)))
    rank = Rank.OWN if by is AUTHORITY else Rank.TRUSTED
    return replace(member, verdict=Verdict(rank, serial, None))


def own(*networks: str, settings: TrafficSettings = ALL, **changes: Any) -> OwnTraffic:
    """Return what this node brings, whose networks the others know."""
    fields: dict[str, Any] = {
        "settings": settings,
        "networks": nets(*networks),
        "known": frozenset(nets(*networks)),
        "present": frozenset({ip_address("192.0.2.100")}),
        "underlay": frozenset({ip_address("192.0.2.100"), ip_address("192.0.2.1"), ip_address("192.0.2.53")}),
        "trusted": (WEST,),
        "loose_links": ("eth0",),
    }
    return OwnTraffic(**{**fields, **changes})


def wanted(traffic: OwnTraffic | None, *members: RosterMember, **changes: Any) -> Desired:
    return desired(local_peer(in_kubernetes=True, traffic=traffic, **changes), members)


def accepted(wish: Desired) -> dict[str, tuple[str, ...]]:
    """Return the allowed IPs of each member beside its overlay address."""
    networks = {peer.public_key: peer.allowed_ips for peer in wish.device.peers}
    return {
        name: tuple(str(net) for net in networks[key] if net.network_address != address)
        for name, (key, address) in wish.tunnels.items()
    }


def overlaps(wish: Desired) -> list[Problem]:
    return [problem for problem in wish.problems if problem.reason == NETWORK_OVERLAP]


def carrying(wish: Desired) -> Carrying:
    assert wish.device.carrying is not None
    return wish.device.carrying


def routed(wish: Desired) -> dict[str, str]:
    """Return the source of each carried route."""
    return {str(route.network): str(route.source) for route in carrying(wish).routes}


def test_networks_of_a_certified_node_are_accepted_and_routed() -> None:
    wish = wanted(own(*OWN), node("b", "192.0.2.2/32", "10.244.1.0/24"))
    assert accepted(wish) == {"b": ("10.244.1.0/24", "192.0.2.2/32")}
    assert carrying(wish) == Carrying(
        mark=0x80,
        table=1870,
        priority=1870,
        routes=(
            CarriedRoute(ip_network("10.244.1.0/24"), ip_address("192.0.2.100")),
            CarriedRoute(ip_network("192.0.2.2/32"), ip_address("192.0.2.100")),
        ),
        sources=(ip_network(candidate_address("me", OVERLAY)), *nets("10.244.0.0/24", "192.0.2.100/32")),
        loose_links=("eth0",),
    )
    assert wish.problems == ()
    (peer,) = wish.device.peers
    assert wish.device.routes == (ip_network(candidate_address("b", OVERLAY)),)
    assert ip_network(candidate_address("b", OVERLAY)) in peer.allowed_ips


def test_allowed_ips_are_sorted() -> None:
    member = node("b", "10.244.1.0/24", "192.0.2.2/32", "2001:db8::2/128")
    (peer,) = wanted(own(), member).device.peers
    assert [str(network) for network in peer.allowed_ips] == [
        str(ip_network(candidate_address("b", OVERLAY))),
        "10.244.1.0/24",
        "192.0.2.2/32",
        "2001:db8::2/128",
    ]


@pytest.mark.parametrize(
    "traffic",
    [
        own(*OWN, settings=TrafficSettings()),
        own(*OWN, known=frozenset()),
        own(),
    ],
    ids=["off", "not known to others", "not certified"],
)
def test_a_node_that_does_not_send_yet_or_any_more_accepts(traffic: OwnTraffic) -> None:
    wish = wanted(traffic, node("b", "192.0.2.2/32"))
    assert accepted(wish) == {"b": ("192.0.2.2/32",)}
    assert carrying(wish) == Carrying(mark=0x80, table=1870, priority=1870, loose_links=("eth0",))


def test_a_node_accepts_as_soon_as_the_settings_are_on() -> None:
    assert carrying(wanted(own(), remembered("b"))).loose_links == ("eth0",)


def test_nothing_is_carried_while_it_is_off_and_no_certificate_lists_a_network() -> None:
    assert wanted(own(settings=TrafficSettings()), node("b")).device.carrying is None


def test_a_machine_outside_kubernetes_carries_nothing() -> None:
    wish = wanted(None, node("b", "192.0.2.2/32"))
    assert (accepted(wish), wish.device.carrying) == ({"b": ()}, None)


def test_a_member_without_a_certificate_carries_nothing() -> None:
    thief = remembered("b", announced=meta("b", networks=nets("192.0.2.2/32")))
    for refusal in (Refusal.UNCERTIFIED, Refusal.BAD_SIGNATURE):
        wish = wanted(own(*OWN), replace(thief, verdict=Verdict(refusal=refusal)))
        assert [net for each in accepted(wish).values() for net in each] == []
        assert carrying(wish).routes == ()


def test_a_member_that_failed_keeps_its_networks() -> None:
    gone = replace(node("b", "192.0.2.2/32"), state=MemberState.FAILED)
    assert routed(wanted(own(*OWN), gone)) == {"192.0.2.2/32": "192.0.2.100"}


@pytest.mark.parametrize(
    ("nodes", "pods", "expected"),
    [
        ("All", "All", {"192.0.2.2/32", "10.244.2.0/24", "192.0.2.3/32", "10.244.3.0/24", "10.60.1.0/24"}),
        ("All", "OtherLocations", {"192.0.2.2/32", "192.0.2.3/32", "10.244.3.0/24", "10.60.1.0/24"}),
        ("All", "OtherClusters", {"192.0.2.2/32", "192.0.2.3/32", "10.60.1.0/24"}),
        ("All", "None", {"192.0.2.2/32", "192.0.2.3/32"}),
        ("OtherLocations", "None", {"192.0.2.3/32"}),
        ("None", "OtherClusters", {"10.60.1.0/24"}),
    ],
)
def test_settings_and_locations_decide_what_is_routed(nodes: Any, pods: Any, expected: set[str]) -> None:
    settings = replace(ALL, nodes=nodes, pods=pods)
    wish = wanted(
        own(*OWN, settings=settings),
        node("near", "192.0.2.2/32", "10.244.2.0/24", location="berlin"),
        node("far", "192.0.2.3/32", "10.244.3.0/24", location="paris"),
        _of_west("there", "10.60.1.0/24", "192.0.2.77/32"),
        location="berlin",
    )
    assert routed(wish).keys() == expected


@pytest.mark.parametrize(("here", "there"), [("", "paris"), ("berlin", ""), ("", "")])
def test_a_location_that_is_not_known_is_no_other_location(here: str, there: str) -> None:
    wish = wanted(
        own(*OWN, settings=OTHER_LOCATIONS), node("b", "192.0.2.2/32", location=there), location=here
    )
    assert carrying(wish).routes == ()
    assert carrying(wish).sources == ()


def test_routes_to_another_cluster_have_the_overlay_address_as_source() -> None:
    wish = wanted(own(*OWN), _of_west("b.west", "10.60.1.0/24"))
    assert routed(wish) == {"10.60.1.0/24": str(candidate_address("me", OVERLAY))}


def test_another_cluster_brings_only_pod_networks_inside_its_cidrs() -> None:
    member = _of_west("b.west", "10.60.1.0/24", "10.60.0.9/32", "10.61.0.0/24", "192.0.2.9/32")
    wish = wanted(own(*OWN), member)
    assert accepted(wish) == {"b.west": ("10.60.1.0/24",)}
    # What it carries among its own nodes is no problem here.
    assert wish.problems == ()


def test_another_cluster_takes_nothing_from_this_one_whatever_its_certificates_say() -> None:
    own_node = node("b", "10.60.1.0/24")
    foreign = _of_west("a.west", "10.60.0.0/23", serial=SERIAL + 1)
    wish = wanted(own(*OWN), foreign, own_node)
    assert accepted(wish) == {"b": ("10.60.1.0/24",), "a.west": ()}
    assert [problem.member for problem in overlaps(wish)] == ["a.west"]


def test_of_two_networks_that_overlap_the_newer_certificate_keeps_its_own() -> None:
    former = node("a", "10.244.1.0/24", "192.0.2.2/32")
    newer = node("b", "10.244.1.128/25", serial=SERIAL + 1)
    for members in ((former, newer), (newer, former)):
        wish = wanted(own(*OWN), *members)
        assert accepted(wish) == {"a": ("192.0.2.2/32",), "b": ("10.244.1.128/25",)}
        (problem,) = overlaps(wish)
        assert problem.member == "a"
        assert "10.244.1.0/24 are not carried: it overlaps 10.244.1.128/25 of b" in problem.message


@pytest.mark.parametrize(
    ("network", "holder"),
    [
        ("10.189.0.7/32", "10.189.0.0/24, the overlay"),
        ("10.189.0.0/16", "10.189.0.0/24, the overlay"),
        ("192.0.2.100/32", "192.0.2.100/32, a certified network of this node"),
        ("10.244.0.0/16", "10.244.0.0/24, a certified network of this node"),
        ("198.51.100.0/24", "198.51.100.7/32, an address of this host"),
    ],
)
def test_a_network_that_this_node_needs_itself_is_never_used(network: str, holder: str) -> None:
    present = frozenset({ip_address("192.0.2.100"), ip_address("198.51.100.7")})
    wish = wanted(own(*OWN, present=present), node("b", network, "192.0.2.2/32"))
    assert accepted(wish) == {"b": ("192.0.2.2/32",)}
    (problem,) = wish.problems
    assert problem.message.endswith(f" {network} are not carried: it overlaps {holder}")


@pytest.mark.parametrize(
    ("network", "needed"), [("192.0.2.1/32", "192.0.2.1/32"), ("192.0.2.48/29", "192.0.2.53/32")]
)
def test_a_gateway_or_nameserver_is_accepted_and_not_routed(network: str, needed: str) -> None:
    """The member that is one does not know it, and sends its packets through the tunnel."""
    wish = wanted(own(*OWN), node("b", network, "192.0.2.2/32"))
    assert set(accepted(wish)["b"]) == {network, "192.0.2.2/32"}
    assert routed(wish).keys() == {"192.0.2.2/32"}
    (problem,) = wish.problems
    assert problem.message.endswith(
        f" {network} are not carried: it overlaps {needed}, a gateway or nameserver of this host"
    )


def test_a_gateway_to_which_nothing_is_to_be_carried_is_no_problem() -> None:
    gateway = node("b", "192.0.2.1/32", location="here")
    wish = wanted(own(*OWN, settings=OTHER_LOCATIONS), gateway, location="here")
    assert accepted(wish) == {"b": ("192.0.2.1/32",)}
    assert wish.problems == ()


def test_an_address_that_is_certified_and_missing_is_no_source() -> None:
    wish = wanted(own("192.0.2.99/32", "10.244.0.0/24"), node("b", "192.0.2.2/32"))
    overlay_address = str(candidate_address("me", OVERLAY))
    assert routed(wish) == {"192.0.2.2/32": overlay_address}
    assert set(map(str, carrying(wish).sources)) == {f"{overlay_address}/32", "10.244.0.0/24"}


def test_an_address_that_others_do_not_know_yet_is_no_source() -> None:
    wish = wanted(own(*OWN, known=frozenset(nets("10.244.0.0/24"))), node("b", "192.0.2.2/32"))
    assert ip_network("192.0.2.100/32") not in carrying(wish).sources
    assert ip_network("10.244.0.0/24") in carrying(wish).sources


def test_a_family_without_a_source_is_not_routed() -> None:
    """The kernel would take an address that the peer does not accept."""
    member = node("b", "192.0.2.2/32", "2001:db8::2/128")
    assert routed(wanted(own(*OWN), member)).keys() == {"192.0.2.2/32"}
    both = own(
        *OWN, "2001:db8::100/128", present=frozenset(map(ip_address, ("192.0.2.100", "2001:db8::100")))
    )
    assert routed(wanted(both, member))["2001:db8::2/128"] == "2001:db8::100"


def test_the_api_server_is_reached_directly_in_both_directions() -> None:
    servers = tuple(parse_seed(text, field="f") for text in ("192.0.2.100:6443", "192.0.2.2:6443"))
    wish = wanted(own(*OWN, settings=replace(ALL, api_servers=servers)), node("b", "192.0.2.2/32"))
    here, there = nets("192.0.2.100/32", "192.0.2.2/32")
    assert set(carrying(wish).direct) == {
        DirectRule("tcp", destinations=here, destination_port=6443),
        DirectRule("tcp", destinations=there, destination_port=6443),
        DirectRule("tcp", sources=here, source_port=6443),
    }


def test_direct_ports_are_those_between_nodes_and_not_of_pods() -> None:
    cidrs = nets("192.0.2.0/24", "2001:db8::/64")
    settings = replace(ALL, node_cidrs=cidrs, direct=(DirectPort("tcp", 2379),))
    wish = wanted(own(*OWN, settings=settings), node("b", "192.0.2.2/32"))
    rules = carrying(wish).direct
    assert {(str(rule.sources), str(rule.destinations)) for rule in rules} == {
        ("192.0.2.100/32", "192.0.2.0/24"),
        ("0.0.0.0/32", "192.0.2.0/24"),
        ("::/128", "2001:db8::/64"),
    }
    ports = {(rule.transport, rule.source_port, rule.destination_port) for rule in rules}
    assert ports == {("tcp", 2379, None), ("tcp", None, 2379)}
    assert len(rules) == 6


def test_nothing_is_direct_where_nothing_is_routed() -> None:
    settings = replace(
        ALL, direct=(DirectPort("tcp", 2379),), api_servers=(parse_seed("192.0.2.2:6443", field="f"),)
    )
    assert carrying(wanted(own(*OWN, settings=settings), node("b"))).direct == ()


def test_loose_links_are_those_on_which_carried_packets_arrive() -> None:
    def entry(address: str, link: str, *, default: bool = False) -> HostAddress:
        return HostAddress(ip_address(address), 24, link, link_up=True, has_default_route=default)

    host = HostNetwork(
        (
            entry("127.0.0.1", "lo"),
            entry("198.51.100.9", "lo"),
            entry("192.0.2.100", "eth0", default=True),
            entry("203.0.113.5", "eth1"),
            entry("203.0.113.6", "eth2"),
            entry("172.17.0.1", "docker0"),
            entry("10.189.0.5", "wgoverlay"),
        ),
        frozenset(),
        frozenset(),
    )
    reached = map(ip_address, ("203.0.113.5", "198.51.100.9", "10.189.0.5", "127.0.0.1"))
    assert loose_links(host, reached, own_link="wgoverlay") == ("eth0", "eth1")


def test_another_mark_table_and_priority() -> None:
    settings = replace(ALL, mark=0x100, table=300, rule_priority=500)
    carried = carrying(wanted(own(*OWN, settings=settings), node("b", "192.0.2.2/32")))
    assert (carried.mark, carried.table, carried.priority) == (0x100, 300, 500)


def _of_west(name: str, *networks: str, serial: int = SERIAL) -> RosterMember:
    return node(name, *networks, by=FOREIGN, serial=serial)


def test_the_key_of_a_peer_stays_beside_its_networks() -> None:
    (peer,) = wanted(own(*OWN), node("b", "192.0.2.2/32")).device.peers
    assert peer.public_key == private_key("b").public
