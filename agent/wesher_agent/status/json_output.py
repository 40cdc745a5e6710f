"""What ``wesher … -o json`` prints, field by field; ``docs/reference/json-output.md`` is made from it."""

from __future__ import annotations

from typing import Literal, TypedDict

from wesher_agent.mesh.cover import Extent
from wesher_common.conditions import ConditionEntry
from wesher_common.mesh_document import GossipProfile
from wesher_common.traffic import NodeTraffic, PodTraffic


class UnreachableRoute(TypedDict):
    """The routes that keep packets to the overlay from leaving in clear."""

    covers: Extent
    """What they cover: the whole overlay, the addresses that members have or had within a day, or nothing."""
    reason: str
    """Why not the whole overlay, and how to change that; empty if it is."""


class WireGuard(TypedDict):
    """The WireGuard device."""

    mode: str
    """`Kernel` or `Userspace`; `none` while there is no device."""
    mtu: int
    """Bytes of a packet inside the tunnel."""
    port: int
    """UDP port."""


class Gossip(TypedDict):
    """This node's part in gossip."""

    address: str
    """Address and port that others gossip with."""
    profile: GossipProfile
    """memberlist's constants."""
    joined: bool
    """Whether any other member is alive."""
    rejected: dict[str, int]
    """Packets dropped, by reason: see [troubleshooting](../troubleshooting.md#packets-that-are-dropped)."""


class Identity(TypedDict):
    """Whether members have to be certified, and this node's certificate."""

    mode: Literal["", "Open", "Verified"]
    """Mode of the mesh; empty if the mesh has no authority."""
    bound: bool
    """Whether members without a certificate get no tunnel."""
    authority: str
    """Public key of the authority of the mesh, in base64; empty if it has none."""
    certificateExpires: str | None
    """Until when this node's certificate is valid, RFC 3339; null without a certificate."""
    uncertified: str
    """Why this node's certificate [does not count](../troubleshooting.md#certificates); empty if it does."""


class Traffic(TypedDict):
    """Packets of nodes and pods that go through the tunnels."""

    nodes: NodeTraffic
    """To which nodes' addresses: as `spec.traffic.nodes` of the mesh."""
    pods: PodTraffic
    """To which pods: as `spec.traffic.pods` of the mesh."""
    accepts: bool
    """Whether this node accepts packets from networks of other members, while the mesh is to carry any."""
    routed: int
    """Number of networks of other members to which this node sends packets through the tunnels."""
    networks: list[str]
    """Node addresses and pod networks in this node's certificate."""


class Peers(TypedDict):
    """Other members, counted."""

    known: int
    """Members that this node remembers."""
    alive: int
    """Number of other members that are alive in gossip."""
    suspect: int
    """Number of other members that are suspected of having failed."""
    failed: int
    """Of those, failed and expected back."""
    handshake: int
    """Number of other members that answer through the tunnel or have a fresh handshake."""


class StatusAnswer(TypedDict):
    """What ``wesher status`` prints: one object."""

    node: str
    """This member's name."""
    interface: str
    """Name of the WireGuard device."""
    overlayIP: str
    """Overlay address; empty until this node has one."""
    overlayNet: str
    """Network of the overlay."""
    publicKey: str
    """WireGuard public key, in base64."""
    keyIDs: list[str]
    """Ids of the cluster keys that this node accepts; it encrypts with the first."""
    unreachableRoute: UnreachableRoute
    """Routes that refuse packets to overlay addresses without a member."""
    hosts: str
    """The hosts file: `written`, `not written yet`, `off`, or `skipped:` and the reason."""
    state: str
    """The state file: `saved`, or `not saved:` and the reason."""
    newsNumber: int
    """Milliseconds of Unix time at which the newest revocations known here were signed; 0 for none."""
    uptimeSeconds: float
    """Seconds since the agent started."""
    version: str
    """Release of the agent."""
    wireguard: WireGuard
    """The WireGuard device."""
    gossip: Gossip
    """This node's part in gossip."""
    identity: Identity
    """Whether members have to be certified, and this node's certificate."""
    traffic: Traffic
    """Packets of nodes and pods that go through the tunnels."""
    peers: Peers
    """Other members, counted."""
    counts: dict[str, int]
    """How often each fault happened: see [troubleshooting](../troubleshooting.md#counters)."""
    conditions: list[ConditionEntry]
    """What is judged of this node: see [conditions](conditions.md#weshernode)."""


class MemberAnswer(TypedDict):
    """What ``wesher members`` prints of each member; the local node is one of them."""

    name: str
    """Member name."""
    isThisNode: bool
    """Whether it is the local node."""
    state: Literal["alive", "suspect", "failed", "left"]
    """What gossip knows of it; `failed` is expected back, `left` is not."""
    address: str
    """Address and port with which it gossips."""
    overlayIP: str
    """Overlay address; empty if unknown."""
    endpoint: str
    """Where this node sends its WireGuard packets; empty for the local node and without a tunnel."""
    publicKey: str
    """WireGuard public key, in base64; empty if unknown."""
    kind: str
    """The program: `wesher`, or `Go` for one that announces no release of wesher; empty if unknown."""
    certificateExpires: str | None
    """Until when its certificate is valid, RFC 3339; null without a certificate."""
    uncertified: str
    """Why its certificate [does not count](../troubleshooting.md#certificates); empty if it does."""
    networks: list[str]
    """Node addresses and pod networks in its certificate, if that counts."""
    carried: list[str]
    """Those of them to which this node sends packets through the tunnel."""
    location: str
    """Where the member is; empty if it announces no location."""
    stateSeconds: float
    """Seconds for which this agent has seen the member in its state."""
    handshakeSeconds: float | None
    """Seconds since the last WireGuard handshake; null if there was none, and for the local node."""
    receivedBytes: int | None
    """Bytes received through the tunnel since the device or the peer was made; null without a tunnel."""
    sentBytes: int | None
    """Bytes sent, in the same way."""
    note: str
    """What is wrong with the member, or `this node`; otherwise empty."""


class RekeyAnswer(TypedDict):
    """What ``wesher rekey`` prints: one object on one line."""

    node: str
    """Name of the member."""
    former: str
    """WireGuard public key until now, in base64."""
    publicKey: str
    """WireGuard public key from now on, in base64."""
    needsAdmission: bool
    """Whether the mesh certifies its members: then an administrator has to admit the new key."""


class LeaveAnswer(TypedDict):
    """What ``wesher leave`` prints: one object on one line."""

    node: str
    """Name of the member that left."""
    interface: str
    """Name of the device that is gone."""
    kept: str | None
    """Path of the state file with the keys; null if there is none."""
