"""From members to the whole wish: device, hosts entries, and what is wrong.

Pure: the same members and settings give the same `Wish` on every node, so that
of two claimants of one address all nodes program the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from wesher_agent.mesh.device import DeviceConfig
from wesher_agent.mesh.roster import RosterMember
from wesher_common.keys import WireGuardPrivateKey
from wesher_common.mesh_document import EtcHosts
from wesher_common.overlay import IPAddress, IPNetwork

UnreachableRoute = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNode:
    """This member and its settings, as far as the device and the hosts file depend on them."""

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
    mtu: int
    location: str = ""
    behind_nat: bool = False
    persistent_keepalive: int = 0
    etc_hosts: EtcHosts = "Names"
    in_kubernetes: bool = False
    unreachable_route: UnreachableRoute = "auto"
    underlay: frozenset[IPAddress] = frozenset()
    """Local addresses, gateways, nameservers, seeds' answers, API server: never to be
    reached through the overlay. Members' own endpoints are added from their metadata."""


@dataclass(frozen=True, slots=True, order=True)
class HostEntry:
    """One line of the hosts file."""

    address: IPAddress
    name: str


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Why a member has no tunnel, or not the one it asked for."""

    member: str
    reason: str
    """CamelCase, from a fixed set, fit for a condition's reason or a metric label."""
    message: str
    """One line for an administrator."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Everything that follows from the members."""

    device: DeviceConfig
    """Its ``address`` differs from ours when we lost a clash: announce the new one."""
    hosts: tuple[HostEntry, ...]
    """Sorted; remote members only."""
    problems: tuple[Problem, ...]
    """Sorted."""


def desired(own: OwnNode, members: Iterable[RosterMember]) -> Wish:
    """Return what the machine should look like.

    Alive, suspected and failed members get a peer and a hosts entry; left ones none.
    """
    raise NotImplementedError


def starting_address(
    name: str, overlay: IPNetwork, *, saved: IPAddress | None, taken: Iterable[IPAddress]
) -> IPAddress:
    """Return the overlay address to announce first, outside Kubernetes: the saved one, else the candidate."""
    raise NotImplementedError


def view_hash(own: OwnNode, members: Iterable[RosterMember]) -> str:
    """Return 12 hex digits that are equal on two nodes that see the same mesh alive."""
    raise NotImplementedError
