"""What each member's WesherNode says: its overlay address and the facts of its node.

Pure. An address is the candidate a name hashes to, else the next free one; it
never changes while the WesherNode lives, unless a hand put it outside the overlay
or on top of another's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from wesher_common.errors import InvalidSpec
from wesher_common.mesh_document import MAX_CLUSTER_SEEDS
from wesher_common.names import ADVERTISE_ADDRESS_ANNOTATION, member_name
from wesher_common.overlay import IPAddress, IPNetwork, allocate_address, is_reserved
from wesher_common.seeds import SeedAddress
from wesher_operator.reconcile.facts import MemberFacts, MeshFacts, NodeFacts
from wesher_operator.reconcile.membership import Released
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.resources.node import MeshRef, WesherNodeSpec


@dataclass(frozen=True, slots=True)
class Placement:
    """Which node has, or gets, which address."""

    addresses: Mapping[str, IPAddress]
    """By the node's name."""
    left_over: frozenset[str]
    """Names of nodes for which no address is free."""


def place(
    spec: WesherMeshSpec,
    nodes: Iterable[NodeFacts],
    own: Collection[MemberFacts],
    foreign: Collection[MemberFacts],
    released: Released,
    *,
    outside: Collection[IPAddress] = (),
) -> Placement:
    """Give each node its address: the one it has, the one that is held back for it, or a free one.

    Args:
        spec: of the mesh.
        nodes: those that belong to it.
        own: its WesherNodes, of nodes that leave too.
        foreign: those of an earlier mesh of this name. Their nodes wait until they are gone.
        released: what is held back.
        outside: addresses of external members, which no node gets.

    """
    has = _sound(own, spec.overlay)
    waiting = {member.spec.node_name for member in foreign}
    taken = {*(member.address for member in (*own, *foreign)), *outside}
    present = {node.name: name_of(spec, node) for node in nodes if node.name not in waiting}
    fresh = {name: node for node, name in present.items() if node not in has}
    kept = {name: released.kept_for(name, spec.allocation) for name in fresh}
    given = {name: address for name, address in kept.items() if address is not None and address not in taken}
    found, without = allocate(fresh.keys() - given.keys(), spec.allocation, taken | set(released.addresses))
    return Placement(
        {
            node: has[node] if node in has else (given | found)[name]
            for node, name in present.items()
            if name not in without
        },
        frozenset(fresh[name] for name in without),
    )


def _sound(members: Iterable[MemberFacts], overlay: IPNetwork) -> dict[str, IPAddress]:
    """Return the addresses that may stay: of two owners of one, the older keeps it."""
    owners: dict[IPAddress, str] = {}
    for member in sorted(members, key=lambda each: (each.created_at is None, each.created_at, each.name)):
        if member.address in overlay and not is_reserved(member.address, overlay):
            owners.setdefault(member.address, member.spec.node_name)
    return {node: address for address, node in owners.items()}


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


def usable(spec: WesherMeshSpec, node: NodeFacts, overlay_addresses: Container[IPAddress]) -> NodeFacts:
    """Return a node as its mesh may use it: without addresses that lead into an overlay.

    Kubelets and cloud controllers may list every interface's address, the overlay's too.
    The way to an address inside this mesh's overlay would be the tunnel that it is to be
    dialled for.

    Args:
        spec: of the mesh.
        node: as it was seen.
        overlay_addresses: those of the members of all meshes.

    """
    node = replace(
        node,
        addresses=tuple(
            (kind, address)
            for kind, address in node.addresses
            if address not in spec.overlay and address not in overlay_addresses
        ),
    )
    if node.advertise_address is None or node.advertise_address not in spec.overlay:
        return node
    problem = InvalidSpec(
        f"Node {node.name} annotation {ADVERTISE_ADDRESS_ANNOTATION}",
        f"must be outside overlayCIDR {spec.overlay}; the Node's addresses are used instead",
        value=node.advertise_address,
    )
    return replace(node, advertise_address=None, problems=(*node.problems, str(problem)))


def node_spec(
    mesh: MeshFacts, spec: WesherMeshSpec, node: NodeFacts, overlay_address: IPAddress
) -> WesherNodeSpec:
    """Return what the WesherNode of a node should say."""
    return WesherNodeSpec(
        mesh_ref=MeshRef(name=mesh.name, uid=mesh.uid),
        node_name=node.name,
        overlay_ip=str(overlay_address),
        advertise_address=advertise_address(spec, node),
        location=location_of(spec, node),
        machine=machine(node),
    )


def location_of(spec: WesherMeshSpec, node: NodeFacts) -> str:
    """Return a node's location, as annotated, or by its label, or the name of the cluster."""
    return node.location or node.labels.get(spec.addresses.location_label, "") or spec.cluster_name


def machine(node: NodeFacts) -> str:
    """Return a hash over what tells a Node's machine from its former one; empty while that is not known."""
    if not node.machine:
        return ""
    address = node.address(("InternalIP", "ExternalIP"))
    return hashlib.sha256(json.dumps([*node.machine, str(address)]).encode()).hexdigest()[:12]


def advertise_address(spec: WesherMeshSpec, node: NodeFacts) -> str:
    """Return the address others dial: the node's annotation, else its first preferred address."""
    address = _advertised(spec, node)
    return str(address) if address else ""


def cluster_seeds(
    spec: WesherMeshSpec, nodes: Iterable[NodeFacts], chosen: Iterable[SeedAddress]
) -> tuple[SeedAddress, ...]:
    """Return up to 16 addresses to join through inside this cluster.

    With several locations they are shared out equally: a node reaches those of its location at one
    address, and perhaps the others only at another. One that was chosen before stays until its node
    goes, so that a growing cluster does not rewrite the document for every node.
    """
    groups = [addresses for addresses in _dialled(spec, nodes) if addresses]
    share = max(1, MAX_CLUSTER_SEEDS // max(1, len(groups)))
    before = dict.fromkeys(seed.host for seed in chosen)
    kept, fresh = [], []
    for addresses in groups:
        stays = [host for host in before if host in addresses][:share]
        others = sorted(addresses.keys() - set(stays), key=lambda text: _order(addresses, text))
        kept += stays
        fresh += others[: share - len(stays)]
    first = [host for host in before if host in kept]
    return tuple(SeedAddress(host) for host in (first + fresh)[:MAX_CLUSTER_SEEDS])


def _dialled(spec: WesherMeshSpec, nodes: Iterable[NodeFacts]) -> Iterator[dict[str, IPAddress]]:
    """Yield the addresses at which each location's nodes are dialled, from there and from elsewhere."""
    places: dict[str, list[NodeFacts]] = {}
    for node in nodes:
        places.setdefault(location_of(spec, node), []).append(node)
    for _, there in sorted(places.items()):
        inside = [node.address(("InternalIP", "ExternalIP")) for node in there]
        yield {str(address): address for address in inside if address is not None}
        if len(places) > 1:
            outside = [_advertised(spec, node) for node in there]
            yield {str(each): each for each in outside if each is not None and each not in inside}


def _order(addresses: Mapping[str, IPAddress], text: str) -> tuple[int, int]:
    return addresses[text].version, int(addresses[text])


def _advertised(spec: WesherMeshSpec, node: NodeFacts) -> IPAddress | None:
    return node.advertise_address or node.address(spec.addresses.prefer)


def name_of(spec: WesherMeshSpec, member: MemberFacts | NodeFacts) -> str:
    """Return the name under which a node gossips in a mesh."""
    node = member.spec.node_name if isinstance(member, MemberFacts) else member.name
    return member_name(node, spec.cluster_name)
