"""Why a mesh must not run: what it wants belongs to something else already.

Pure. Two meshes on one host cannot share an interface or a port, and two
networks that overlap would steal each other's packets. Each refusal names both
sides and a value that is free.

A network that overlaps is a reason not to start a mesh, never to stop one: its
agents run on anyway, and every Node that joins needs its place. So a mesh that
is published is reconciled, and `overlaps` tells what its status reports.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network

from wesher_common.mesh_document import GossipSettings, WireGuardSettings
from wesher_common.names import MAX_INTERFACE_NAME, config_map_name, released_config_map_name
from wesher_common.overlay import IPAddress, IPNetwork, candidate_address
from wesher_common.seeds import MAX_PORT
from wesher_operator.reconcile.allocation import name_of
from wesher_operator.reconcile.facts import MeshFacts, NodeFacts
from wesher_operator.reconcile.membership import Released
from wesher_operator.reconcile.on_top import machine_mesh, nodes_inside, shared_with
from wesher_operator.reconcile.world import World
from wesher_operator.resources.mesh import WesherMeshSpec

# Where free networks are looked for, and from which address on: clusters and homes crowd the beginning.
_PRIVATE_V4 = (
    ("10.0.0.0/8", "10.189.0.0"),
    ("172.16.0.0/12", "172.24.0.0"),
    ("192.168.0.0/16", "192.168.0.0"),
)
_PRIVATE_V6 = (("fd00::/8", "fd00:bd::"),)
_MAX_TRIES = 4096


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason for ``Ready=False`` before anything is made."""

    reason: str
    message: str


def refusal(mesh: MeshFacts, world: World) -> Refusal | None:
    """Return why a mesh is refused, or None when it may run."""
    if mesh.spec is None:
        return Refusal("InvalidSpec", mesh.problem)
    older = [
        other
        for other in world.meshes.values()
        if other.age_order < mesh.age_order and not other.deleting and other.spec is not None
    ]
    conflict = _conflict(
        mesh.name, mesh.spec, [(other.name, other.spec) for other in older if other.spec], world
    )
    if conflict is not None or _is_published(mesh, world):
        return conflict
    if (on_top := _on_top(mesh.spec, older, world)) is not None:
        return on_top
    for what in _clashes(mesh, mesh.spec, world):
        overlay = mesh.spec.overlay
        return Refusal(
            "OverlappingNetwork",
            f"spec.overlayCIDR {overlay} overlaps {what}; {free_network(overlay, _occupied(world))} is free",
        )
    return None


def overlaps(mesh: MeshFacts, world: World) -> list[str]:
    """Return what overlaps the network of a mesh that runs, each as a sentence for its status."""
    if mesh.spec is None:
        return []
    overlay = mesh.spec.overlay
    return [
        f"spec.overlayCIDR {overlay} overlaps {what}; nodes may not be able to reach it"
        for what in _clashes(mesh, mesh.spec, world)
    ]


def nodes_on_overlay(mesh: MeshFacts, world: World) -> list[str]:
    """Return which Nodes of a mesh that runs have no address outside it, each as a sentence."""
    if mesh.spec is None:
        return []
    held = _addresses_of_members(mesh, world)
    return [
        f"Node {name} has no InternalIP outside spec.overlayCIDR {mesh.spec.overlay}, so its address depends "
        "on its agent, a pod: remove --node-ip from its kubelet, or replace this mesh by wesher as a service "
        "on the machines"
        for name in nodes_inside(world.nodes, mesh.spec)
        if any(address in held for _, address in world.nodes[name].addresses)
    ]


def _on_top(spec: WesherMeshSpec, older: list[MeshFacts], world: World) -> Refusal | None:
    """Refuse a mesh that conflicts with the mesh of the machines on which the cluster runs."""
    machines = machine_mesh(world.nodes)
    shared = shared_with(machines, spec) if machines is not None else []
    if machines is None or not shared:
        return None
    occupied = [*_occupied(world), *machines.networks]
    taken = {each.spec.wireguard.interface for each in older if each.spec}
    ports = {
        *(port for each in older if each.spec for port in (each.spec.wireguard.port, each.spec.gossip.port)),
        *(spec.wireguard.port, spec.gossip.port, WireGuardSettings().port, GossipSettings().port),
    }
    free = {
        "overlayCIDR": free_network(spec.overlay, occupied),
        "wireguard.interface": _free_interface(spec.wireguard.interface, taken | {spec.wireguard.interface}),
        "wireguard.port": _free_port(spec.wireguard.port, ports),
        "gossip.port": _free_port(spec.gossip.port, ports),
    }
    return Refusal(
        "NodesUseOverlay",
        f"the InternalIPs of {machines.named()} are overlay addresses of wesher on the machines, which "
        "encrypts the traffic between them already: delete this mesh. If you need a second mesh, give it "
        f"values that the machines do not use: {', '.join(f'{field} {free[field]}' for field in shared)}",
    )


def _is_published(mesh: MeshFacts, world: World) -> bool:
    """Tell whether agents may run for this very mesh already."""
    config = world.config_maps.get(config_map_name(mesh.name))
    owners = (config.body["metadata"].get("ownerReferences") or []) if config is not None else []
    return any(owner.get("uid") == mesh.uid for owner in owners) or any(
        member.spec.mesh_ref.uid == mesh.uid for member in world.members.values()
    )


def _conflict(
    name: str, spec: WesherMeshSpec, older: list[tuple[str, WesherMeshSpec]], world: World
) -> Refusal | None:
    for other_name, other in sorted(older, key=lambda each: each[0]):
        both = f"meshes {name} and {other_name} both want"
        if spec.wireguard.interface == other.wireguard.interface:
            taken = {each.wireguard.interface for _, each in older}
            free = _free_interface(spec.wireguard.interface, taken)
            return Refusal(
                "Conflict", f"{both} interface {spec.wireguard.interface}; wireguard.interface {free} is free"
            )
        ports = {"wireguard.port": spec.wireguard.port, "gossip.port": spec.gossip.port}
        for field, port in ports.items():
            if port in {other.wireguard.port, other.gossip.port}:
                taken_ports = {p for _, each in older for p in (each.wireguard.port, each.gossip.port)}
                free_port = _free_port(port, taken_ports | set(ports.values()))
                return Refusal("Conflict", f"{both} port {port}; {field} {free_port} is free")
        if spec.overlay.overlaps(other.overlay):
            return Refusal(
                "Conflict",
                f"{both} addresses of {_shared(spec.overlay, other.overlay)}; "
                f"overlayCIDR {free_network(spec.overlay, _occupied(world))} is free",
            )
    return None


def _clashes(mesh: MeshFacts, spec: WesherMeshSpec, world: World) -> Iterator[str]:
    overlay, members = spec.overlay, _addresses_of_members(mesh, world)
    for _, services in sorted(world.service_cidrs.items()):
        for network in services.networks:
            if overlay.overlaps(network):
                yield f"the Service network {network}"
    for _, api_server in sorted(world.api_server.items()):
        for address in api_server.addresses:
            if address in overlay and address not in members:
                # Agents let nothing for the overlay out by another way: every node would lose it.
                yield f"the API server's address {address}"
    for _, node in sorted(world.nodes.items()):
        yield from _clashes_of_node(spec, node, members)


def _addresses_of_members(mesh: MeshFacts, world: World) -> set[IPAddress]:
    """Return the overlay addresses of a mesh's members: kubelets and cloud controllers list them too.

    Those of members that left count as well: a Node lists an address for a while after its device is gone.
    """
    released = Released.of(world.config_maps.get(released_config_map_name(mesh.name)))
    return {*released.addresses, *(member.address for member in world.members_of(mesh.name))}


def _clashes_of_node(spec: WesherMeshSpec, node: NodeFacts, members: Container[IPAddress]) -> Iterator[str]:
    overlay = spec.overlay
    for network in node.pod_cidrs:
        if overlay.overlaps(network):
            yield f"the pod network {network} of Node {node.name}"
    is_elsewhere = any(address not in overlay for _, address in node.addresses)
    for kind, address in node.addresses:
        if address not in overlay or address in members:
            continue
        # The address that its name leads to is from an earlier mesh, whose device may still be there.
        if not (is_elsewhere and address == candidate_address(name_of(spec, node), spec.allocation)):
            yield f"the {kind} {address} of Node {node.name}"


def _occupied(world: World) -> list[IPNetwork]:
    networks = [mesh.spec.overlay for mesh in world.meshes.values() if mesh.spec is not None]
    for services in world.service_cidrs.values():
        networks += services.networks
    for api_server in world.api_server.values():
        networks += [ip_network(str(address)) for address in api_server.addresses]
    for node in world.nodes.values():
        networks += node.pod_cidrs
        networks += [ip_network(str(address)) for _, address in node.addresses]
    return networks


def free_network(like: IPNetwork, occupied: Iterable[IPNetwork]) -> str:
    """Return a private network of the same size that overlaps none of those occupied."""
    # Thousands of nodes' networks are mostly neighbours, and make a few large ones.
    alike = (network for network in occupied if network.version == like.version)
    occupied = list(collapse_addresses(alike))  # type: ignore[type-var]  # they are of one version
    for space, start in _PRIVATE_V4 if like.version == 4 else _PRIVATE_V6:  # noqa: PLR2004 - IP's version
        for candidate in _subnets(ip_network(space), ip_address(start), like.prefixlen):
            if not any(candidate.overlaps(network) for network in occupied):
                return str(candidate)
    return "no private network of that size"


def _subnets(space: IPNetwork, start: IPAddress, prefix: int) -> Iterator[IPNetwork]:
    """Yield some subnets of a space from ``start`` on, going round."""
    if prefix < space.prefixlen:
        return
    make = IPv4Network if isinstance(space, IPv4Network) else IPv6Network
    step = 1 << (space.max_prefixlen - prefix)
    count = 1 << (prefix - space.prefixlen)
    first = int(space.network_address)
    begin = (int(start) - first) // step
    for index in range(min(count, _MAX_TRIES)):
        yield make((first + (begin + index) % count * step, prefix))


def _shared(one: IPNetwork, other: IPNetwork) -> IPNetwork:
    """Return the smaller of two networks that overlap, which is what both hold."""
    return max(one, other, key=lambda network: network.prefixlen)


def _free_interface(wanted: str, taken: set[str]) -> str:
    for number in range(1, len(taken) + 2):
        name = f"{wanted[: MAX_INTERFACE_NAME - len(str(number))]}{number}"
        if name not in taken:
            return name
    raise AssertionError("every name tried is taken")


def _free_port(wanted: int, taken: set[int]) -> int:
    for offset in range(1, MAX_PORT):
        port = (wanted + offset - 1) % MAX_PORT + 1
        if port not in taken:
            return port
    raise AssertionError("every port tried is taken")
