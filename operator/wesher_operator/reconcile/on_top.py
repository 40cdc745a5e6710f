"""Recognizes clusters that run on top of a mesh: their kubelets use overlay addresses as node addresses.

Pure. Machines that run ``wesher`` as a service form one mesh under such a cluster. Each kubelet's
``--node-ip`` is its machine's overlay address, so all traffic between nodes is encrypted already. A mesh
with the same device, ports or addresses would conflict with that service on every node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from wesher_common.mesh_document import GossipSettings, WireGuardSettings
from wesher_common.overlay import IPAddress, IPNetwork, candidate_address
from wesher_operator.reconcile.facts import NodeFacts
from wesher_operator.resources.mesh import WesherMeshSpec

_LEAST_HASHED_BITS = 16
"""An address that agrees with its node's name in fewer bits may do so by chance."""
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class MachineMesh:
    """The mesh of the machines under a cluster, as far as its Nodes show it."""

    nodes: Sequence[str]
    """Those whose address shows it, by name."""
    networks: frozenset[IPNetwork]
    """Networks that its overlay addresses are from; usually one."""

    def named(self) -> str:
        """Return some of the Nodes in words."""
        more = len(self.nodes) - _MAX_NAMED
        names = ", ".join(self.nodes[:_MAX_NAMED])
        return f"Nodes {names} and {more} more" if more > 0 else f"Nodes {names}"


def machine_mesh(nodes: Mapping[str, NodeFacts]) -> MachineMesh | None:
    """Return the mesh under a cluster, or None if its Nodes' addresses show none.

    Outside Kubernetes, a member's overlay address is a hash of its name. At least half of the
    Nodes must have the address that their names hash to: names may differ, and addresses may have moved.
    """
    addresses = {name: node.address(["InternalIP"]) for name, node in sorted(nodes.items())}
    found = {
        name: network
        for name, address in addresses.items()
        if address is not None and (network := _hashed_in(name, address)) is not None
    }
    if not found or 2 * len(found) < sum(address is not None for address in addresses.values()):
        return None
    return MachineMesh([*found], frozenset(found.values()))


def shared_with(machines: MachineMesh, spec: WesherMeshSpec) -> list[str]:
    """Return the fields of a mesh whose values the machines' service uses, by its defaults."""
    ports = {WireGuardSettings().port, GossipSettings().port}
    shared = {
        "overlayCIDR": any(spec.overlay.overlaps(network) for network in machines.networks),
        "wireguard.interface": spec.wireguard.interface == WireGuardSettings().interface,
        "wireguard.port": spec.wireguard.port in ports,
        "gossip.port": spec.gossip.port in ports,
    }
    return [field for field, is_shared in shared.items() if is_shared]


def nodes_inside(nodes: Mapping[str, NodeFacts], spec: WesherMeshSpec) -> Iterator[str]:
    """Yield the names of the Nodes whose InternalIPs are all in the mesh's own overlay."""
    for name, node in sorted(nodes.items()):
        internal = [address for kind, address in node.addresses if kind == "InternalIP"]
        if internal and all(address in spec.overlay for address in internal):
            yield name


def _hashed_in(node: str, address: IPAddress) -> IPNetwork | None:
    """Return the widest network in which a name hashes to an address; None if there is none."""
    names = {node, node.partition(".")[0]}
    # Outside Kubernetes, overlays have whole octets.
    for prefix in range(8, address.max_prefixlen - _LEAST_HASHED_BITS + 1, 8):
        network = ip_network((address, prefix), strict=False)
        if any(candidate_address(name, network) == address for name in names):
            return network
    return None
