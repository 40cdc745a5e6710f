"""What keeps a mesh from carrying the cluster's traffic, one check each, and what to do about it.

Pure: objects in, findings out, as in `checks`. A mesh that is to carry only packets to overlay
addresses has only the first of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address, ip_network

from wesher_common.conditions import find_condition
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_operator.kubectl.checks import Finding, named, unseen
from wesher_operator.kubectl.meshes import name_of, status_of
from wesher_operator.kubectl.reach import Object
from wesher_operator.kubectl.status import age_of
from wesher_operator.kubectl.traffic import (
    CONDITION,
    carries_nodes,
    carries_pods,
    is_on,
    traffic_of,
    traffic_spec,
    traffic_text,
)

_WAITS_SECONDS = 180.0
"""Agents report that they accept within seconds, and route 15 seconds after their certificate."""
_LOCATIONS = 2
_ELSEWHERE = "OtherLocations"
_FLANNEL = "flannel.alpha.coreos.com/backend-type"
_CILIUM = "Cilium"
_CALICO = "projectcalico.org/IPv4Address"
_BACKENDS = {"vxlan": "VXLAN", "host-gw": ""}
"""Those of flannel that are tested with carried traffic, and the tunnel of each."""
_CALICO_TUNNELS = {
    "projectcalico.org/IPv4VXLANTunnelAddr": "VXLAN",
    "projectcalico.org/IPv6VXLANTunnelAddr": "VXLAN",
    "projectcalico.org/IPv4IPIPTunnelAddr": "IP in IP",
    "projectcalico.org/IPv4WireguardInterfaceAddr": "WireGuard",
    "projectcalico.org/IPv6WireguardInterfaceAddr": "WireGuard",
}
_HEADERS = {"VXLAN": 50, "Geneve": 50, "IP in IP": 20, "WireGuard": 60}
"""Bytes that each kind of tunnel adds to a packet over IPv4."""
_IPVS = re.compile(r"^\s*mode:\s*[\"']?ipvs\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class NetworkPlugin:
    """The network plugin of a cluster, as far as it can be recognized."""

    name: str
    tunnel: str
    """A key of `_HEADERS`, or another way that the plugin names; empty if it routes packets."""
    mtu: int | None
    """What it gives to pods, if that is configured."""
    tested: bool
    """Whether the project's tests carry the traffic of this plugin."""


def traffic(mesh: Object, nodes: Sequence[Object], now: datetime) -> Finding:
    """Look whether every node carries what the mesh is to carry."""
    check, text = f"traffic of {name_of(mesh)}", traffic_text(mesh, nodes)
    if not is_on(mesh):
        return Finding(check, "ok", text)
    found, troubleshooting = traffic_of(mesh, nodes), "see {} in docs/troubleshooting.md"
    said = find_condition(status_of(mesh).get("conditions") or [], CONDITION)
    if said is None:
        return unseen(check, "the operator has not processed spec.traffic yet")
    if said.status == "False":
        return Finding(
            check, "FAIL", f"{said.message or said.reason}; {text}", troubleshooting.format(said.reason)
        )
    for node in found["nodeList"]:
        if node["carried"] == "False":
            says = f"{node['name']}: {node['message'] or node['reason']}; {text}"
            return Finding(check, "FAIL", says, troubleshooting.format(node["reason"]))
    waits = age_of(said.last_transition_time, now) if said.status == "Unknown" else None
    if waits is not None and waits > _WAITS_SECONDS:
        return Finding(check, "FAIL", text, "see why these agents do not report: kubectl describe wnode")
    return Finding(check, "ok", text)


def locations(mesh: Object, nodes: Sequence[Object]) -> Finding | None:
    """Look whether there is another location to carry traffic to; None if the mesh does not ask for it."""
    if _ELSEWHERE not in {traffic_spec(mesh).get("nodes"), traffic_spec(mesh).get("pods")}:
        return None
    check = f"locations of {name_of(mesh)}"
    placed = {str(node["spec"]["nodeName"]): str(node["spec"].get("location") or "") for node in nodes}
    found = sorted(set(placed.values()) - {""})
    do = "set spec.addresses.locationLabel, or annotate the Nodes with wesher.dev/location"
    without = [name for name, location in placed.items() if not location]
    if without:
        return Finding(
            check,
            "FAIL",
            f"without a location, so OtherLocations does not include them: {named(without)}",
            do,
        )
    if len(found) < _LOCATIONS:
        says = f"all nodes are in {named(found) or 'no location'}, so no traffic goes to another location"
        return Finding(check, "FAIL", says, do)
    return Finding(check, "ok", f"{len(found)}: {named(found)}")


def addresses(mesh: Object, nodes: Sequence[Object], cluster: Sequence[Object]) -> Finding | None:
    """Look whether the address of each node is certified; None if nodes' addresses are not carried.

    Args:
        mesh: the WesherMesh.
        nodes: its WesherNodes.
        cluster: the Nodes.

    """
    if not carries_nodes(mesh):
        return None
    check = f"node addresses of {name_of(mesh)}"
    allowed = [ip_network(text) for text in traffic_spec(mesh).get("nodeCIDRs") or []]
    versions = {network.version for network in allowed}
    overlay = ip_network(mesh["spec"]["overlayCIDR"])
    outside, uncertified = [], []
    for name, certified, node in _paired(nodes, cluster):
        first = [each for each in _first_internal(node, overlay) if each.version in versions]
        if not first:
            outside.append(f"{name} without an InternalIP of their IP version")
        for address in first:
            if not _is_inside(address, allowed):
                outside.append(f"{name} {address}")
            elif not _is_inside(address, certified):
                uncertified.append(f"{name} {address}")
    if outside:
        do = "add their networks to spec.traffic.nodeCIDRs"
        return Finding(check, "FAIL", f"outside spec.traffic.nodeCIDRs: {named(outside)}", do)
    if uncertified:
        do = f"see the condition {CONDITION}: kubectl describe wmesh {name_of(mesh)}"
        return Finding(check, "FAIL", f"not in the node's certificate: {named(uncertified)}", do)
    return Finding(check, "ok", "each InternalIP is in the certificate of its node")


def pod_networks(mesh: Object, nodes: Sequence[Object], cluster: Sequence[Object]) -> Finding | None:
    """Look whether the pod networks of each node are certified; None if pods are not carried.

    Args: as `addresses`.

    """
    if str(traffic_spec(mesh).get("pods") or "None") == "None":
        return None
    check = f"pod networks of {name_of(mesh)}"
    without, uncertified = [], []
    for name, certified, node in _paired(nodes, cluster):
        own = [ip_network(text) for text in (node.get("spec") or {}).get("podCIDRs") or []]
        if not own:
            without.append(name)
        uncertified += [f"{name} {network}" for network in own if network not in certified]
    if without:
        do = (
            "set spec.traffic.pods to None if the network plugin assigns addresses without Node.spec.podCIDRs"
        )
        return Finding(check, "FAIL", f"no spec.podCIDRs: {named(without)}", do)
    if uncertified:
        do = f"see the condition {CONDITION}: kubectl describe wmesh {name_of(mesh)}"
        return Finding(check, "FAIL", f"not in the node's certificate: {named(uncertified)}", do)
    return Finding(check, "ok", "the spec.podCIDRs of each Node are in its certificate")


def api_server(mesh: Object, slices: Sequence[Object], *, dialled: str) -> Finding | None:
    """Look whether agents reach the API server without their tunnels; None if they do in any case.

    Args:
        mesh: the WesherMesh.
        slices: the EndpointSlices of the Service ``kubernetes``.
        dialled: the address that agents are configured to use instead of the Service's; empty if none.

    """
    if traffic_spec(mesh).get("apiServer") != "Mesh" or not carries_nodes(mesh):
        return None
    check = f"API server of {name_of(mesh)}"
    networks = [ip_network(text) for text in traffic_spec(mesh).get("nodeCIDRs") or []]
    endpoints = [
        ip_address(text)
        for each in slices
        for endpoint in each.get("endpoints") or []
        for text in endpoint.get("addresses") or []
    ]
    carried = [str(address) for address in endpoints if _is_inside(address, networks)]
    if not carried:
        return Finding(
            check, "ok", "its endpoints are outside spec.traffic.nodeCIDRs, so packets to it are not carried"
        )
    if dialled:
        return Finding(
            check, "ok", f"packets to {named(carried)} go through the tunnels; agents dial {dialled}"
        )
    says = f"packets to {named(carried)} go through the tunnels, also those of agents that have no tunnel yet"
    do = "set the chart value agent.apiServer to an address that every node reaches without the mesh"
    return Finding(check, "FAIL", says, do)


def kube_proxy(mesh: Object, config: str | None) -> Finding | None:
    """Look whether kube-proxy runs in a mode that was tested; None without a configuration file.

    Args:
        mesh: the WesherMesh.
        config: its configuration file, as kubeadm stores it; None if there is none.

    """
    if config is None:
        return None
    check = f"kube-proxy of {name_of(mesh)}"
    if _IPVS.search(config):
        says = "kube-proxy runs in IPVS mode, which is not tested with carried traffic"
        do = "set mode: nftables or mode: iptables in the ConfigMap kube-proxy, then restart kube-proxy"
        return Finding(check, "FAIL", says, do)
    return Finding(check, "ok", "kube-proxy does not run in IPVS mode")


def recognized_plugin(
    cluster: Sequence[Object], *, cilium: Mapping[str, str] | None, mtu: int | None
) -> NetworkPlugin | None:
    """Return the network plugin by what it leaves on Nodes or in its configuration; None if it is another.

    Args:
        cluster: the Nodes.
        cilium: the data of Cilium's ConfigMap; None if Cilium is not there.
        mtu: what flannel's or Calico's configuration says; None if it leaves that to the plugin.

    """
    if cilium is not None:
        text, is_routed = cilium.get("mtu", ""), cilium.get("routing-mode") == "native"
        kind = {"geneve": "Geneve"}.get(cilium.get("tunnel-protocol", ""), "VXLAN")
        own = int(text) if text.isascii() and text.isdigit() and int(text) else None
        return NetworkPlugin(_CILIUM, "" if is_routed else kind, own, tested=False)
    notes = [dict(node["metadata"].get("annotations") or {}) for node in cluster]
    for each in notes:
        if way := each.get(_FLANNEL):
            return NetworkPlugin("flannel", _BACKENDS.get(way, str(way)), mtu, tested=way in _BACKENDS)
    if any(_CALICO in each for each in notes):
        tunnels = [kind for each in notes for note, kind in _CALICO_TUNNELS.items() if note in each]
        return NetworkPlugin("Calico", tunnels[-1] if tunnels else "", mtu, tested=False)
    return None


def network_plugin(mesh: Object, plugin: NetworkPlugin | None, nodes: Sequence[Object]) -> Finding:
    """Look whether the network plugin and the mesh fit together.

    Args:
        mesh: the WesherMesh.
        plugin: the cluster's, if it is recognized.
        nodes: the WesherNodes.

    """
    check = f"network plugin of {name_of(mesh)}"
    if plugin is None:
        says = "neither flannel, Calico nor Cilium: packets of pods follow the routes of the node"
        return Finding(check, "ok", says)
    room = min((mtu for node in nodes if (mtu := int(status_of(node).get("mtu") or 0))), default=0)
    name = f"{plugin.name}{f' ({plugin.tunnel})' if plugin.tunnel else ''}"
    shown = name if plugin.tested else f"{name}, not tested with carried traffic"
    if carries_pods(mesh) and plugin.name == _CILIUM and plugin.tunnel:
        says = f"{shown}: it tunnels packets of pods before the mesh can carry them"
        do = "set spec.traffic.pods to None: spec.traffic.nodes carries the tunnels of Cilium"
        return Finding(check, "FAIL", says, do)
    if carries_pods(mesh) or not carries_nodes(mesh):
        return _with_routed_pods(check, shown, plugin, room)
    if plugin.tunnel:
        return _with_tunnelled_pods(check, shown, plugin, room)
    says = f"{shown}: it routes packets of pods, and with traffic.pods: None the mesh does not carry them"
    return Finding(check, "ok", says)


def _with_routed_pods(check: str, shown: str, plugin: NetworkPlugin, room: int) -> Finding:
    if room and plugin.mtu is not None and plugin.mtu > room:
        says = f"{shown}: pods send up to {plugin.mtu} bytes, and {room} fit into the tunnels of the mesh"
        return Finding(check, "ok", says, f"to avoid fragments, set the MTU of {plugin.name} to {room}")
    return Finding(check, "ok", shown)


def _with_tunnelled_pods(check: str, shown: str, plugin: NetworkPlugin, room: int) -> Finding:
    """Look whether the plugin's tunnels fit into the mesh's, which carry them as packets between nodes."""
    fits = room - _HEADERS.get(plugin.tunnel, max(_HEADERS.values()))
    do = f"set the MTU of {plugin.name} to {fits}: see docs/traffic.md"
    if room and plugin.mtu is None:
        return Finding(check, "ok", f"{shown}: the mesh carries its tunnels, whose MTU is not configured", do)
    if room and plugin.mtu is not None and plugin.mtu > fits:
        says = (
            f"{shown}: pods send up to {plugin.mtu} bytes, but {fits} fit into its tunnels inside the mesh's"
        )
        return Finding(check, "FAIL", says, do)
    return Finding(check, "ok", f"{shown}: the mesh carries its tunnels")


def _paired(
    nodes: Sequence[Object], cluster: Sequence[Object]
) -> Iterable[tuple[str, list[IPNetwork], Object]]:
    """Yield each Node that is in the mesh, with its name and what its certificate lists."""
    by_name = {name_of(node): node for node in cluster}
    for each in nodes:
        name = str(each["spec"]["nodeName"])
        if name in by_name:
            yield name, [ip_network(text) for text in each["spec"].get("routes") or []], by_name[name]


def _first_internal(node: Object, overlay: IPNetwork) -> list[IPAddress]:
    """Return the node's first InternalIP of each family that is not an overlay address."""
    found: dict[int, IPAddress] = {}
    for entry in status_of(node).get("addresses") or []:
        if entry.get("type") == "InternalIP":
            address = ip_address(entry["address"])
            if address not in overlay:
                found.setdefault(address.version, address)
    return list(found.values())


def _is_inside(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address in network for network in networks)
