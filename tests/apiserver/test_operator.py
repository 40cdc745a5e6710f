"""What the operator makes of a WesherMesh on a real API server."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from wesher_common.keys import KeyRing
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import candidate_address, is_reserved
from wesher_testing.cluster.api_server import ApiServer
from wesher_testing.cluster.certified_agents import statement
from wesher_testing.cluster.operator_process import (
    NAMESPACE,
    SOON,
    OperatorProcess,
    eventually,
    operator_writes,
)

Mesh = Callable[..., None]
Report = Callable[..., None]

ADDRESSES = {"a": "192.168.7.1", "b": "192.168.7.2", "c": "192.168.7.3"}

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def nodes(api: ApiServer) -> None:
    for name, address in ADDRESSES.items():
        api.node(name, address)


def condition(api: ApiServer, kind: str, mesh: str = "demo") -> dict[str, Any]:
    """Return one condition of a mesh; empty while there is none."""
    status = (api.get("wmesh", mesh) or {}).get("status", {})
    return next((entry for entry in status.get("conditions", []) if entry["type"] == kind), {})


def until_condition(
    api: ApiServer, kind: str, status: str, *, mesh: str = "demo", reason: str = ""
) -> dict[str, Any]:
    """Wait until a condition has a status, and a reason where one is given."""

    def right(found: dict[str, Any]) -> bool:
        return found.get("status") == status and reason in {"", found["reason"]}

    return eventually(lambda: condition(api, kind, mesh), within=SOON, until=right)


def until_event(api: ApiServer, pattern: str) -> str:
    """Wait for an Event, which comes after the status; return all that ``kubectl describe`` shows."""
    return eventually(
        lambda: api.kubectl("describe", "wmesh", "demo"),
        within=SOON,
        until=lambda text: re.search(pattern, text) is not None,
    )


def places(api: ApiServer, mesh: str = "demo") -> dict[str, dict[str, Any]]:
    """Return the specs of a mesh's WesherNodes by node."""
    found = (item["spec"] for item in api.get("wnode", "-l", f"wesher.dev/mesh={mesh}")["items"])
    uid = api.get("wmesh", mesh)["metadata"]["uid"]
    return {spec["nodeName"]: spec for spec in found if spec["meshRef"]["uid"] == uid}


def until_places(
    api: ApiServer, *names: str, mesh: str = "demo", addresses: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Wait until exactly these nodes have a place in a mesh, with their own addresses where those are given.

    A Node has its addresses a moment later than its name, and so has what the operator knows of it.
    """

    def right(found: dict[str, dict[str, Any]]) -> bool:
        told = {name: spec["advertiseAddress"] for name, spec in found.items()}
        return told.keys() == set(names) and addresses in (None, told)

    return eventually(lambda: places(api, mesh), within=SOON, until=right)


def child(api: ApiServer, kind: str, name: str) -> Any:
    """Return an object that belongs to a mesh there is.

    What an operator was just making when the mesh of an earlier test was deleted does not count: no
    controller here takes it away.
    """
    found = api.get(kind, name, "-n", NAMESPACE)
    if found is None:
        return None
    owner = found["metadata"]["ownerReferences"][0]
    mesh = api.get("wmesh", owner["name"])
    return found if mesh is not None and mesh["metadata"]["uid"] == owner["uid"] else None


def document(api: ApiServer, mesh: str = "demo") -> MeshDocument:
    """Return what a mesh's agents read, which there is once its first DaemonSet or status is."""
    return MeshDocument.from_json(child(api, "configmap", f"{mesh}-config")["data"]["mesh.json"])


def key_secret(api: ApiServer, name: str) -> Any:
    """Return a Secret, which belongs to no mesh."""
    return api.get("secret", name, "-n", NAMESPACE)


def agent_pod(api: ApiServer, node: str) -> None:
    """Make the pod of a node's agent, as the DaemonSet controller would."""
    metadata = {"name": f"agent-{node}", "namespace": NAMESPACE, "labels": {"wesher.dev/mesh": "demo"}}
    container = {"name": "agent", "image": "wesher:test"}
    spec = {"nodeName": node, "serviceAccountName": "wesher-agent", "containers": [container]}
    api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def nudges(api: ApiServer) -> set[str]:
    """Return the names of the pods that were nudged."""
    found = (pod["metadata"] for pod in api.get("pod", "-n", NAMESPACE)["items"])
    return {each["name"] for each in found if "wesher.dev/nudge" in each.get("annotations", {})}


def put_secret(api: ApiServer, name: str, key: bytes) -> None:
    entry = base64.b64encode(base64.b64encode(key)).decode()
    metadata = {"name": name, "namespace": NAMESPACE}
    api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"cluster-key": entry}})


def test_a_mesh_gets_its_key_config_agents_and_a_place_for_each_node(
    api: ApiServer, nodes: None, mesh: Mesh
) -> None:
    mesh()
    found = until_places(api, "a", "b", "c", addresses=ADDRESSES)
    network = ip_network("10.189.0.0/16")
    for name, spec in found.items():
        assert spec["overlayIP"] == str(candidate_address(name, network))

    secret = key_secret(api, "demo-key")  # made before any WesherNode
    ring = KeyRing.from_files(base64.b64decode(secret["data"]["cluster-key"]).decode())
    assert "ownerReferences" not in secret["metadata"]  # a deleted mesh must not take it along

    agents = eventually(lambda: child(api, "daemonset", "demo-agent"), within=SOON)
    pod = agents["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["hostNetwork"]
    assert container["securityContext"]["privileged"]
    assert agents["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == "10%"
    assert agents["metadata"]["ownerReferences"][0]["kind"] == "WesherMesh"

    eventually(lambda: document(api).cluster_seeds, within=SOON)
    eventually(
        lambda: api.get("wmesh", "demo")["status"].get("key", {}).get("id"),
        within=SOON,
        until=ring.primary.id.__eq__,
    )


def test_a_mesh_is_ready_when_every_node_reports_so_and_its_columns_and_events_tell(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    until_places(api, "a", "b", "c")
    assert condition(api, "Ready")["status"] != "True"
    report("a")
    report("b")
    eventually(
        lambda: condition(api, "Ready")["message"],
        within=SOON,
        until=lambda message: message == "no report yet from: c",
    )
    report("c")
    until_condition(api, "Ready", "True")

    header, line = api.kubectl("get", "wmesh").splitlines()
    assert header.split() == ["NAME", "READY", "MEMBERS", "CIDR", "KEY", "AGE"]
    assert line.split()[:4] == ["demo", "True", "3/3", "10.189.0.0/16"]
    wide = api.kubectl("get", "wmesh", "-o", "wide").splitlines()[0]
    assert wide.split()[5:8] == ["IDENTITY", "CERTIFIED", "BOUND"]
    assert wide.split()[8:14] == ["TRAFFIC", "CONVERGED", "DEGRADED", "INTERFACE", "INSTALLATION", "MESSAGE"]
    assert "weshernode.wesher.dev/demo.a" in api.kubectl("get", "wesher")
    described = until_event(api, r"Normal\s+AllReady.*Ready is True")
    assert "Warning" not in described  # a mesh that is merely new is nobody's trouble


def test_a_node_that_the_others_cannot_reach_is_named_until_it_recovers(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    until_places(api, "a", "b", "c")
    for node in "abc":
        report(node)
    until_condition(api, "Ready", "True")

    blaming = {"peers": {"unreachable": ["b"]}}
    report("a", **blaming)
    assert until_condition(api, "Degraded", "True")["message"] == "a cannot reach b"
    assert condition(api, "Ready")["status"] == "True"  # one pair alone is no dead node

    report("c", **blaming)
    assert until_condition(api, "Ready", "False")["message"] == "not ready: b (Unreachable)"
    first = api.get("wmesh", "demo")["status"]["memberList"][0]
    assert (first["name"], first["state"], first["reason"]) == ("b", "NotReady", "Unreachable")

    for node in "ac":
        report(node, peers={"unreachable": []})
    until_condition(api, "Ready", "True")
    until_condition(api, "Degraded", "False")


def test_a_node_whose_reports_stopped_is_stale(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    until_places(api, "a", "b", "c")
    for node in "ab":
        report(node)
    long_ago = (datetime.now(UTC) - timedelta(minutes=20)).strftime("%Y-%m-%dT%H:%M:%SZ")
    report("c", lastReportTime=long_ago)
    eventually(
        lambda: condition(api, "Ready"),
        within=SOON,
        until=lambda found: found["message"] == "not ready: c (NoReport)",
    )
    assert api.get("wmesh", "demo")["status"]["members"]["stale"] == 1


def test_names_that_hash_alike_get_different_addresses_and_a_full_network_names_who_has_none(
    api: ApiServer, mesh: Mesh
) -> None:
    for number in range(1, 8):
        api.node(f"n{number}", f"192.168.7.{number}")
    mesh(overlayCIDR="10.189.0.0/29")
    eventually(lambda: places(api), within=SOON, until=lambda found: len(found) == 6)
    network = ip_network("10.189.0.0/29")
    addresses = {ip_address(spec["overlayIP"]) for spec in places(api).values()}
    assert len(addresses) == 6
    assert not any(is_reserved(address, network) for address in addresses)
    moved = [n for n, spec in places(api).items() if spec["overlayIP"] != str(candidate_address(n, network))]
    assert moved
    eventually(
        lambda: [m["reason"] for m in api.get("wmesh", "demo")["status"].get("memberList", [])],
        within=SOON,
        until=lambda reasons: reasons.count("NoFreeAddress") == 1,
    )


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, "interface wgoverlay; wireguard.interface wgoverlay1 is free"),
        ({"wireguard": {"interface": "wg2"}}, "port 51820; wireguard.port 51821 is free"),
        ({"wireguard": {"interface": "wg2", "port": 1}}, "port 7946; gossip.port 7947 is free"),
        (
            {"wireguard": {"interface": "wg2", "port": 1}, "gossip": {"port": 2}},
            "addresses of 10.189.4.0/24; overlayCIDR 10.190.0.0/24 is free",
        ),
    ],
)
def test_a_newer_mesh_that_wants_what_an_older_one_has_is_refused_by_name_and_makes_nothing(
    api: ApiServer, nodes: None, mesh: Mesh, spec: dict[str, Any], says: str
) -> None:
    mesh("elder")
    until_places(api, "a", "b", "c", mesh="elder")
    elder = eventually(lambda: child(api, "daemonset", "elder-agent"), within=SOON)
    before = elder["metadata"]["resourceVersion"]
    mesh("young", overlayCIDR="10.189.4.0/24", **spec)
    refused = until_condition(api, "Ready", "False", mesh="young")
    assert refused["reason"] == "Conflict"
    assert f"meshes young and elder both want {says}" in refused["message"]
    assert child(api, "daemonset", "young-agent") is None
    assert places(api, "young") == {}
    assert child(api, "daemonset", "elder-agent")["metadata"]["resourceVersion"] == before

    api.kubectl("delete", "wmesh", "elder")
    until_condition(api, "ConfigPublished", "True", mesh="young")


@pytest.mark.parametrize(
    ("overlay", "says"),
    [
        ("10.244.0.0/16", "overlaps the pod network 10.244.3.0/24 of Node p"),
        ("10.96.0.0/24", "overlaps the Service network 10.96.0.0/16"),
        ("192.168.7.0/24", "overlaps the InternalIP 192.168.7.9 of Node p"),
    ],
)
def test_an_overlay_on_top_of_the_clusters_own_networks_is_refused_and_a_free_one_is_named(
    api: ApiServer, mesh: Mesh, overlay: str, says: str
) -> None:
    api.node("p", "192.168.7.9", podCIDRs=["10.244.3.0/24"])
    # By the place that it gives p in another mesh the operator shows that it knows all of p.
    ports = {"wireguard": {"interface": "wgother", "port": 1}, "gossip": {"port": 2}}
    mesh("other", overlayCIDR="172.24.0.0/24", **ports)
    until_places(api, "p", mesh="other", addresses={"p": "192.168.7.9"})

    mesh(overlayCIDR=overlay)
    refused = until_condition(api, "Ready", "False", reason="OverlappingNetwork")
    assert says in refused["message"]
    free = ip_network(re.search(r"(\S+) is free$", refused["message"])[1])
    assert free.prefixlen == ip_network(overlay).prefixlen
    for taken in ("10.244.3.0/24", "10.96.0.0/16", "192.168.7.9/32", overlay):
        assert not free.overlaps(ip_network(taken))
    assert child(api, "daemonset", "demo-agent") is None


def test_an_overlay_that_holds_the_api_servers_own_address_is_refused(api: ApiServer, mesh: Mesh) -> None:
    """As of a managed control plane, which is no Node; the address is where this API server says it is."""
    (slices,) = api.get("endpointslices", "-n", "default")["items"]
    address = slices["endpoints"][0]["addresses"][0]
    mesh(overlayCIDR=str(ip_network(f"{address}/24", strict=False)))
    refused = until_condition(api, "Ready", "False", reason="OverlappingNetwork")
    assert f"overlaps the API server's address {address}; " in refused["message"]
    free = ip_network(re.search(r"(\S+) is free$", refused["message"])[1])
    assert ip_address(address) not in free
    assert child(api, "daemonset", "demo-agent") is None


def test_a_mesh_on_nodes_that_are_on_top_of_one_is_refused_and_the_message_says_what_to_do(
    api: ApiServer, mesh: Mesh
) -> None:
    """The Nodes' addresses are those that wesher gives the machines by default, as in the docs' recipe."""
    addresses = {name: str(candidate_address(name, ip_network("10.0.0.0/8"))) for name in ("vm-1", "vm-2")}
    for name, address in addresses.items():
        api.node(name, address)
    # By their places in a mesh that has nothing in common with the machines' the operator shows that it
    # knows both Nodes.
    ports = {"wireguard": {"interface": "wgother", "port": 1}, "gossip": {"port": 2}}
    mesh("other", overlayCIDR="172.24.0.0/24", **ports)
    until_places(api, *addresses, mesh="other", addresses=addresses)

    mesh()
    refused = until_condition(api, "Ready", "False", reason="NodesUseOverlay")["message"]
    assert "Nodes vm-1, vm-2 are overlay addresses of wesher on the machines" in refused
    assert "delete this mesh" in refused
    assert child(api, "daemonset", "demo-agent") is None


def list_addresses(api: ApiServer, node: str, *addresses: str) -> None:
    """Have a Node list these addresses, as a kubelet that lists every interface would."""
    status = {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]}
    patch = json.dumps({"status": status})
    api.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", patch)


def test_a_node_that_lists_its_own_overlay_address_disturbs_no_mesh_and_is_not_dialled_there(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    own = until_places(api, *ADDRESSES, addresses=ADDRESSES)["a"]["overlayIP"]
    list_addresses(api, "a", own, "192.168.7.9")
    until_places(api, *ADDRESSES, addresses=ADDRESSES | {"a": "192.168.7.9"})
    api.node("d", "192.168.7.4")
    until_places(api, *ADDRESSES, "d", addresses=ADDRESSES | {"a": "192.168.7.9", "d": "192.168.7.4"})
    for name in (*ADDRESSES, "d"):
        report(name)
    until_condition(api, "Ready", "True")
    assert until_condition(api, "Degraded", "False")
    assert own not in {seed.host for seed in document(api).cluster_seeds}
    # Without any other address, the way to the node depends on a pod on it.
    list_addresses(api, "a", own)
    said = until_condition(api, "Degraded", "True", reason="NodesUseOverlay")["message"]
    assert "Node a has no InternalIP outside spec.overlayCIDR 10.189.0.0/16" in said


def test_an_overlap_that_comes_later_is_reported_while_the_mesh_is_reconciled_as_ever(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    until_places(api, *ADDRESSES, addresses=ADDRESSES)
    foreign = str(candidate_address("nobody", ip_network("10.189.0.0/16")))
    list_addresses(api, "a", "192.168.7.1", foreign)
    said = until_condition(api, "Degraded", "True", reason="OverlappingNetwork")["message"]
    assert f"overlaps the InternalIP {foreign} of Node a; " in said
    api.node("d", "192.168.7.4")
    until_places(api, *ADDRESSES, "d", addresses=ADDRESSES | {"d": "192.168.7.4"})
    for name in (*ADDRESSES, "d"):
        report(name)
    until_condition(api, "Ready", "True")
    list_addresses(api, "a", "192.168.7.1")
    until_condition(api, "Degraded", "False")


def test_a_key_that_is_not_32_bytes_is_refused_without_being_shown_and_a_good_one_heals(
    api: ApiServer, nodes: None, mesh: Mesh, operator: OperatorProcess
) -> None:
    secret = b"sixteen bytes!!!"
    put_secret(api, "mine", secret)
    mesh(clusterKeySecretRef={"name": "mine"})
    refused = until_condition(api, "KeyReady", "False")
    assert refused["reason"] == "InvalidKey"
    assert refused["message"] == "Secret mine: cluster-key: must decode to exactly 32 bytes, not 16"
    assert until_condition(api, "Ready", "False", reason="InvalidKey")
    assert child(api, "daemonset", "demo-agent") is None

    put_secret(api, "mine", bytes(range(32)))
    until_condition(api, "KeyReady", "True")
    eventually(lambda: child(api, "daemonset", "demo-agent"), within=SOON)
    shown = operator.log + api.kubectl("get", "wmesh,wnode,events", "-A", "-o", "json")
    for key in (secret, bytes(range(32))):
        assert base64.b64encode(key).decode() not in shown


def test_a_key_that_is_there_already_is_used_and_left_alone(api: ApiServer, nodes: None, mesh: Mesh) -> None:
    put_secret(api, "demo-key", bytes(range(32)))
    before = key_secret(api, "demo-key")["metadata"]["resourceVersion"]
    mesh()
    until_condition(api, "KeyReady", "True")
    assert key_secret(api, "demo-key")["metadata"]["resourceVersion"] == before


def test_a_key_that_vanishes_is_not_replaced_by_another(api: ApiServer, nodes: None, mesh: Mesh) -> None:
    """A new key would lock out every member outside this cluster, and nobody would know why."""
    mesh()
    until_condition(api, "KeyReady", "True")
    api.kubectl("delete", "secret", "demo-key", "-n", NAMESPACE)
    lost = until_condition(api, "KeyReady", "False")
    assert "Secret demo-key is missing" in lost["message"]
    api.node("d", "192.168.7.4")  # the operator looks at the mesh again, now that it knows of the loss
    until_places(api, "a", "b", "c", "d")
    made_anew = key_secret(api, "demo-key") is not None  # a failure must not print a key
    assert not made_anew
    assert condition(api, "KeyReady")["status"] == "False"


def test_a_deleted_node_leaves_at_once_and_its_address_is_held_back(
    api: ApiServer, nodes: None, mesh: Mesh
) -> None:
    mesh(overlayCIDR="10.189.0.0/30")
    eventually(lambda: places(api), within=SOON, until=lambda found: len(found) == 2)
    api.kubectl("delete", "node", "a")
    until_places(api, "b")
    eventually(lambda: document(api).removed, within=SOON, until=lambda names: names == ("a",))
    # c has waited for an address all along, and the one that a had is free: but not within the hour.
    eventually(
        lambda: condition(api, "Ready")["message"],
        within=SOON,
        until="not ready: b (NotReported), c (NoFreeAddress)".__eq__,
    )
    released = json.loads(child(api, "configmap", "demo-released")["data"]["released.json"])
    assert len(released["addresses"]) == 1

    api.node("a", "192.168.7.1")
    eventually(lambda: document(api).removed, within=SOON, until=lambda names: names == ())
    assert until_places(api, "a", "b")["a"]["overlayIP"] in released["addresses"]


def test_agents_run_and_addresses_are_given_only_where_the_node_selector_says(
    api: ApiServer, nodes: None, mesh: Mesh
) -> None:
    api.kubectl("label", "node", "b", "role=edge")
    mesh(nodeSelector={"role": "edge"})
    until_places(api, "b")
    agents = eventually(lambda: child(api, "daemonset", "demo-agent"), within=SOON)
    assert agents["spec"]["template"]["spec"]["nodeSelector"] == {"role": "edge"}
    api.kubectl("label", "node", "c", "role=edge")
    until_places(api, "b", "c")


def test_annotations_and_cluster_name_say_where_a_node_is_and_how_it_is_reached(
    api: ApiServer, mesh: Mesh
) -> None:
    api.node("a", "192.168.7.1", annotations={"wesher.dev/advertise-address": "203.0.113.7"})
    api.node("b", "192.168.7.2", annotations={"wesher.dev/location": "attic"})
    mesh(clusterName="home")
    found = until_places(api, "a", "b", addresses={"a": "203.0.113.7", "b": "192.168.7.2"})
    assert (found["a"]["location"], found["b"]["location"]) == ("home", "attic")
    assert found["a"]["overlayIP"] == str(candidate_address("a.home", ip_network("10.189.0.0/16")))


def test_an_annotation_that_cannot_be_used_is_told_by_an_event_and_stops_nothing(
    api: ApiServer, nodes: None, mesh: Mesh
) -> None:
    api.kubectl("annotate", "node", "a", "wesher.dev/advertise-address=example.com")
    mesh()
    until_places(api, "a", "b", "c", addresses=ADDRESSES)
    until_condition(api, "Degraded", "True", reason="InvalidAnnotation")
    described = until_event(api, r"Warning\s+InvalidAnnotation")
    assert "Node a annotation wesher.dev/advertise-address 'example.com': must be an IP address" in described


def news_number(api: ApiServer) -> int:
    """Return the number of the published statement of revocations."""
    published = eventually(lambda: statement(api), within=SOON)
    assert published is not None
    return published.number


def test_an_agent_with_an_old_config_is_nudged_and_one_with_the_new_is_not(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    until_places(api, "a", "b", "c")
    until_condition(api, "KeyReady", "True")
    key = api.get("wmesh", "demo")["status"]["key"]["id"]
    for node in "ab":
        agent_pod(api, node)
    known = {"primaryKeyID": key, "keyIDs": [key], "newsNumber": news_number(api)}
    report("a", configHash=document(api).config_hash, **known)
    report("b", configHash="0ld", **known)

    assert eventually(lambda: nudges(api), within=SOON) == {"agent-b"}
    mesh(etcHosts="Off")
    eventually(lambda: nudges(api), within=SOON, until=lambda names: names == {"agent-a", "agent-b"})


def test_an_agent_is_nudged_when_its_node_is_annotated_and_the_others_are_not(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    until_places(api, "a", "b", "c")
    until_condition(api, "KeyReady", "True")
    key = api.get("wmesh", "demo")["status"]["key"]["id"]
    for node in "ab":
        agent_pod(api, node)
        known = {"primaryKeyID": key, "keyIDs": [key], "newsNumber": news_number(api)}
        report(node, configHash=document(api).config_hash, **known)
    eventually_quiet(lambda: operator_writes(api))
    assert nudges(api) == set()

    api.kubectl("annotate", "node", "a", "wesher.dev/location=cellar")

    assert eventually(lambda: nudges(api), within=SOON) == {"agent-a"}


def test_an_agent_whose_node_was_deleted_is_told_at_once_that_it_was_removed(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    """Some seconds later its pod is deleted too, and it could ask nobody whether that is for good."""
    mesh()
    until_places(api, "a", "b", "c")
    for node in "ab":
        agent_pod(api, node)

    api.kubectl("delete", "node", "b")

    assert eventually(lambda: nudges(api), within=SOON) == {"agent-b"}
    assert document(api).removed == ("b",)


def test_what_was_edited_or_deleted_by_hand_is_put_right(api: ApiServer, nodes: None, mesh: Mesh) -> None:
    mesh()
    until_places(api, "a", "b", "c")
    eventually(lambda: child(api, "daemonset", "demo-agent"), within=SOON)
    patch = '{"spec":{"template":{"spec":{"hostNetwork":false}}}}'
    api.kubectl("patch", "daemonset", "demo-agent", "-n", NAMESPACE, "-p", patch)
    api.kubectl("patch", "configmap", "demo-config", "-n", NAMESPACE, "-p", '{"data":{"mesh.json":"{}"}}')
    api.kubectl("patch", "wnode", "demo.a", "--type=merge", "-p", '{"spec":{"location":"moon"}}')
    eventually(
        lambda: child(api, "daemonset", "demo-agent")["spec"]["template"]["spec"].get("hostNetwork"),
        within=SOON,
    )
    eventually(lambda: child(api, "configmap", "demo-config")["data"]["mesh.json"] != "{}", within=SOON)
    eventually(lambda: places(api)["a"]["location"] == "", within=SOON)


def test_nothing_is_written_at_rest_nor_for_a_report_without_news(
    api: ApiServer, nodes: None, mesh: Mesh, report: Report
) -> None:
    mesh()
    until_places(api, "a", "b", "c")
    for node in "abc":
        report(node)
    until_condition(api, "Ready", "True")
    until_event(api, r"Normal\s+AllReady")  # Events come after the status
    settled = eventually_quiet(lambda: operator_writes(api))
    assert settled > 0  # so the filter finds what it looks for
    report("a")  # the same as before, later
    time.sleep(20)  # what is measured is that nothing happens in this time
    written = operator_writes(api)[settled:]
    assert [(event["verb"], event["requestURI"]) for event in written] == []


def eventually_quiet(writes: Callable[[], list[Any]], *, quiet: float = 5.0) -> int:
    """Wait until no write was added for a while and return how many there are."""
    count, since = len(writes()), time.monotonic()
    while time.monotonic() - since < quiet:
        time.sleep(0.2)
        if len(writes()) != count:
            count, since = len(writes()), time.monotonic()
    return count


@pytest.mark.usefixtures("nodes")
def test_what_another_kopf_operator_keeps_on_a_node_is_neither_read_nor_removed(
    api: ApiServer, mesh: Mesh, operator: OperatorProcess
) -> None:
    """By default kopf removes every finalizer of kopf's, and fails on a stored state that it cannot read."""
    finalizers = {"metadata": {"finalizers": ["kopf.zalando.org/KopfFinalizerMarker"]}}
    state = "kopf.zalando.org/last-handled-configuration=not-json"
    logged = len(operator.log)
    api.kubectl("patch", "node", "a", "--type=merge", "-p", json.dumps(finalizers))
    try:
        api.kubectl("annotate", "node", "a", state)
        mesh()
        until_places(api, *ADDRESSES)
        # Its WesherNode keeps its address, so this shows that the operator still sees the Node.
        api.kubectl("annotate", "node", "a", "wesher.dev/location=north")
        eventually(lambda: places(api)["a"].get("location") == "north", within=SOON)
        assert api.get("node", "a")["metadata"]["finalizers"] == finalizers["metadata"]["finalizers"]
        assert " kopf" not in operator.log[logged:]
    finally:
        api.kubectl("patch", "node", "a", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
