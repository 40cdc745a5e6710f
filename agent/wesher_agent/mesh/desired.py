"""From members to the desired state of the host: device, hosts entries, and what is wrong.

Pure, and the same on every node: of two claimants of one overlay address all
program the same one, and of two members with one key too. `roster` says who is
expected; the `wireguard` and `files` packages make it so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final

from wesher_agent.mesh.carrying import OwnTraffic, carry
from wesher_agent.mesh.cover import NO_COVER, Cover, UnreachableRoute, choose_cover
from wesher_agent.mesh.device import DeviceConfig, Endpoint, Peer
from wesher_agent.mesh.identity import Rank
from wesher_agent.mesh.nodemeta import NodeMeta
from wesher_agent.mesh.problem import Problem
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_common.certificate import Refusal
from wesher_common.errors import InvalidSpec
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.mesh_document import EtcHosts
from wesher_common.names import (
    HOSTS_DOMAIN,
    MAX_MEMBER_NAME,
    is_like_address,
    is_member_name,
    is_reserved_name,
)
from wesher_common.overlay import IPAddress, IPNetwork, allocate_address, host_network, is_reserved

NAT_KEEPALIVE: Final = 25
"""Seconds; what wg(8) advises to keep a NAT's mapping open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPeer:
    """The local node as a WireGuard peer: all that the device and the hosts file depend on."""

    name: str
    mesh: str = ""
    """The WesherMesh's name; empty outside Kubernetes."""
    interface: str
    private_key: WireGuardPrivateKey = field(repr=False)
    listen_port: int
    """Also every peer's, unless it says otherwise, as in the Go program."""
    address: IPAddress
    """Our overlay address as last announced."""
    movable: bool
    """Whether we may take another one in a clash: not in Kubernetes, where it is given."""
    overlay: IPNetwork
    mtu: int = 0
    """Bytes; 0 leaves it to the tunnel, which asks the underlay."""
    location: str = ""
    """Members that name the same one are dialled at their internal address; empty means no location."""
    behind_nat: bool = False
    persistent_keepalive: int = 0
    """Seconds; 0 leaves it to ``behind_nat``."""
    etc_hosts: EtcHosts = "Names"
    in_kubernetes: bool = False
    unreachable_route: UnreachableRoute = "auto"
    underlay: frozenset[IPAddress] = frozenset()
    """Local addresses, gateways, nameservers, seeds: never reached through the overlay.
    Members' own endpoints are added to them here."""
    own_addresses: frozenset[IPAddress] = frozenset()
    """Where the underlay leads to this machine itself: its addresses, and the announced one."""
    seed_names: frozenset[str] = frozenset()
    """The names of seeds, in lower case and without a dot at the end."""
    weight: tuple[Rank, int] = (Rank.NONE, 0)
    """Of our own certificate, as `Verdict.weight`."""
    only_certified: bool = False
    """Whether members without a certificate get no tunnel."""
    traffic: OwnTraffic | None = None
    """None outside Kubernetes: only nodes carry traffic of the cluster."""


@dataclass(frozen=True, slots=True)
class HostEntry:
    """One line of the hosts file."""

    address: IPAddress
    name: str


@dataclass(frozen=True, slots=True)
class Desired:
    """The desired state of the host, as it follows from the members."""

    device: DeviceConfig
    """Its ``address`` differs from the local peer's when that has to move: announce the new one."""
    hosts: tuple[HostEntry, ...]
    """Sorted by name; remote members only, and only those with a tunnel."""
    problems: tuple[Problem, ...]
    """Sorted."""
    tunnels: Mapping[str, tuple[WireGuardPublicKey, IPAddress]] = field(default_factory=dict)
    """The members with a tunnel, by name: public key and overlay address."""
    endpoints: frozenset[IPAddress] = frozenset()
    """Where members are reached in the underlay: the ways to them decide the MTU."""
    cover: Cover = NO_COVER
    """What the device's ``unreachable`` networks are chosen by."""


def desired(
    local: LocalPeer,
    members: Iterable[RosterMember],
    former: Collection[IPAddress] = (),
    proven: Mapping[WireGuardPublicKey, Endpoint] = MappingProxyType({}),
) -> Desired:
    """Return what the host should look like.

    Alive, suspected and failed members get a peer and a hosts entry; those that left get
    none, unless they are certified: gossip removes no certified peer.
    A failed member whose name is a seed's gets a peer only, see `_hides_seed`.

    Args:
        local: this member.
        members: the others.
        former: overlay addresses of members that are not among these any more.
        proven: where the last handshake of a key proved its peer to be.

    """
    problems: list[Problem] = []
    known = [*members]
    expected = [member for member in known if member.is_expected]
    # Where a member that gets no tunnel claims to be decides nothing.
    with_tunnel = [m for m in expected if m.verdict.is_certified or not local.only_certified]
    endpoints = _endpoints(local, with_tunnel, proven)
    # In Kubernetes the overlay overlaps nothing: an endpoint inside it is bogus and reserves no address.
    inside = {address for address in endpoints if address in local.overlay} if local.in_kubernetes else set()
    readable = _readable(local, expected, problems)
    # Endpoints are unsigned: none makes an address one of the underlay that a certificate gives to a member.
    certified = {claim.address for claim in readable if claim.member.verdict.is_certified}
    bogus = inside | certified
    underlay = local.underlay | (endpoints - bogus)
    claims = _one_per_key(local, _reached_outside(local, readable, inside, problems), problems)
    address = _settled_address(local, claims, underlay, problems)
    programmed = [
        claim
        for claim in _one_per_address(claims, problems)
        if _may_be_routed(claim, address, underlay, problems)
    ]
    _report_endpoints(local, claims, problems)
    carried = carry(
        local.traffic,
        (claim.member for claim in programmed),
        overlay=local.overlay,
        address=address,
        location=local.location,
    )
    problems += carried.problems
    keepalive = local.persistent_keepalive or (NAT_KEEPALIVE if local.behind_nat else 0)
    peers = [
        Peer(
            public_key=claim.key,
            endpoint=(endpoint := _endpoint_outside(local, claim, bogus)),
            allowed_ips=carried.allowed_ips.get(claim.member.name) or (host_network(claim.address),),
            persistent_keepalive=keepalive,
            proven=_proven_elsewhere(endpoint, proven.get(claim.key), bogus),
        )
        for claim in programmed
    ]
    cover = choose_cover(
        local.unreachable_route,
        in_kubernetes=local.in_kubernetes,
        overlay=local.overlay,
        host=local.underlay,
        endpoints=endpoints,
    )
    used = {member.meta.overlay_address for member in known if member.meta is not None}.union(former)
    device = DeviceConfig(
        interface=local.interface,
        private_key=local.private_key,
        listen_port=local.listen_port,
        address=address,
        overlay=local.overlay,
        mtu=local.mtu,
        peers=tuple(sorted(peers, key=lambda peer: peer.public_key.raw)),
        unreachable=cover.networks(
            local.overlay,
            (
                each
                for each in used
                if each is not None and each in local.overlay and each != address and each not in underlay
            ),
        ),
        carrying=carried.carrying,
    )
    return Desired(
        device,
        _hosts(local, programmed, problems),
        tuple(sorted(problems)),
        tunnels={claim.member.name: (claim.key, claim.address) for claim in programmed},
        endpoints=endpoints - inside,
        cover=cover,
    )


def starting_address(
    name: str, overlay: IPNetwork, *, saved: IPAddress | None, taken: Collection[IPAddress]
) -> IPAddress:
    """Return the overlay address to announce first, if none is given: the saved one, otherwise by hash.

    Args:
        name: this member's.
        overlay: the mesh's network.
        saved: the one this name had before a restart.
        taken: addresses that others have, as far as known.

    Raises:
        InvalidSpec: the overlay is full.

    """
    if saved is not None and saved in overlay and not is_reserved(saved, overlay):
        return saved
    address = allocate_address(name, overlay, taken)
    if address is None:
        raise InvalidSpec("overlay network", "has no free address: choose a larger network", value=overlay)
    return address


def view_hash(local: LocalPeer, members: Iterable[RosterMember]) -> str:
    """Return 12 hex digits that are equal on two nodes that see the same members alive.

    Covers name, overlay address and key of each living member. One that is not alive
    shows by its absence, since how long it is remembered differs from node to node.
    Where only certified members get a tunnel, others are left out: anyone with the cluster
    key can invent them, and each node remembers some of them.
    """
    view = [(local.name, str(local.address), str(local.private_key.public))]
    for member in members:
        if member.state.is_alive and (member.verdict.is_certified or not local.only_certified):
            meta = member.meta
            view.append(
                (member.name, str(meta.overlay_address), str(meta.public_key))
                if meta
                else (member.name, "", "")
            )
    return hashlib.sha256(json.dumps(sorted(view)).encode()).hexdigest()[:12]


KEY_COPIED = "KeyCopied"
"""Why this member's own WireGuard key is in doubt."""
_NEW_KEY = "if one is a copy of the other's disk, run `wesher rekey` on the copy"


@dataclass(frozen=True, slots=True)
class _Claim:
    """A member that says which key and overlay address are its local."""

    member: RosterMember
    meta: NodeMeta
    key: WireGuardPublicKey
    address: IPAddress

    @property
    def rank(self) -> _Rank:
        """Of two claimants of an address the lower keeps it."""
        return _rank(self.member.verdict.weight, is_movable=self.meta.is_movable, name=self.member.name)


_Rank = tuple[int, int, bool, str]


def _rank(weight: tuple[Rank, int], *, is_movable: bool, name: str) -> _Rank:
    authority, serial = weight
    return -authority, -serial, is_movable, name


def _readable(local: LocalPeer, members: Iterable[RosterMember], problems: list[Problem]) -> list[_Claim]:
    claims = []
    for member in members:
        claim = _claim(local, member)
        if isinstance(claim, Problem):
            problems.append(claim)
        else:
            claims.append(claim)
    return claims


def _claim(local: LocalPeer, member: RosterMember) -> _Claim | Problem:  # noqa: PLR0911 - one for each problem
    name, meta = member.name, member.meta
    if not is_member_name(name):
        shown = ascii(name)[1:-1][:MAX_MEMBER_NAME]
        return Problem(
            shown,
            "BadName",
            "has a name that is not valid in a hosts file: give the machine a valid hostname",
        )
    if local.only_certified and (refused := _refused(local, member)) is not None:
        # Whatever else is wrong, it would have no tunnel, and anyone with the cluster key can invent it.
        return refused
    if member.problem == "metadata-of-wesher-0.2":
        return Problem(
            name, "OldRelease", "runs wesher 0.2, which cannot read this node's metadata: upgrade it"
        )
    if member.problem and member.problem != "metadata-missing":
        return Problem(name, "BadMetadata", f"announces metadata that cannot be read ({member.problem})")
    if meta is None or meta.public_key is None or meta.overlay_address is None:
        return Problem(name, "NoMetadata", "has not announced its key and overlay address yet")
    if meta.overlay_address not in local.overlay:
        return Problem(
            name,
            "OutsideOverlay",
            f"has the overlay address {meta.overlay_address}, which is not in {local.overlay}: "
            "give all members the same overlay network",
        )
    return _refused(local, member) or _Claim(member, meta, meta.public_key, meta.overlay_address)


def _refused(local: LocalPeer, member: RosterMember) -> Problem | None:
    """Return why a member gets no tunnel for its certificate, or the lack of one."""
    verdict = member.verdict
    if verdict.is_certified:
        return None
    if verdict.refusal is Refusal.REVOKED:
        return Problem(member.name, Refusal.REVOKED, "its certificate was revoked")
    if verdict.refusal is Refusal.BAD_SIGNATURE:
        return Problem(
            member.name,
            Refusal.BAD_SIGNATURE,
            "its certificate is for a different name, key, address or location",
        )
    if not local.only_certified:
        return None
    messages = {
        Refusal.EXPIRED: "its certificate has expired: find out why the operator does not renew it",
        Refusal.NOT_YET_VALID: "its certificate is not valid yet: set the clocks",
        Refusal.UNKNOWN_AUTHORITY: "its certificate was signed by an authority that this mesh does not trust",
        Refusal.NAME_NOT_ALLOWED: "its authority may not certify this name",
        Refusal.NETWORK_NOT_ALLOWED: "its authority may not certify this overlay address",
    }
    reason = verdict.refusal or Refusal.UNCERTIFIED
    return Problem(member.name, reason, messages.get(reason, "has no certificate of this mesh"))


def _reached_outside(
    local: LocalPeer, claims: list[_Claim], inside: Collection[IPAddress], problems: list[Problem]
) -> list[_Claim]:
    """Keep the claims of members whose tunnels would not go through the overlay themselves.

    Endpoints are unsigned, so a certified member keeps its tunnel whatever is announced of it.
    """
    if not inside:
        return claims
    kept = []
    for claim in claims:
        endpoint = _endpoint(local, claim.member, claim.meta)
        if endpoint.address in inside and not claim.member.verdict.is_certified:
            message = (
                f"announces the endpoint {endpoint}, which is inside the overlay {local.overlay}: "
                "give it an --advertise-addr outside the overlay"
            )
            problems.append(Problem(claim.member.name, "EndpointInsideOverlay", message))
        else:
            kept.append(claim)
    return kept


def _one_per_key(local: LocalPeer, claims: list[_Claim], problems: list[Problem]) -> list[_Claim]:
    """Keep one claim for each public key: a certified member's, a living one's, that of the smaller name.

    A failed member whose key another has is most often the same machine under its
    former name, and not worth a report.
    """
    holders: dict[WireGuardPublicKey, _Claim] = {}
    own_key = local.private_key.public
    for claim in sorted(claims, key=_key_rank):
        name = claim.member.name
        if claim.key == own_key:
            holder = local.name
        elif (first := holders.setdefault(claim.key, claim)) is not claim:
            holder = first.member.name
        else:
            continue
        if claim.member.state.is_alive:
            problems.append(Problem(name, "KeyClash", f"has the same WireGuard key as {holder}: {_NEW_KEY}"))
            if claim.key == own_key and claim.member.verdict.weight >= local.weight:
                message = f"this machine has the same WireGuard key as {name}: {_NEW_KEY}"
                problems.append(Problem(local.name, KEY_COPIED, message, name))
    return list(holders.values())


def _key_rank(claim: _Claim) -> tuple[int, int, bool, str]:
    authority, serial = claim.member.verdict.weight
    return -authority, -serial, not claim.member.state.is_alive, claim.member.name


def _settled_address(
    local: LocalPeer, claims: list[_Claim], underlay: frozenset[IPAddress], problems: list[Problem]
) -> IPAddress:
    """Return our address, or the one to move to when another member keeps it or the underlay has it."""
    mine = _rank(local.weight, is_movable=local.movable, name=local.name)
    lost = any(claim.address == local.address and claim.rank < mine for claim in claims)
    if not local.movable or not (lost or local.address in underlay):
        return local.address
    taken = {claim.address for claim in claims} | underlay | {local.address}
    free = allocate_address(local.name, local.overlay, taken)
    if free is None:
        message = (
            f"must give up {local.address}, but {local.overlay} has no free address: choose a larger network"
        )
        problems.append(Problem(local.name, "OverlayFull", message))
        return local.address
    return free


def _one_per_address(claims: list[_Claim], problems: list[Problem]) -> list[_Claim]:
    """Keep one claim for each overlay address, by rank, so that all nodes keep the same one."""
    holders: dict[IPAddress, _Claim] = {}
    for claim in sorted(claims, key=lambda claim: claim.rank):
        holder = holders.setdefault(claim.address, claim)
        if holder is not claim:
            problems.append(_clash(claim, holder.member.name))
    return list(holders.values())


def _report_endpoints(local: LocalPeer, claims: list[_Claim], problems: list[Problem]) -> None:
    """Report the living members that cannot be dialled at their WireGuard endpoint.

    They keep their peer: one that reaches this machine is answered where it is. A failed
    member may have had an address that is another machine's now.
    """
    families = {
        address.version
        for address in local.own_addresses
        if not (address.is_loopback or address.is_link_local or address in local.overlay)
    }
    holders: dict[Endpoint, str] = {}
    for claim in sorted(claims, key=_key_rank):
        name = claim.member.name
        if not claim.member.state.is_alive:
            continue
        endpoint = _endpoint(local, claim.member, claim.meta)
        family = endpoint.address.version
        holder = holders.setdefault(endpoint, name)
        if endpoint.address in local.own_addresses and endpoint.port == local.listen_port:
            message = (
                f"announces {endpoint.address}, which is also an address of this machine: "
                "start both with --bind-iface or --advertise-addr, or change one of the addresses"
            )
            problems.append(Problem(name, "OwnAddress", message))
        elif families and family not in families:
            message = (
                f"announces {endpoint.address}, and this machine has no IPv{family} address: "
                "give it one, or start the member with an --advertise-addr of the other family"
            )
            problems.append(Problem(name, "NoAddressOfFamily", message))
        elif holder != name:
            message = (
                f"announces {endpoint}, which {holder} announces too: give each its own --advertise-addr"
            )
            problems.append(Problem(name, "SameEndpoint", message))


def _may_be_routed(
    claim: _Claim, own_address: IPAddress, underlay: frozenset[IPAddress], problems: list[Problem]
) -> bool:
    if claim.address == own_address:
        problems.append(_clash(claim, "this member"))
        return False
    if claim.address in underlay:
        message = (
            f"has the overlay address {claim.address}, which this host already reaches outside the overlay: "
            "choose another overlay network"
        )
        problems.append(Problem(claim.member.name, "UnderlayAddress", message))
        return False
    return True


def _clash(loser: _Claim, holder: str) -> Problem:
    return Problem(
        loser.member.name, "AddressClash", f"has the same overlay address as {holder}: {loser.address}"
    )


def _endpoint(local: LocalPeer, member: RosterMember, meta: NodeMeta) -> Endpoint:
    if (internal := meta.address_within(local.location)) is not None:
        return Endpoint(internal, local.listen_port)
    return meta.wireguard_endpoint or Endpoint(_parsed(member.address.ip), local.listen_port)


def _endpoint_outside(local: LocalPeer, claim: _Claim, inside: Collection[IPAddress]) -> Endpoint | None:
    """Return where to send what is for a member; None if that is in the overlay: its packets would loop."""
    endpoint = _endpoint(local, claim.member, claim.meta)
    is_certified = claim.member.verdict.is_certified
    return None if is_certified and endpoint.address in inside else endpoint


def _proven_elsewhere(
    announced: Endpoint | None, proven: Endpoint | None, inside: Collection[IPAddress]
) -> Endpoint | None:
    """Return the proven endpoint if it is not the announced one and is outside the overlay."""
    return None if proven is None or proven == announced or proven.address in inside else proven


def _endpoints(
    local: LocalPeer, members: Iterable[RosterMember], proven: Mapping[WireGuardPublicKey, Endpoint]
) -> frozenset[IPAddress]:
    """Return the addresses by which members are reached in the underlay, for gossip and for WireGuard."""
    reached = set()
    for member in members:
        reached.add(_parsed(member.address.ip))
        if member.meta is not None:
            reached.add(_endpoint(local, member, member.meta).address)
            key = member.meta.public_key
            if key is not None and (there := proven.get(key)) is not None:
                reached.add(there.address)
    return frozenset(reached)


# With a thousand members this would take much of the time of `desired`, which follows each event.
@lru_cache(maxsize=16384)
def _parsed(ip: str) -> IPAddress:
    return ip_address(ip)


def _hosts(local: LocalPeer, claims: Iterable[_Claim], problems: list[Problem]) -> tuple[HostEntry, ...]:
    if local.etc_hosts == "Off":
        return ()
    parts = ("", local.mesh, HOSTS_DOMAIN) if local.mesh else ("", HOSTS_DOMAIN)
    suffix = ".".join(parts) if local.etc_hosts == "Qualified" else ""
    entries = []
    for claim in _one_per_name(local, claims, problems):
        name = claim.member.name + suffix
        if claim.member.state is MemberState.FAILED and _hides_seed(name, local.seed_names):
            continue
        if not suffix and is_reserved_name(name):
            if not _is_its_address(claim):
                message = (
                    "has no hosts entry: its name is reserved, like localhost; give it another --node-name"
                )
                problems.append(Problem(name, "BadName", message))
        elif len(name) <= MAX_MEMBER_NAME:
            entries.append(HostEntry(claim.address, name))
        else:
            message = (
                f"has no hosts entry: with {suffix} its name is longer than {MAX_MEMBER_NAME} characters"
            )
            problems.append(Problem(claim.member.name, "NameTooLong", message))
    return tuple(sorted(entries, key=lambda entry: entry.name))


def _one_per_name(local: LocalPeer, claims: Iterable[_Claim], problems: list[Problem]) -> Iterator[_Claim]:
    """Yield the claims whose name no other member has; resolvers do not tell ``NAS`` from ``nas``.

    Gossip tells them apart. A certified member has the name before one that is not. Of
    several living members none gets the name, or one that joins could take it from the one
    that had it. A failed member has no say: most often it is the same machine under its
    former name.
    """
    by_name: dict[str, list[_Claim]] = {}
    for claim in claims:
        by_name.setdefault(claim.member.name.lower(), []).append(claim)
    own_name = local.name.lower()
    for name, claimed in by_name.items():
        best = max(claim.member.verdict.rank for claim in claimed)
        same = [claim for claim in claimed if claim.member.verdict.rank == best]
        alive = [claim for claim in same if claim.member.state.is_alive]
        candidates = alive or same
        others = [local.name] if name == own_name and local.weight[0] >= best else []
        if len(candidates) == 1 and not others:
            yield candidates[0]
            continue
        for claim in alive:
            rivals = others + sorted(other.member.name for other in candidates if other is not claim)
            message = (
                f"has no hosts entry: its name differs from {rivals[0]} only in upper and lower case; "
                "give one of them another --node-name"
            )
            problems.append(Problem(claim.member.name, "NameClash", message))


def _hides_seed(name: str, seed_names: Collection[str]) -> bool:
    """Tell whether a hosts entry would answer the lookup of a seed, in place of DNS.

    The entry leads through the tunnel to where the member was. A member that moved is found by
    what DNS says. A DNS server on this host may append its domain to the names of the hosts file
    (dnsmasq's ``expand-hosts``).
    """
    folded = name.lower()
    return any(seed == folded or seed.startswith(f"{folded}.") for seed in seed_names)


def _is_its_address(claim: _Claim) -> bool:
    """Tell whether a member is called by the address at which it is reached, as with ``--ip-as-name``."""
    name = claim.member.name
    return is_like_address(name) and name in {claim.member.address.ip, str(claim.meta.internal_address)}
