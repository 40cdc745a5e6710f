"""Which overlay address a machine outside Kubernetes gets; pure.

The addresses come from the same network as those of nodes. One that a machine has stays, whatever other
members claim: only a node's or an older machine's address is stronger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from wesher_common.overlay import IPAddress, is_reserved
from wesher_operator.reconcile.allocation import allocate
from wesher_operator.reconcile.facts import MemberFacts, PeerFacts
from wesher_operator.reconcile.membership import Released
from wesher_operator.reconcile.peer_situation import PeerProblem
from wesher_operator.resources.mesh import WesherMeshSpec


@dataclass(frozen=True, slots=True)
class PeerAddresses:
    """What a mesh's machines outside got."""

    addresses: Mapping[str, IPAddress]
    """By the name of the WesherPeer."""
    problems: Mapping[str, PeerProblem]
    """Why the others have none."""


def place_peers(
    spec: WesherMeshSpec,
    peers: Mapping[str, PeerFacts],
    nodes: Collection[IPAddress],
    outside: Collection[IPAddress],
    released: Released,
) -> PeerAddresses:
    """Give each machine its address: the one of its spec, the one it has, or a free one.

    Args:
        spec: of the mesh.
        peers: by member name, the older first.
        nodes: addresses that nodes have.
        outside: addresses of external members without a certificate.
        released: what is held back.

    """
    given: dict[str, IPAddress] = {}
    problems: dict[str, PeerProblem] = {}
    used = set(nodes)
    fresh: dict[str, PeerFacts] = {}
    for name, peer in peers.items():
        wanted = address_of(peer.spec.overlay_ip)
        if peer.spec.overlay_ip:
            problem = _problem_with(wanted, spec, used)
            if problem is not None or wanted is None:
                problems[peer.name] = problem or PeerProblem("AddressNotAllowed", "")
                continue
        else:
            wanted = address_of(peer.status.overlay_ip)
        if wanted is None or _problem_with(wanted, spec, used) is not None:
            fresh[name] = peer
            continue
        given[peer.name] = wanted
        used.add(wanted)
    taken = used | set(outside)
    for name, peer in list(fresh.items()):
        kept = released.kept_for(name, spec.allocation)
        if kept is not None and kept not in taken:
            given[peer.name] = kept
            taken.add(kept)
            del fresh[name]
    found, without = allocate(fresh, spec.allocation, taken | set(released.addresses))
    for name in without:
        message = f"{spec.allocation} has no free address: delete a WesherPeer, or set spec.overlayIP"
        problems[fresh[name].name] = PeerProblem("NoFreeAddress", message)
    return PeerAddresses({**given, **{fresh[name].name: found[name] for name in found}}, problems)


def taken_outside(members: Iterable[MemberFacts], known: Collection[str]) -> set[IPAddress]:
    """Return the addresses that external members claim.

    Args:
        members: WesherNodes, whose agents report external members.
        known: names of members whose addresses the operator allocates.

    """
    claims = (
        address_of(each.address)
        for member in members
        for each in member.status.outsiders
        if each.name not in known
    )
    return {address for address in claims if address is not None}


def address_of(text: str) -> IPAddress | None:
    """Return the address that a text says, or None."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def _problem_with(
    address: IPAddress | None, spec: WesherMeshSpec, used: Collection[IPAddress]
) -> PeerProblem | None:
    if address is None or address not in spec.overlay or is_reserved(address, spec.overlay):
        message = f"spec.overlayIP must be the address of one machine in overlayCIDR {spec.overlay}"
        return PeerProblem("AddressNotAllowed", message)
    if address in used:
        return PeerProblem("AddressInUse", f"another member has the address {address}: choose a free one")
    return None
