"""The operator switches carried traffic on and off in two steps, on a real API server."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from wesher_common.certificate import Subject, Trust, refusal
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.carrying_agents import (
    CIDRS,
    KEYS,
    TRAFFIC,
    Agents,
    all_routes,
    condition,
    edit,
    routes,
    switch_on,
    three_nodes,
    until,
    until_published,
    until_routes,
)
from wesher_testing.cluster.certified_agents import certificate, certify, document, identity, place
from wesher_testing.cluster.operator_process import NAMESPACE, SOON, eventually

Mesh = Callable[..., None]
Report = Callable[..., None]
REGION = "topology.kubernetes.io/region"

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def agents(api: ApiServer, report: Report) -> Agents:
    three_nodes(api)
    return Agents(api, report)


def test_certificates_list_networks_once_every_agent_accepts(
    api: ApiServer, mesh: Mesh, agents: Agents
) -> None:
    mesh(traffic=TRAFFIC)
    agents.start(*KEYS)
    until_published(api, is_on=True)
    agents.says("a", "Accepting")
    agents.says("b", "Accepting")
    found = until(api, "WaitingForAgents", "accept", ": c")
    assert found["status"] == "Unknown"
    assert [routes(api, name) for name in KEYS] == [[], [], []]

    agents.says("c", "Accepting")
    for name in KEYS:
        until_routes(api, name, *all_routes(name))
    until(api, "WaitingForAgents", "0 of 3")
    agents.says("a", "Carried", routed=4)
    until(api, "WaitingForAgents", "1 of 3", "b, c")
    agents.says("b", "Carried", routed=4)
    agents.says("c", "Carried", routed=4)
    assert until(api, "Carried")["status"] == "True"
    read = document(api)
    assert read is not None
    assert [str(network) for network in read.traffic.node_cidrs] == CIDRS
    (slices,) = api.get("endpointslices", "-n", "default")["items"]
    address = slices["endpoints"][0]["addresses"][0]
    assert [str(each) for each in read.traffic.api_servers] == [f"{address}:{slices['ports'][0]['port']}"]


def test_switching_off_ends_routing_before_accepting(api: ApiServer, mesh: Mesh, agents: Agents) -> None:
    switch_on(api, mesh, agents)
    edit(api, nodes="None", pods="None")
    until_published(api, is_on=False)
    agents.says("a")
    agents.says("b")
    agents.says("c", "Carried", routed=4)
    until(api, "WaitingForAgents", "switching off", ": c")
    assert [sorted(routes(api, name)) for name in KEYS] == [sorted(all_routes(name)) for name in KEYS]
    agents.says("c")
    for name in KEYS:
        until_routes(api, name)
    eventually(lambda: condition(api), within=SOON, until=lambda found: found == {})


def internal_ip(api: ApiServer, node: str, address: str) -> None:
    """Say of a Node that it has an address, as its kubelet does."""
    body = {"status": {"addresses": [{"type": "InternalIP", "address": address}]}}
    api.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps(body))


def test_a_kubelet_that_claims_what_is_not_its_nodes_gets_no_certificate_for_it(
    api: ApiServer, mesh: Mesh, agents: Agents
) -> None:
    (slices,) = api.get("endpointslices", "-n", "default")["items"]
    api_server = slices["endpoints"][0]["addresses"][0]
    service = api.get("service", "kubernetes", "-n", "default")["spec"]["clusterIP"]
    networks = [*CIDRS, "10.244.0.0/16", f"{api_server}/32", f"{service}/32"]
    switch_on(api, mesh, agents, nodeCIDRs=networks)
    for address, reason, *words in (
        ("192.168.7.2", "AddressOverlap", "overlaps InternalIP 192.168.7.2 of Node b"),
        (api_server, "AddressNotCertified", f"InternalIP {api_server} of Node a", "is the API server's"),
        (service, "AddressOverlap", f"InternalIP {service} of Node a", "the Service network"),
        ("10.244.2.9", "AddressOverlap", "overlaps pod network 10.244.2.0/24 of Node b"),
        ("198.51.100.1", "AddressNotCertified", "198.51.100.1 of Node a is outside spec.traffic.nodeCIDRs"),
    ):
        internal_ip(api, "a", address)
        until(api, reason, *words)
        assert routes(api, "a") == ["10.244.1.0/24"]
        assert sorted(routes(api, "b")) == sorted(all_routes("b"))
    internal_ip(api, "a", "192.168.7.50")
    until_routes(api, "a", "192.168.7.50/32", "10.244.1.0/24")
    agents.says("a", "Carried", routed=4)
    until(api, "Carried")


def test_an_address_outside_the_networks_of_nodes_is_not_certified(
    api: ApiServer, mesh: Mesh, agents: Agents
) -> None:
    switch_on(api, mesh, agents)
    edit(api, nodeCIDRs=["192.168.7.1/32", "192.168.7.2/32"])
    until(api, "AddressNotCertified", "InternalIP 192.168.7.3 of Node c is outside spec.traffic.nodeCIDRs")
    until_routes(api, "c", "10.244.3.0/24")
    edit(api, nodeCIDRs=CIDRS)
    until_routes(api, "c", *all_routes("c"))


def test_pods_with_addresses_from_elsewhere_keep_pod_networks_out_of_the_certificates(
    api: ApiServer, mesh: Mesh, agents: Agents
) -> None:
    api.agent_pod("other", "a", NAMESPACE)
    body = {"status": {"podIP": "172.16.9.9", "podIPs": [{"ip": "172.16.9.9"}]}}
    api.kubectl(
        *("patch", "pod", "agent-a", "-n", NAMESPACE, "--subresource=status", "--type=merge"),
        *("-p", json.dumps(body)),
    )
    mesh(traffic=TRAFFIC)
    agents.start(*KEYS)
    until_published(api, is_on=True)
    for name in KEYS:
        agents.says(name, "Accepting")
    for number, name in enumerate(KEYS, start=1):
        until_routes(api, name, f"192.168.7.{number}/32")
    until(api, "PodsOutsidePodCIDR", "172.16.9.9", "Node a", "10.244.1.0/24")


def test_a_second_mesh_that_wants_to_carry_is_told_which_one_does(
    api: ApiServer, mesh: Mesh, agents: Agents
) -> None:
    mesh(traffic=TRAFFIC)
    until_published(api, is_on=True)
    ports = {"wireguard": {"interface": "wgother", "port": 51900}, "gossip": {"port": 7999}}
    mesh("other", overlayCIDR="10.190.0.0/16", traffic=TRAFFIC, **ports)
    until(api, "Conflict", "meshes other and demo", mesh="other")
    read = eventually(lambda: document(api, "other"), within=SOON)
    assert read is not None
    assert not read.traffic.is_on


def test_a_label_gives_the_location_and_a_changed_label_another_certificate(
    api: ApiServer, mesh: Mesh, agents: Agents, report: Report
) -> None:
    api.kubectl("label", "node", "a", "b", f"{REGION}=east")
    api.kubectl("annotate", "node", "b", "wesher.dev/location=rack-7")
    mesh(clusterName="plain", addresses={"locationLabel": REGION})
    eventually(lambda: place(api, "c")["location"], within=SOON, until="plain".__eq__)
    assert (place(api, "a")["location"], place(api, "b")["location"]) == ("east", "rack-7")
    certify(api, report, a=KEYS["a"])
    former = certificate(api, "a")
    api.kubectl("label", "node", "a", f"{REGION}=west", "--overwrite")
    eventually(lambda: place(api, "a")["location"], within=SOON, until="west".__eq__)
    issued = eventually(lambda: certificate(api, "a"), within=SOON, until=lambda found: found != former)
    assert issued is not None
    trusted = {authority.id: Trust(key=authority) for authority in identity(api).authorities}
    subject = Subject(
        name="a.plain",
        public_key=KEYS["a"].public,
        address=ip_address(place(api, "a")["overlayIP"]),
        location="west",
    )
    assert refusal(issued, subject, trusted, clock=issued.serial) is None
