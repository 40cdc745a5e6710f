"""Members as the engine reports them and as the roster remembers them."""

from __future__ import annotations

import hashlib
from ipaddress import ip_address, ip_network
from typing import Any

from wesher_agent.mesh.desired import Desired, LocalPeer
from wesher_agent.mesh.host import HostAddress, HostNetwork
from wesher_agent.mesh.identity import Identity
from wesher_agent.mesh.local import Local, Options
from wesher_agent.mesh.nodemeta import META_VERSION, Flag, NodeMeta
from wesher_agent.mesh.roster import MemberState, RosterMember
from wesher_agent.swim.address import Address
from wesher_agent.swim.members import DEFAULT_VERSIONS, Member
from wesher_agent.wire.messages import State
from wesher_common.keys import KEY_BYTES, ClusterKey, KeyRing, WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import IPAddress, candidate_address

OVERLAY = ip_network("10.189.0.0/24")
PORT = 7946


def private_key(name: str) -> WireGuardPrivateKey:
    """Return a key that depends on the name alone."""
    return WireGuardPrivateKey.from_random(hashlib.sha256(name.encode()).digest())


def meta(name: str, **changes: Any) -> NodeMeta:
    """Return what a movable member of that name announces."""
    fields: dict[str, Any] = {
        "overlay_address": candidate_address(name, OVERLAY),
        "public_key": private_key(name).public,
        "version": META_VERSION,
        "flags": Flag.MOVABLE,
    }
    return NodeMeta(**{**fields, **changes})


def go_meta(name: str, **changes: Any) -> NodeMeta:
    """Return what a Go member of that name announces."""
    return meta(name, version=0, flags=Flag.NONE, **changes)


def gossiped(
    name: str, ip: str, *, state: State = State.ALIVE, raw_meta: bytes | None = None, incarnation: int = 1
) -> Member:
    """Return a member as the engine reports it."""
    return Member(
        name=name,
        address=Address(ip, PORT),
        meta=meta(name).encode() if raw_meta is None else raw_meta,
        incarnation=incarnation,
        state=state,
        versions=DEFAULT_VERSIONS,
        state_change=0.0,
    )


def remembered(
    name: str,
    ip: str = "192.0.2.1",
    *,
    announced: NodeMeta | None = None,
    problem: str = "",
    state: MemberState = MemberState.ALIVE,
) -> RosterMember:
    """Return a member as the roster remembers it."""
    known = None if problem else announced or meta(name)
    return RosterMember(
        name=name,
        address=Address(ip, PORT),
        raw_meta=known.encode() if known else b"",
        meta=known,
        problem=problem,
        state=state,
        since=0.0,
    )


def nobody_certified() -> Identity:
    """Return the identity of a mesh without an authority."""
    return Identity(None, now=0.0, wall=0.0)


def local_peer(name: str = "me", **changes: Any) -> LocalPeer:
    """Return this member, movable and outside Kubernetes."""
    fields: dict[str, Any] = {
        "name": name,
        "interface": "wgoverlay",
        "private_key": private_key(name),
        "listen_port": 51820,
        "address": candidate_address(name, OVERLAY),
        "movable": True,
        "overlay": OVERLAY,
        "mtu": 1420,
        "underlay": frozenset({ip_address("192.0.2.100")}),
    }
    return LocalPeer(**{**fields, **changes})


def peers(wanted: Desired) -> dict[str, str]:
    """Return what each peer is sent, by the first of its allowed IPs."""
    return {str(peer.allowed_ips[0]): str(peer.endpoint) for peer in wanted.device.peers}


def owner(wanted: Desired, address: IPAddress) -> list[WireGuardPublicKey]:
    """Return the keys of the peers to whom an address is routed."""
    return [peer.public_key for peer in wanted.device.peers if ip_network(address) in peer.allowed_ips]


def reasons(wanted: Desired) -> dict[str, str]:
    """Return each member's problem."""
    return {problem.member: problem.reason for problem in wanted.problems}


def host(*addresses: str) -> HostNetwork:
    """Return a host with these addresses on one link, and the loopback."""
    entries = [
        HostAddress(ip_address("127.0.0.1"), 8, "lo", link_up=True, has_default_route=False),
        *(HostAddress(ip_address(a), 24, "eth0", link_up=True, has_default_route=True) for a in addresses),
    ]
    return HostNetwork(tuple(entries), frozenset(), frozenset())


def document(**changes: Any) -> MeshDocument:
    """Return a mesh without seeds."""
    fields: dict[str, Any] = {"name": "m", "uid": "u", "overlay": OVERLAY, "allocation": OVERLAY}
    return MeshDocument(**{**fields, **changes})


def local_node(
    name: str = "me", *, on: HostNetwork | None = None, mesh: MeshDocument | None = None, **changes: Any
) -> Local:
    """Return this member as it starts, outside Kubernetes unless its options say otherwise."""
    on, mesh = on or host("192.0.2.100"), mesh or document()
    options = changes.get("options", Options())
    fields: dict[str, Any] = {
        "name": name,
        "private_key": private_key(name),
        "ring": KeyRing(ClusterKey(bytes(KEY_BYTES))),
        "document": mesh,
        "options": options,
        "host": on,
        "listening": options.listening(mesh, changes.get("place"), on),
        "overlay_address": None if options.in_kubernetes else candidate_address(name, mesh.overlay),
    }
    return Local(**{**fields, **changes})
