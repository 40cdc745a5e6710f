"""Which addresses and pod networks each node's certificate may list, and why it may not list others.

Pure. A kubelet writes the addresses of its Node, so what it says is checked against everything that
traffic must not be taken from: Services, the API server, other Nodes, other clusters, and machines that
members dial. Of two Nodes that claim the same, the one whose certificate lists it keeps it, otherwise
the older Node gets it.

Left to others: when a network comes into a certificate (`traffic`), and the certificates (`certifier`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_network

from wesher_common.byte_reader import ascending
from wesher_common.overlay import IPAddress, IPNetwork, host_network
from wesher_common.traffic import TrafficSettings
from wesher_operator.reconcile.facts import MemberFacts, NodeFacts

CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"
"""The admission plugin NodeRestriction lets no kubelet set it."""
NOT_CERTIFIED, OVERLAP = "AddressNotCertified", "AddressOverlap"
_SHORTEST = {4: 8, 6: 16}
"""Prefix length of the largest pod network by IP version: a larger one is not a Node's."""
_LAST_SECOND = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Refused:
    """An address or pod network that a node's certificate does not list."""

    node: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What no node's certificate may list."""

    overlay: IPNetwork
    services: Collection[IPNetwork] = ()
    """Networks of Services."""
    api_servers: Collection[IPAddress] = ()
    """Where the API server listens; control-plane nodes may have these addresses."""
    clusters: Mapping[str, Collection[IPNetwork]] = field(default_factory=dict)
    """Networks of other clusters that the mesh trusts, by cluster name."""
    seeds: Collection[IPAddress] = ()
    """Of external members."""


@dataclass(frozen=True, slots=True)
class Routes:
    """What each node's certificate may list."""

    networks: Mapping[str, tuple[IPNetwork, ...]]
    """By node, in the order of the encoding. A network of one address is a node address."""
    refused: Sequence[Refused]
    """By node."""


@dataclass(frozen=True, slots=True)
class _Claim:
    network: IPNetwork
    node: str
    what: str
    """As a message names it, such as ``InternalIP 192.0.2.1``."""
    is_wanted: bool
    """Whether a certificate is to list it, if nothing is in the way."""
    order: tuple[bool, datetime, str]
    """Of two claims that overlap, the lower one counts."""


def held_networks(member: MemberFacts | None) -> tuple[IPNetwork, ...]:
    """Return the networks in a node's certificate; none where the routes cannot be read."""
    if member is None or not member.spec.certificate:
        return ()
    try:
        return ascending(ip_network(text) for text in member.spec.routes)
    except ValueError:
        return ()


def is_node_address(network: IPNetwork) -> bool:
    """Tell whether a network in a certificate is a node's address; any other is a pod network."""
    return network.prefixlen == network.max_prefixlen


def allowed_routes(
    settings: TrafficSettings,
    nodes: Iterable[NodeFacts],
    others: Iterable[NodeFacts],
    members: Mapping[str, MemberFacts],
    surroundings: Surroundings,
) -> Routes:
    """Decide what each node's certificate may list.

    Args:
        settings: which kinds of traffic the mesh carries.
        nodes: those of the mesh, without addresses in the overlay.
        others: further Nodes of the cluster, whose addresses no node of the mesh gets.
        members: the mesh's WesherNodes by node; what their certificates list already they keep.
        surroundings: what no certificate may list.

    """
    nodes = list(nodes)
    networks: dict[str, tuple[IPNetwork, ...]] = {node.name: () for node in nodes}
    refused: list[Refused] = []
    claims: list[_Claim] = []
    for node in nodes:
        held = set(held_networks(members.get(node.name)))
        addresses = list(_wanted_addresses(settings, node)) if settings.nodes != "None" else []
        if settings.nodes != "None" and not addresses:
            rule = "has no InternalIP of an IP version that spec.traffic.nodeCIDRs has"
            refused.append(Refused(node.name, NOT_CERTIFIED, f"Node {node.name} {rule}"))
        pods = node.pod_cidrs if settings.pods != "None" else ()
        if settings.pods != "None" and not pods:
            refused.append(
                Refused(node.name, NOT_CERTIFIED, f"Node {node.name} has no pod network in spec.podCIDRs")
            )
        for claim in _claims(node, held, {*(host_network(each) for each in addresses), *pods}):
            objection = _objection(claim, node, settings, surroundings) if claim.is_wanted else None
            if objection is None:
                claims.append(claim)
            else:
                refused.append(objection)
    claims += [claim for node in others for claim in _claims(node, set(), set())]
    taken = _Taken(claims)
    for claim in sorted(claims, key=lambda each: each.order):
        other = taken.overlap(claim)
        if other is None:
            taken.add(claim)
            if claim.is_wanted:
                networks[claim.node] = (*networks[claim.node], claim.network)
        elif claim.is_wanted:
            message = f"{claim.what} of Node {claim.node} overlaps {other.what} of Node {other.node}"
            refused.append(Refused(claim.node, OVERLAP, message))
    return Routes(
        {node: ascending(found) for node, found in networks.items()},
        sorted(refused, key=lambda each: each.node),
    )


def _wanted_addresses(settings: TrafficSettings, node: NodeFacts) -> Iterator[IPAddress]:
    """Yield the first InternalIP of each IP version that the settings have a network of."""
    for version in sorted({network.version for network in settings.node_cidrs}):
        found = (
            address for kind, address in node.addresses if kind == "InternalIP" and address.version == version
        )
        if (address := next(found, None)) is not None:
            yield address


def _claims(node: NodeFacts, held: Collection[IPNetwork], wanted: Collection[IPNetwork]) -> Iterator[_Claim]:
    """Yield everything that is a Node's, which no other node may have, each network once."""
    found: dict[IPNetwork, str] = {network: f"pod network {network}" for network in node.pod_cidrs}
    # First, so that a message says InternalIP of an address that the Node lists twice.
    for kind, address in sorted(node.addresses, key=lambda each: each[0] != "InternalIP"):
        found.setdefault(host_network(address), f"{kind} {address}")
    if node.advertise_address is not None:
        found.setdefault(host_network(node.advertise_address), f"advertised address {node.advertise_address}")
    for network, what in found.items():
        order = (network not in held, node.created_at or _LAST_SECOND, node.name)
        yield _Claim(network, node.name, what, network in wanted, order)


def _objection(
    claim: _Claim, node: NodeFacts, settings: TrafficSettings, surroundings: Surroundings
) -> Refused | None:
    """Return why a certificate must not list a network, whatever other Nodes claim."""
    what, network = f"{claim.what} of Node {claim.node}", claim.network
    reason = (
        _why_not_an_address(node, network.network_address, settings, surroundings)
        if is_node_address(network)
        else _why_not_a_pod_network(network)
    )
    if reason:
        return Refused(claim.node, NOT_CERTIFIED, f"{what} {reason}")
    found = next(_overlapped(network, surroundings), None)
    return Refused(claim.node, OVERLAP, f"{what} overlaps {found}") if found is not None else None


def _why_not_an_address(
    node: NodeFacts, address: IPAddress, settings: TrafficSettings, surroundings: Surroundings
) -> str:
    if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local:
        return "cannot be reached from other machines"
    if not any(address in network for network in settings.node_cidrs):
        return "is outside spec.traffic.nodeCIDRs"
    if address in surroundings.api_servers and CONTROL_PLANE_LABEL not in node.labels:
        return f"is the API server's, and the Node lacks the label {CONTROL_PLANE_LABEL}"
    return ""


def _why_not_a_pod_network(network: IPNetwork) -> str:
    shortest = _SHORTEST[network.version]
    return f"is larger than /{shortest}" if network.prefixlen < shortest else ""


def _overlapped(network: IPNetwork, surroundings: Surroundings) -> Iterator[str]:
    """Yield what a network overlaps that is not a Node's."""
    if network.overlaps(surroundings.overlay):
        yield f"spec.overlayCIDR {surroundings.overlay}"
    for services in surroundings.services:
        if network.overlaps(services):
            yield f"the Service network {services}"
    for cluster, networks in surroundings.clusters.items():
        for foreign in networks:
            if network.overlaps(foreign):
                yield f"the network {foreign} of the trusted cluster {cluster}"
    yield from (f"{seed} in spec.seedNodes" for seed in surroundings.seeds if seed in network)
    api_servers = () if is_node_address(network) else surroundings.api_servers
    yield from (f"the API server's address {address}" for address in api_servers if address in network)


class _Taken:
    """Claims of which those of different Nodes do not overlap; a thousand Nodes have some thousands.

    Args:
        claims: all that may come, for their prefix lengths.

    """

    def __init__(self, claims: Iterable[_Claim]) -> None:
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}
        for claim in claims:
            self._lengths[claim.network.version].add(claim.network.prefixlen)
        self._exact: dict[tuple[int, int, int], _Claim] = {}
        self._inside: dict[tuple[int, int, int], list[_Claim]] = {}
        """By larger network, up to two claims inside it that are of different Nodes."""

    def overlap(self, claim: _Claim) -> _Claim | None:
        """Return a claim of another Node that overlaps one."""
        own = claim.network.prefixlen
        found = [
            self._exact.get(_key(claim.network, length))
            for length in self._lengths[claim.network.version]
            if length <= own
        ]
        found += self._inside.get(_key(claim.network, own), [])
        return next((each for each in found if each is not None and each.node != claim.node), None)

    def add(self, claim: _Claim) -> None:
        """Take a claim that overlaps none of another Node."""
        own = claim.network.prefixlen
        self._exact.setdefault(_key(claim.network, own), claim)
        for length in self._lengths[claim.network.version]:
            if length < own:
                inside = self._inside.setdefault(_key(claim.network, length), [])
                if len(inside) < 2 and all(each.node != claim.node for each in inside):  # noqa: PLR2004
                    inside.append(claim)


def _key(network: IPNetwork, length: int) -> tuple[int, int, int]:
    """Return what tells the network of that prefix length around a network from others."""
    return network.version, length, int(network.network_address) >> (network.max_prefixlen - length)
