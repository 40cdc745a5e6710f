"""What a node carries of the cluster's own traffic: whose networks, which routes, from which sources.

Pure, and called by `desired` with the members that get a peer. A member carries what its certificate
lists: a network of one address is an address of the node, any other one holds its pods. Accepting comes
before routing: allowed IPs follow from the certificates alone, whatever the settings say, while routes
also need the settings and the time in which others learn of this node's networks (`carry_start`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import Final

from wesher_agent.mesh.device import CarriedRoute, Carrying, DirectRule
from wesher_agent.mesh.host import HostNetwork
from wesher_agent.mesh.identity import Rank
from wesher_agent.mesh.problem import Problem
from wesher_agent.mesh.roster import RosterMember
from wesher_common.mesh_document import TrustedAuthority
from wesher_common.overlay import IPAddress, IPNetwork, host_network
from wesher_common.traffic import TrafficSettings

NETWORK_OVERLAP: Final = "NetworkOverlap"
"""The reason of a problem: a certified network is not used."""
_UNCHOSEN: Final[tuple[IPNetwork, ...]] = (IPv4Network("0.0.0.0/32"), IPv6Network("::/128"))
"""Packets whose source is not chosen yet, by family."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTraffic:
    """What decides what this node carries, beside the other members."""

    settings: TrafficSettings
    networks: tuple[IPNetwork, ...] = ()
    """Certified of this node."""
    known: frozenset[IPNetwork] = frozenset()
    """Those of them that the other members have had the time to learn of."""
    present: frozenset[IPAddress] = frozenset()
    """This host's addresses, those of the device aside."""
    underlay: frozenset[IPAddress] = frozenset()
    """These, its gateways and its nameservers. Packets to those two go through no tunnel."""
    trusted: tuple[TrustedAuthority, ...] = ()
    loose_links: tuple[str, ...] = ()
    """As of `Carrying`."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What follows for the device."""

    allowed_ips: Mapping[str, tuple[IPNetwork, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Of the members that carry anything beside their overlay address, that address included; by name."""
    carrying: Carrying | None = None
    problems: tuple[Problem, ...] = ()


NOTHING_CARRIED: Final = Carried()


def carry(
    own: OwnTraffic | None,
    members: Iterable[RosterMember],
    *,
    overlay: IPNetwork,
    address: IPAddress,
    location: str,
) -> Carried:
    """Return what this node carries.

    Args:
        own: None for a machine outside Kubernetes, which carries nothing.
        members: those with a peer, of which no two have one name or overlay address.
        overlay: the mesh's network.
        address: this node's overlay address.
        location: where this node is; empty for no location.

    """
    if own is None:
        return NOTHING_CARRIED
    with_networks = [
        member
        for member in members
        if member.verdict.is_certified and member.meta is not None and member.meta.networks
    ]
    # In a mesh of a thousand, few of the events after which all is computed again change any of this.
    key = tuple((member.name, member.verdict.weight, member.raw_meta) for member in with_networks)
    return _carried(_Question(key, with_networks), own, overlay, address, location)


def loose_links(host: HostNetwork, addresses: Iterable[IPAddress], *, own_link: str) -> tuple[str, ...]:
    """Return the underlay's links on which carried peers' packets may arrive, sorted.

    Args:
        host: this host.
        addresses: at which it is reached: its certified node addresses and those that gossip uses.
        own_link: the WireGuard device.

    """
    reached = {*addresses}
    links = {
        entry.link
        for entry in host.addresses
        if (entry.address in reached or entry.has_default_route) and not entry.address.is_loopback
    }
    return tuple(sorted(links - {own_link, "lo"}))


def is_node_address(network: IPNetwork) -> bool:
    """Tell whether a certified network is an address of a node, and not one of pods."""
    return network.prefixlen == network.max_prefixlen


def is_present(network: IPNetwork, addresses: frozenset[IPAddress]) -> bool:
    """Tell whether packets from a network of this node can have it as their source."""
    return not is_node_address(network) or network.network_address in addresses


@dataclass(frozen=True, slots=True)
class _Question:
    """The members, compared by what decides about them."""

    key: tuple[tuple[str, tuple[Rank, int], bytes], ...]
    members: Sequence[RosterMember] = field(compare=False)


@lru_cache(maxsize=2)
def _carried(
    question: _Question, own: OwnTraffic, overlay: IPNetwork, address: IPAddress, location: str
) -> Carried:
    problems: list[Problem] = []
    accepted = _accepted(own, question.members, overlay, problems)
    settings = own.settings
    if not settings.is_on and not accepted:
        return Carried(problems=tuple(problems))
    chosen = _chosen(own, accepted, location, problems)
    routes, sources = _routed(own, chosen, address)
    carrying = Carrying(
        mark=settings.mark,
        table=settings.table,
        priority=settings.rule_priority,
        routes=routes,
        sources=sources,
        direct=_direct(settings, sources, own.present) if routes else (),
        loose_links=own.loose_links,
    )
    allowed_ips = {
        member.name: _in_order([*networks, host_network(member.meta.overlay_address)])
        for member, networks in accepted
        if member.meta is not None and member.meta.overlay_address is not None
    }
    return Carried(MappingProxyType(allowed_ips), carrying, tuple(problems))


_Accepted = list[tuple[RosterMember, list[IPNetwork]]]


def _accepted(
    own: OwnTraffic, members: Iterable[RosterMember], overlay: IPNetwork, problems: list[Problem]
) -> _Accepted:
    """Return whose packets from which networks are accepted.

    Of two networks that overlap, all nodes keep the same one: first that of this cluster's authority, then
    that of the newer certificate.
    """
    cidrs = {authority.key.id: authority.cidrs for authority in own.trusted}
    taken = _Taken(
        (overlay, "the overlay"),
        *((network, "a certified network of this node") for network in own.networks),
        *((host_network(address), "an address of this host") for address in own.present),
    )
    accepted = []
    for member in sorted(members, key=_by_weight):
        kept = []
        for network in _usable(member, cidrs):
            holder = taken.take(network, member.name)
            if holder is None:
                kept.append(network)
            else:
                problems.append(_overlap(member, network, holder))
        if kept:
            accepted.append((member, kept))
    return accepted


def _overlap(member: RosterMember, network: IPNetwork, holder: str) -> Problem:
    message = f"packets to its certified network {network} are not carried: it overlaps {holder}"
    return Problem(member.name, NETWORK_OVERLAP, message)


def _by_weight(member: RosterMember) -> tuple[int, int, str]:
    authority, serial = member.verdict.weight
    return -authority, -serial, member.name


def _usable(member: RosterMember, cidrs: Mapping[bytes, Sequence[IPNetwork]]) -> Sequence[IPNetwork]:
    """Return the networks that a member's authority may certify here."""
    meta = member.meta
    if meta is None or meta.certificate is None:
        return ()
    if member.verdict.rank is Rank.OWN:
        return meta.networks
    # Another cluster's nodes carry more among themselves; that does not concern this one.
    inside = cidrs.get(meta.certificate.authority, ())
    return [
        network
        for network in meta.networks
        if not is_node_address(network) and any(_contains(cidr, network) for cidr in inside)
    ]


def _chosen(own: OwnTraffic, accepted: _Accepted, location: str, problems: list[Problem]) -> _Accepted:
    """Return to which of the accepted networks the settings send packets through the tunnels.

    What this host reaches other hosts through is left out. It is accepted all the same: the member that has
    it knows nothing of this, and sends its own packets through the tunnel.
    """
    if not own.settings.is_on:
        return []
    needed = sorted(own.underlay - own.present, key=str)
    chosen = []
    for member, networks in accepted:
        kept = []
        for network in networks:
            if not _is_routed(own.settings, member, network, location):
                continue
            holder = next((each for each in needed if each in network), None)
            if holder is None:
                kept.append(network)
            else:
                what = f"{host_network(holder)}, a gateway or nameserver of this host"
                problems.append(_overlap(member, network, what))
        chosen.append((member, kept))
    return chosen


def _routed(
    own: OwnTraffic, chosen: _Accepted, address: IPAddress
) -> tuple[tuple[CarriedRoute, ...], tuple[IPNetwork, ...]]:
    """Return the routes, and the sources of the packets that they apply to; nothing while only accepting."""
    announced = [network for network in own.networks if network in own.known]
    if not announced:
        return (), ()
    sources = [network for network in announced if is_present(network, own.present)]
    node_addresses: dict[int, IPAddress] = {}
    for network in filter(is_node_address, sources):
        node_addresses.setdefault(network.version, network.network_address)
    sources.append(host_network(address))
    families = {network.version for network in sources}
    routes = []
    for member, networks in chosen:
        for network in networks:
            # Without a source of the family that the peer accepts, it would drop every packet.
            if network.version in families:
                of_family = address if network.version == address.version else None
                source = (
                    node_addresses.get(network.version, of_family)
                    if member.verdict.rank is Rank.OWN
                    else of_family
                )
                routes.append(CarriedRoute(network, source))
    if not routes:
        return (), ()
    return tuple(sorted(routes, key=lambda route: _order(route.network))), _in_order({*sources})


def _is_routed(settings: TrafficSettings, member: RosterMember, network: IPNetwork, location: str) -> bool:
    if member.verdict.rank is not Rank.OWN:
        return settings.pods != "None"
    there = member.meta.location if member.meta is not None else ""
    way = settings.nodes if is_node_address(network) else settings.pods
    return way == "All" or (way == "OtherLocations" and "" not in {location, there} and location != there)


def _direct(
    settings: TrafficSettings, sources: Iterable[IPNetwork], present: frozenset[IPAddress]
) -> tuple[DirectRule, ...]:
    """Return what goes through no tunnel although a carried route leads there."""
    rules = set()
    for server in settings.api_servers:
        if server.address is None:
            continue
        there = host_network(server.address)
        rules.add(DirectRule("tcp", destinations=there, destination_port=server.port))
        if server.address in present:
            rules.add(DirectRule("tcp", sources=there, source_port=server.port))
    if settings.nodes != "None":
        # Pods have other sources, so that their packets to such a port are carried.
        nodes = [network for network in sources if network in map(host_network, present)]
        for port in settings.direct:
            for there in settings.node_cidrs:
                for source in (*nodes, *_UNCHOSEN):
                    if source.version == there.version:
                        rules.add(DirectRule(port.transport, source, there, None, port.port))
                        rules.add(DirectRule(port.transport, source, there, port.port, None))
    return tuple(sorted(rules, key=_rule_order))


class _Taken:
    """Networks of which no two overlap, each with its holder.

    By family, sorted: of a thousand members with three networks each, asking one after the other is slow.

    Args:
        reserved: what is this node's own, with what it is.

    """

    def __init__(self, *reserved: tuple[IPNetwork, str]) -> None:
        self._starts: dict[int, list[int]] = {4: [], 6: []}
        self._ends: dict[int, list[tuple[int, str]]] = {4: [], 6: []}
        """The last address of each, and what it is."""
        # The largest first: what is in it needs no entry of its own.
        for network, what in sorted(reserved, key=lambda entry: entry[0].prefixlen):
            self._take(network, f"{network}, {what}")

    def take(self, network: IPNetwork, holder: str) -> str | None:
        """Take a network for a member, or return what it overlaps."""
        return self._take(network, f"{network} of {holder}")

    def _take(self, network: IPNetwork, what: str) -> str | None:
        starts, ends = self._starts[network.version], self._ends[network.version]
        first = int(network.network_address)
        last = first + (1 << (network.max_prefixlen - network.prefixlen)) - 1
        # The last one that begins in or before it: those before that one end even earlier.
        before = bisect_right(starts, last) - 1
        if before >= 0 and ends[before][0] >= first:
            return ends[before][1]
        starts.insert(before + 1, first)
        ends.insert(before + 1, (last, what))
        return None


def _contains(network: IPNetwork, other: IPNetwork) -> bool:
    same_family = network.version == other.version
    return same_family and network.prefixlen <= other.prefixlen and other.network_address in network


def _in_order(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    return tuple(sorted(networks, key=_order))


def _order(network: IPNetwork) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _rule_order(rule: DirectRule) -> tuple[str, str, str, int, int]:
    sources, destinations = str(rule.sources or ""), str(rule.destinations or "")
    return rule.transport, sources, destinations, rule.source_port or 0, rule.destination_port or 0
