"""Which addresses and pod networks a node's certificate may list."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_common.traffic import TrafficSettings
from wesher_operator.reconcile.facts import MemberFacts, NodeFacts
from wesher_operator.reconcile.routes import (
    CONTROL_PLANE_LABEL,
    Routes,
    Surroundings,
    allowed_routes,
    held_networks,
)
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus

START = datetime(2026, 11, 22, 12, tzinfo=UTC)
AROUND = Surroundings(
    overlay=ip_network("10.189.0.0/16"),
    services=[ip_network("10.96.0.0/12")],
    api_servers={ip_address("192.0.2.250")},
    clusters={"west": [ip_network("10.50.0.0/16"), ip_network("192.0.2.64/30")]},
    seeds={ip_address("192.0.2.200")},
)
ALL = TrafficSettings(
    nodes="All", pods="All", node_cidrs=(ip_network("192.0.2.0/24"), ip_network("fd00:7::/64"))
)


def node(name: str, *addresses: str, pods: Iterable[str] = (), age: int = 0, **more: Any) -> NodeFacts:
    """Return a Node with InternalIPs, that many minutes older than others."""
    return NodeFacts(
        name=name,
        labels=more.pop("labels", {}),
        addresses=tuple(("InternalIP", ip_address(each)) for each in addresses),
        pod_cidrs=tuple(map(ip_network, pods)),
        taints=(),
        ready=True,
        created_at=START - timedelta(minutes=age),
        **more,
    )


def member(name: str, *routes: str, certificate: str = "A" * 103 + "=") -> MemberFacts:
    spec = {
        "meshRef": {"name": "demo", "uid": "uid"},
        "nodeName": name,
        "overlayIP": "10.189.0.1",
        "certificate": certificate,
        "routes": list(routes),
    }
    return MemberFacts(
        name=f"demo.{name}",
        uid="w",
        deleting=False,
        owner_uid="uid",
        label="demo",
        spec=WesherNodeSpec.model_validate(spec),
        address=ip_address("10.189.0.1"),
        status=WesherNodeStatus(),
    )


def allowed(
    *nodes: NodeFacts,
    others: Iterable[NodeFacts] = (),
    members: Iterable[MemberFacts] = (),
    settings: TrafficSettings = ALL,
    around: Surroundings = AROUND,
) -> Routes:
    by_node = {each.spec.node_name: each for each in members}
    return allowed_routes(settings, nodes, others, by_node, around)


def listed(routes: Routes, name: str) -> list[str]:
    return [str(network) for network in routes.networks[name]]


def test_the_first_address_of_each_ip_version_and_every_pod_network_are_listed() -> None:
    found = allowed(
        node("a", "fd00:7::1", "192.0.2.9", "192.0.2.1", "fd00:7::2", pods=["fd00:9::/64", "10.244.1.0/24"])
    )
    assert listed(found, "a") == ["10.244.1.0/24", "192.0.2.9/32", "fd00:9::/64", "fd00:7::1/128"]
    assert found.refused == []


@pytest.mark.parametrize(
    ("nodes", "pods", "wanted"),
    [("All", "None", ["192.0.2.1/32"]), ("None", "OtherClusters", ["10.244.1.0/24"]), ("None", "None", [])],
)
def test_only_what_the_settings_carry_is_listed(nodes: Any, pods: Any, wanted: list[str]) -> None:
    found = allowed(
        node("a", "192.0.2.1", pods=["10.244.1.0/24"]), settings=replace(ALL, nodes=nodes, pods=pods)
    )
    assert (listed(found, "a"), found.refused) == (wanted, [])


@pytest.mark.parametrize(
    ("address", "reason", "rule"),
    [
        ("198.51.100.1", "AddressNotCertified", "outside spec.traffic.nodeCIDRs"),
        ("192.0.2.250", "AddressNotCertified", CONTROL_PLANE_LABEL),
        ("127.0.0.1", "AddressNotCertified", "cannot be reached from other machines"),
        ("192.0.2.65", "AddressOverlap", "192.0.2.64/30 of the trusted cluster west"),
        ("192.0.2.200", "AddressOverlap", "192.0.2.200 in spec.seedNodes"),
    ],
)
def test_an_address_that_a_kubelet_may_not_claim_is_refused_with_the_rule(
    address: str, reason: str, rule: str
) -> None:
    found = allowed(node("a", address, pods=["10.244.1.0/24"]))
    assert listed(found, "a") == ["10.244.1.0/24"]
    (refused,) = found.refused
    assert (refused.node, refused.reason) == ("a", reason)
    assert f"InternalIP {address} of Node a" in refused.message
    assert rule in refused.message


@pytest.mark.parametrize(
    ("network", "reason", "rule"),
    [
        ("10.189.7.0/24", "AddressOverlap", "spec.overlayCIDR 10.189.0.0/16"),
        ("10.96.7.0/24", "AddressOverlap", "the Service network 10.96.0.0/12"),
        ("10.50.7.0/24", "AddressOverlap", "10.50.0.0/16 of the trusted cluster west"),
        ("192.0.2.248/29", "AddressOverlap", "the API server's address 192.0.2.250"),
        ("0.0.0.0/0", "AddressNotCertified", "larger than /8"),
        ("::/0", "AddressNotCertified", "larger than /16"),
    ],
)
def test_a_pod_network_that_would_take_the_traffic_of_others_is_refused(
    network: str, reason: str, rule: str
) -> None:
    found = allowed(node("a", "192.0.2.1", pods=[network]))
    assert listed(found, "a") == ["192.0.2.1/32"]
    (refused,) = found.refused
    assert refused.reason == reason
    assert rule in refused.message


def test_a_control_plane_node_may_have_the_api_servers_address() -> None:
    settings = replace(ALL, pods="None")
    found = allowed(node("a", "192.0.2.250", labels={CONTROL_PLANE_LABEL: ""}), settings=settings)
    assert listed(found, "a") == ["192.0.2.250/32"]


def test_a_node_without_an_address_or_pod_network_to_carry_is_named() -> None:
    found = allowed(node("a"))
    assert [each.reason for each in found.refused] == ["AddressNotCertified"] * 2
    assert "nodeCIDRs" in found.refused[0].message
    assert "podCIDRs" in found.refused[1].message


def test_of_two_nodes_with_one_address_the_older_one_gets_it_and_the_message_names_both() -> None:
    old, young = (
        node("z", "192.0.2.1", pods=["10.244.1.0/24"], age=5),
        node("a", "192.0.2.1", pods=["10.244.2.0/24"]),
    )
    found = allowed(young, old)
    assert (listed(found, "z"), listed(found, "a")) == (["10.244.1.0/24", "192.0.2.1/32"], ["10.244.2.0/24"])
    (refused,) = found.refused
    assert refused.reason == "AddressOverlap"
    assert refused.message == "InternalIP 192.0.2.1 of Node a overlaps InternalIP 192.0.2.1 of Node z"


def test_of_two_nodes_with_one_address_the_certified_one_keeps_it() -> None:
    settings = replace(ALL, pods="None")
    old, young = node("z", "192.0.2.1", age=5), node("a", "192.0.2.1")
    found = allowed(young, old, members=[member("a", "192.0.2.1/32")], settings=settings)
    assert (listed(found, "z"), listed(found, "a")) == ([], ["192.0.2.1/32"])


def test_an_address_in_the_pod_network_of_another_node_is_refused_also_while_pods_are_not_carried() -> None:
    settings = replace(ALL, pods="None", node_cidrs=(ip_network("10.0.0.0/8"),))
    found = allowed(
        node("a", "10.244.2.7"), node("b", "10.1.0.2", pods=["10.244.2.0/24"], age=5), settings=settings
    )
    assert (listed(found, "a"), listed(found, "b")) == ([], ["10.1.0.2/32"])
    assert "pod network 10.244.2.0/24 of Node b" in found.refused[0].message


def test_a_pod_network_around_the_address_of_another_node_is_refused() -> None:
    found = allowed(
        node("a", "192.0.2.1", pods=["192.0.2.0/26"]), node("b", "192.0.2.2", pods=["10.244.2.0/24"], age=5)
    )
    assert listed(found, "a") == ["192.0.2.1/32"]
    assert "overlaps InternalIP 192.0.2.2 of Node b" in found.refused[0].message


def test_the_addresses_of_nodes_outside_the_mesh_and_those_that_others_dial_are_taken() -> None:
    settings = replace(ALL, pods="None")
    dialled = replace(node("c", "192.0.2.3", age=5), advertise_address=ip_address("192.0.2.2"))
    found = allowed(
        node("a", "192.0.2.1"),
        node("b", "192.0.2.2"),
        dialled,
        others=[node("d", "192.0.2.1", age=5)],
        settings=settings,
    )
    assert (listed(found, "a"), listed(found, "b"), listed(found, "c")) == ([], [], ["192.0.2.3/32"])
    assert "Node d" in found.refused[0].message
    assert "advertised address 192.0.2.2 of Node c" in found.refused[1].message


def test_routes_that_cannot_be_read_or_have_no_certificate_are_not_held() -> None:
    assert held_networks(member("a", "192.0.2.1/32")) == (ip_network("192.0.2.1/32"),)
    assert held_networks(member("a", "192.0.2.1/32", certificate="")) == ()
    assert held_networks(member("a", "nonsense")) == ()
    assert held_networks(None) == ()


def test_a_thousand_nodes_of_three_networks_take_no_second() -> None:
    """Comparing each with each would take minutes."""
    nodes = [
        node(
            f"n{i}",
            f"172.16.{i >> 8}.{i & 255}",
            f"fd00:7::{i + 1:x}",
            pods=[f"10.{i >> 8}.{i & 255}.0/24"],
        )
        for i in range(1000)
    ]
    settings = replace(ALL, node_cidrs=(ip_network("172.16.0.0/16"), ip_network("fd00:7::/64")))
    began = time.process_time()
    around = Surroundings(overlay=ip_network("100.64.0.0/16"))
    found = allowed(*nodes, settings=settings, around=around)
    assert time.process_time() - began < 1
    assert found.refused == []
    assert {len(networks) for networks in found.networks.values()} == {3}
