"""What ``kubectl wesher doctor`` finds about the cluster's traffic that a mesh is to carry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from wesher_operator.kubectl import traffic_checks
from wesher_operator.kubectl.traffic_checks import NetworkPlugin

NOW = datetime(2030, 5, 1, 12, 0, 0, tzinfo=UTC)


def condition(
    status: str, reason: str, message: str = "", since: str = "2030-05-01T11:59:50Z"
) -> dict[str, Any]:
    return {
        "type": "TrafficCarried",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    }


CARRIED = condition("True", "Carried")


def a_mesh(*conditions: dict[str, Any], **traffic: Any) -> dict[str, Any]:
    settings = {"nodes": "All", "pods": "All", "nodeCIDRs": ["192.168.0.0/16", "fd00:7::/64"], **traffic}
    return {
        "metadata": {"name": "demo"},
        "spec": {"overlayCIDR": "10.189.0.0/16", "traffic": settings},
        "status": {"conditions": list(conditions)},
    }


def a_member(name: str, *routes: str, location: str = "", mtu: int = 1420, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": f"demo.{name}"},
        "spec": {"nodeName": name, "location": location, "routes": list(routes)},
        "status": {"mtu": mtu, "conditions": [CARRIED], **status},
    }


def a_node(name: str, *addresses: str, pods: tuple[str, ...] = (), **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"podCIDRs": list(pods)} if pods else {},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": name},
                *({"type": "InternalIP", "address": each} for each in addresses),
            ]
        },
    }


def test_a_mesh_that_carries_only_to_overlay_addresses_has_nothing_wrong() -> None:
    for mesh in (a_mesh(nodes="None", pods="None"), {**a_mesh(), "spec": {"overlayCIDR": "10.189.0.0/16"}}):
        finding = traffic_checks.traffic(mesh, [a_member("a")], NOW)
        assert (finding.verdict, finding.says) == ("ok", "to overlay addresses only")


def test_traffic_that_every_node_carries() -> None:
    finding = traffic_checks.traffic(a_mesh(CARRIED), [a_member("a"), a_member("b")], NOW)
    assert (finding.verdict, finding.says) == ("ok", "nodes All, pods All: carried by 2 of 2 nodes")


def test_a_refusal_of_the_mesh_or_of_a_node_is_named_with_its_reason() -> None:
    refused = condition("False", "AddressOverlap", "a and b both have 192.168.7.1")
    of_mesh = traffic_checks.traffic(a_mesh(refused), [a_member("a")], NOW)
    assert of_mesh.verdict == "FAIL"
    assert of_mesh.says.startswith("a and b both have 192.168.7.1; nodes All")
    assert of_mesh.do == "see AddressOverlap in docs/troubleshooting.md"
    cut = a_member("b", conditions=[condition("False", "RuleConflict", "rule 1870 is in use")])
    of_node = traffic_checks.traffic(a_mesh(CARRIED), [a_member("a"), cut], NOW)
    assert of_node.verdict == "FAIL"
    assert of_node.says.startswith("b: rule 1870 is in use; nodes All, pods All: carried by 1 of 2 nodes")
    assert of_node.do == "see RuleConflict in docs/troubleshooting.md"


@pytest.mark.parametrize(
    ("since", "verdict"), [("2030-05-01T11:59:00Z", "ok"), ("2030-05-01T11:50:00Z", "FAIL")]
)
def test_a_mesh_may_wait_for_its_agents_but_not_long(since: str, verdict: str) -> None:
    waits = condition("Unknown", "WaitingForAgents", "waiting for b", since)
    finding = traffic_checks.traffic(a_mesh(waits), [a_member("a"), a_member("b", conditions=[])], NOW)
    assert finding.verdict == verdict
    assert finding.says.endswith("carried by 1 of 2 nodes; waiting for b")


def test_traffic_that_no_operator_has_processed_is_not_judged() -> None:
    assert traffic_checks.traffic(a_mesh(), [a_member("a")], NOW).verdict == "?"


def test_other_locations_need_two_and_each_node_needs_one() -> None:
    mesh = a_mesh(nodes="OtherLocations")
    east, west = a_member("a", location="east"), a_member("b", location="west")
    two = traffic_checks.locations(mesh, [east, west])
    one = traffic_checks.locations(mesh, [east, {**east}])
    without = traffic_checks.locations(mesh, [east, west, a_member("c")])
    assert two is not None
    assert (two.verdict, two.says) == ("ok", "2: east; west")
    assert one is not None
    assert (one.verdict, one.says) == (
        "FAIL",
        "all nodes are in east, so no traffic goes to another location",
    )
    assert "spec.addresses.locationLabel" in one.do
    assert without is not None
    assert (without.verdict, without.says) == (
        "FAIL",
        "without a location, so OtherLocations does not include them: c",
    )
    assert traffic_checks.locations(a_mesh(), [east]) is None


def test_addresses_outside_the_allowed_networks_and_those_not_certified_are_named() -> None:
    certified = a_member("a", "192.168.7.1/32", "fd00:7::1/128")
    node = a_node("a", "10.189.0.1", "192.168.7.1", "192.168.9.9", "fd00:7::1")
    found = traffic_checks.addresses(a_mesh(), [certified], [node])
    assert found is not None
    assert found.verdict == "ok", "an overlay address and a second InternalIP do not count"
    outside = traffic_checks.addresses(a_mesh(), [certified, a_member("b")], [node, a_node("b", "10.2.0.5")])
    assert outside is not None
    assert (outside.verdict, outside.says) == ("FAIL", "outside spec.traffic.nodeCIDRs: b 10.2.0.5")
    assert "nodeCIDRs" in outside.do
    without = traffic_checks.addresses(a_mesh(), [certified], [a_node("a", "10.189.0.1")])
    assert without is not None
    assert without.verdict == "FAIL"
    assert without.says.endswith("nodeCIDRs: a without an InternalIP of their IP version")
    only_ipv4 = a_mesh(nodeCIDRs=["192.168.0.0/16"])
    of_ipv4 = traffic_checks.addresses(only_ipv4, [a_member("a", "192.168.7.1/32")], [node])
    assert of_ipv4 is not None
    assert of_ipv4.verdict == "ok", "only the IP versions of nodeCIDRs count"
    late = traffic_checks.addresses(a_mesh(), [a_member("a", "192.168.7.1/32")], [node])
    assert late is not None
    assert (late.verdict, late.says) == ("FAIL", "not in the node's certificate: a fd00:7::1")
    assert traffic_checks.addresses(a_mesh(nodes="None"), [certified], [node]) is None


def test_pods_need_the_networks_of_their_nodes() -> None:
    member, node = a_member("a", "172.30.1.0/24"), a_node("a", pods=("172.30.1.0/24",))
    fine = traffic_checks.pod_networks(a_mesh(), [member], [node])
    assert fine is not None
    assert fine.verdict == "ok"
    without = traffic_checks.pod_networks(a_mesh(), [member], [a_node("a")])
    assert without is not None
    assert (without.verdict, without.says) == ("FAIL", "no spec.podCIDRs: a")
    changed = traffic_checks.pod_networks(a_mesh(), [member], [a_node("a", pods=("172.30.9.0/24",))])
    assert changed is not None
    assert (changed.verdict, changed.says) == ("FAIL", "not in the node's certificate: a 172.30.9.0/24")
    assert traffic_checks.pod_networks(a_mesh(pods="None"), [member], [node]) is None


SLICE = {"endpoints": [{"addresses": ["192.168.7.1"]}]}


def test_an_api_server_behind_tunnels_needs_another_way_for_agents() -> None:
    through = a_mesh(apiServer="Mesh")
    found = traffic_checks.api_server(through, [SLICE], dialled="")
    assert found is not None
    assert found.verdict == "FAIL"
    assert found.says.startswith("packets to 192.168.7.1 go through the tunnels")
    assert "agent.apiServer" in found.do
    dialled = traffic_checks.api_server(through, [SLICE], dialled="203.0.113.5:6443")
    assert dialled is not None
    assert dialled.verdict == "ok"
    outside = traffic_checks.api_server(
        through, [{"endpoints": [{"addresses": ["203.0.113.5"]}]}], dialled=""
    )
    assert outside is not None
    assert outside.verdict == "ok"
    assert traffic_checks.api_server(a_mesh(apiServer="Direct"), [SLICE], dialled="") is None


@pytest.mark.parametrize(
    ("config", "verdict"),
    [
        ("metricsBindAddress: ''\nmode: ipvs\n", "FAIL"),
        ('mode: "ipvs"', "FAIL"),
        ("mode: nftables\nipvs:\n  scheduler: ''\n", "ok"),
        ('mode: ""\n', "ok"),
    ],
)
def test_kube_proxy_in_ipvs_mode_is_not_tested(config: str, verdict: str) -> None:
    found = traffic_checks.kube_proxy(a_mesh(), config)
    assert found is not None
    assert found.verdict == verdict
    assert traffic_checks.kube_proxy(a_mesh(), None) is None


FLANNEL = {"flannel.alpha.coreos.com/backend-type": "vxlan"}
CALICO = {"projectcalico.org/IPv4Address": "192.168.7.1/24"}


@pytest.mark.parametrize(
    ("annotations", "cilium", "plugin"),
    [
        ({}, None, None),
        (FLANNEL, None, NetworkPlugin("flannel", "VXLAN", 1450, tested=True)),
        (
            {"flannel.alpha.coreos.com/backend-type": "host-gw"},
            None,
            NetworkPlugin("flannel", "", 1450, tested=True),
        ),
        (
            {"flannel.alpha.coreos.com/backend-type": "wireguard"},
            None,
            NetworkPlugin("flannel", "wireguard", 1450, tested=False),
        ),
        (CALICO, None, NetworkPlugin("Calico", "", 1450, tested=False)),
        (
            {**CALICO, "projectcalico.org/IPv4IPIPTunnelAddr": "172.30.0.1"},
            None,
            NetworkPlugin("Calico", "IP in IP", 1450, tested=False),
        ),
        ({}, {"routing-mode": "tunnel"}, NetworkPlugin("Cilium", "VXLAN", None, tested=False)),
        (
            {},
            {"routing-mode": "tunnel", "tunnel-protocol": "geneve", "mtu": "1370"},
            NetworkPlugin("Cilium", "Geneve", 1370, tested=False),
        ),
        ({}, {"routing-mode": "native", "mtu": "0"}, NetworkPlugin("Cilium", "", None, tested=False)),
    ],
)
def test_a_network_plugin_is_recognized_by_what_it_leaves(
    annotations: dict[str, str], cilium: dict[str, str] | None, plugin: NetworkPlugin | None
) -> None:
    nodes = [a_node("a"), a_node("b", **annotations)]
    assert traffic_checks.recognized_plugin(nodes, cilium=cilium, mtu=1450) == plugin


def plugin_of(name: str, tunnel: str, mtu: int | None) -> NetworkPlugin:
    return NetworkPlugin(name, tunnel, mtu, tested=name == "flannel")


@pytest.mark.parametrize(
    ("pods", "plugin", "verdict", "says", "do"),
    [
        ("All", None, "ok", "neither flannel, Calico nor Cilium", ""),
        ("All", plugin_of("flannel", "VXLAN", None), "ok", "flannel (VXLAN)", ""),
        ("All", plugin_of("flannel", "", 1420), "ok", "flannel", ""),
        ("All", plugin_of("flannel", "", 1500), "ok", "pods send up to 1500 bytes, and 1420 fit", "to 1420"),
        ("All", plugin_of("Cilium", "VXLAN", None), "FAIL", "tunnels packets of pods before", "pods to None"),
        ("All", plugin_of("Calico", "", None), "ok", "Calico, not tested with carried traffic", ""),
        ("None", plugin_of("flannel", "", None), "ok", "the mesh does not carry them", ""),
        ("None", plugin_of("flannel", "VXLAN", None), "ok", "whose MTU is not configured", "flannel to 1370"),
        ("None", plugin_of("flannel", "VXLAN", 1370), "ok", "the mesh carries its tunnels", ""),
        ("None", plugin_of("flannel", "VXLAN", 1371), "FAIL", "1371 bytes, but 1370 fit", "flannel to 1370"),
        ("None", plugin_of("Calico", "IP in IP", 1480), "FAIL", "but 1400 fit", "Calico to 1400"),
        ("None", plugin_of("Cilium", "Geneve", 1500), "FAIL", "but 1370 fit", "Cilium to 1370"),
    ],
)
def test_a_network_plugin_that_does_not_fit_is_named_with_what_to_set(
    pods: str, plugin: NetworkPlugin | None, verdict: str, says: str, do: str
) -> None:
    members = [a_member("a", mtu=1440), a_member("b"), a_member("c", mtu=0)]
    found = traffic_checks.network_plugin(a_mesh(pods=pods), plugin, members)
    assert found.verdict == verdict
    assert says in found.says
    assert do in found.do
    assert bool(found.do) == bool(do)
