"""Why a mesh must not run: what it wants belongs to something else already.

Pure. Two meshes on one host cannot share an interface or a port, and two
networks that overlap would steal each other's packets. Each refusal names both
sides and a value that is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network

from wesher_common.names import MAX_INTERFACE_NAME
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.seeds import MAX_PORT
from wesher_operator.reconcile.facts import MeshFacts, NodeFacts
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
    return _conflict(
        mesh.name, mesh.spec, [(other.name, other.spec) for other in older if other.spec], world
    ) or _overlap(mesh.spec, world)


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


def _overlap(spec: WesherMeshSpec, world: World) -> Refusal | None:
    overlay = spec.overlay
    for what in _clashes(overlay, world):
        return Refusal(
            "OverlappingNetwork",
            f"spec.overlayCIDR {overlay} overlaps {what}; {free_network(overlay, _occupied(world))} is free",
        )
    return None


def _clashes(overlay: IPNetwork, world: World) -> Iterator[str]:
    for _, services in sorted(world.service_cidrs.items()):
        for network in services.networks:
            if overlay.overlaps(network):
                yield f"the Service network {network}"
    for _, api_server in sorted(world.api_server.items()):
        for address in api_server.addresses:
            if address in overlay:
                # Agents let nothing for the overlay out by another way: every node would lose it.
                yield f"the API server's address {address}"
    for _, node in sorted(world.nodes.items()):
        yield from _clashes_of_node(overlay, node)


def _clashes_of_node(overlay: IPNetwork, node: NodeFacts) -> Iterator[str]:
    for network in node.pod_cidrs:
        if overlay.overlaps(network):
            yield f"the pod network {network} of Node {node.name}"
    for kind, address in node.addresses:
        if address in overlay:
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
    raise AssertionError("more names were tried than are taken")


def _free_port(wanted: int, taken: set[int]) -> int:
    for offset in range(1, MAX_PORT):
        port = (wanted + offset - 1) % MAX_PORT + 1
        if port not in taken:
            return port
    raise AssertionError("more ports were tried than are taken")
