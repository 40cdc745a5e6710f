"""What each member's WesherNode says: its overlay address and the facts of its node.

Pure. An address is the candidate a name hashes to, else the next free one; it
never changes while the WesherNode lives.
"""

from __future__ import annotations

from collections.abc import Iterable

from wesher_common.mesh_document import MAX_CLUSTER_SEEDS
from wesher_common.names import member_name
from wesher_common.overlay import IPAddress, IPNetwork, allocate_address
from wesher_common.seeds import SeedAddress
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, NodeFacts
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.resources.node import MeshRef, WesherNodeSpec


def allocate(
    names: Iterable[str], network: IPNetwork, taken: Iterable[IPAddress]
) -> tuple[dict[str, IPAddress], list[str]]:
    """Give each name an address, in the order of the names.

    Args:
        names: member names without an address.
        network: the network allocated from.
        taken: addresses in use or held back.

    Returns:
        The addresses given, and the names for which there was none left.

    """
    used, given, left_over = set(taken), {}, []
    for name in sorted(names):
        address = allocate_address(name, network, used)
        if address is None:
            left_over.append(name)
        else:
            used.add(address)
            given[name] = address
    return given, left_over


def node_spec(
    mesh: MeshFacts, spec: WesherMeshSpec, node: NodeFacts, overlay_address: IPAddress
) -> WesherNodeSpec:
    """Return what the WesherNode of a node should say."""
    return WesherNodeSpec(
        mesh_ref=MeshRef(name=mesh.name, uid=mesh.uid),
        node_name=node.name,
        overlay_ip=str(overlay_address),
        routes=[str(cidr) for cidr in node.pod_cidrs] if spec.routes.advertise_pod_cidrs else [],
        advertise_address=advertise_address(spec, node),
        location=node.location or spec.cluster_name,
    )


def advertise_address(spec: WesherMeshSpec, node: NodeFacts) -> str:
    """Return the address others dial: the node's annotation, else its first preferred address."""
    address = node.advertise_address or node.address(spec.addresses.prefer)
    return str(address) if address else ""


def cluster_seeds(nodes: Iterable[NodeFacts], chosen: Iterable[SeedAddress]) -> tuple[SeedAddress, ...]:
    """Return up to 16 addresses to join through inside this cluster.

    One that was chosen before stays until its node goes, so that a growing
    cluster does not rewrite the document for every node.
    """
    addresses = {
        str(address): address
        for node in nodes
        if (address := node.address(("InternalIP", "ExternalIP"))) is not None
    }
    kept = [seed for seed in chosen if seed.host in addresses][:MAX_CLUSTER_SEEDS]
    for seed in kept:
        del addresses[seed.host]
    fresh = sorted(addresses, key=lambda text: (addresses[text].version, int(addresses[text])))
    return tuple(kept + [SeedAddress(text) for text in fresh[: MAX_CLUSTER_SEEDS - len(kept)]])


def name_of(spec: WesherMeshSpec, member: MemberFacts | NodeFacts) -> str:
    """Return the name under which a node gossips in a mesh."""
    node = member.spec.node_name if isinstance(member, MemberFacts) else member.name
    return member_name(node, spec.cluster_name)
