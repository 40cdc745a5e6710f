"""The smallest change from an observed device to the desired one.

Pure: a desired state and an observation in, a change out. Nothing differs, nothing is
changed.

Who applies a change, and how, is left to the backends and to `link`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from wesher_agent.mesh.device import DeviceConfig, Endpoint, Peer
from wesher_agent.wireguard.carrying_plan import (
    NOTHING_CARRIED,
    NOTHING_TO_CARRY,
    CarryChange,
    ObservedCarrying,
    carried_as_desired,
    plan_carrying,
    plan_carrying_next,
)
from wesher_common.keys import WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.overlay import IPNetwork

IPInterface = IPv4Interface | IPv6Interface

HANDSHAKE_FRESH = 180.0
"""Seconds after which a session that saw no new handshake is dead (RejectAfterTime, WireGuard paper 6.1)."""


@dataclass(frozen=True, slots=True)
class PeerSession:
    """What changes about a peer without a change of its settings."""

    public_key: WireGuardPublicKey
    endpoint: Endpoint | None = None
    """Set by us, or learned from the last authentic packet."""
    last_handshake: float | None = None
    """Unix time; None is never."""
    rx_bytes: int = 0
    tx_bytes: int = 0

    def has_fresh_handshake(self, *, now: float, within: float = HANDSHAKE_FRESH) -> bool:
        """Tell whether the last handshake proves the endpoint: its session may still be used.

        Args:
            now: Unix time.
            within: seconds since which the handshake must have been, if that is less.

        """
        # A handshake from the future means that the clock was set back: that protects no endpoint.
        return self.last_handshake is not None and abs(now - self.last_handshake) < min(
            within, HANDSHAKE_FRESH
        )


@dataclass(frozen=True, slots=True)
class ObservedPeer(PeerSession):
    """One peer as the device has it, session and settings."""

    allowed_ips: frozenset[IPNetwork] = frozenset()
    persistent_keepalive: int = 0
    """Seconds; 0 is off."""
    has_preshared_key: bool = False
    """We never set one: a peer that has one was edited by another hand."""


@dataclass(frozen=True, slots=True)
class ObservedDevice:
    """What WireGuard itself holds."""

    public_key: WireGuardPublicKey | None = None
    """None while the device has no private key."""
    listen_port: int = 0
    fwmark: int = 0
    peers: Mapping[WireGuardPublicKey, ObservedPeer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ObservedLink:
    """What the network stack holds about the interface."""

    mtu: int
    up: bool
    addresses: frozenset[IPInterface] = frozenset()
    """IPv6 link-local ones left out: the kernel makes and needs them."""
    routes: frozenset[IPNetwork] = frozenset()
    """Networks routed into the device, by this agent or another program."""
    own_routes: frozenset[IPNetwork] = frozenset()
    """Those of ``routes`` that carry our protocol number."""
    unreachable: frozenset[IPNetwork] = frozenset()
    """Networks under our ``unreachable`` routes. Host addresses are this device's; any other
    network may be another mesh's."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A device and its interface at one moment."""

    device: ObservedDevice
    link: ObservedLink
    carrying: ObservedCarrying = NOTHING_CARRIED


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What to send about one peer; None leaves a setting as it is."""

    public_key: WireGuardPublicKey
    remove: bool = False
    create: bool = False
    """Otherwise the peer is changed only if it is still there."""
    endpoint: Endpoint | None = None
    persistent_keepalive: int | None = None
    allowed_ips: tuple[IPNetwork, ...] | None = None
    """The whole set. It replaces what the peer has, which leaves a gap, unless the next two say what differs.
    WireGuard takes each network from the peer that had it."""
    add_allowed_ips: tuple[IPNetwork, ...] = ()
    remove_allowed_ips: tuple[IPNetwork, ...] = ()
    """A WireGuard that cannot remove single ones replaces the whole set."""
    clear_preshared_key: bool = False

    def replaces_allowed_ips(self, *, removes_single: bool) -> bool:
        """Tell whether the whole set is to be sent.

        Args:
            removes_single: whether this WireGuard can remove single allowed IPs.

        """
        if self.allowed_ips is None:
            return False
        names_difference = bool(self.add_allowed_ips or self.remove_allowed_ips)
        return not names_difference or (bool(self.remove_allowed_ips) and not removes_single)


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """What to send to WireGuard; None leaves a setting as it is."""

    private_key: WireGuardPrivateKey | None = field(default=None, repr=False)
    listen_port: int | None = None
    fwmark: int | None = None
    peers: tuple[PeerChange, ...] = ()
    """In the order to apply them."""

    def __bool__(self) -> bool:
        """Tell whether there is anything to send."""
        return self != DeviceChange()

    @property
    def removes_allowed_ips(self) -> bool:
        """Whether a peer loses allowed IPs and keeps others."""
        return any(peer.remove_allowed_ips for peer in self.peers)


@dataclass(frozen=True, slots=True)
class LinkChange:
    """What to tell the network stack; None leaves a setting as it is."""

    mtu: int | None = None
    up: bool = False
    """Whether to set the interface up."""
    add_addresses: tuple[IPInterface, ...] = ()
    remove_addresses: tuple[IPInterface, ...] = ()
    add_routes: tuple[IPNetwork, ...] = ()
    remove_routes: tuple[IPNetwork, ...] = ()
    add_unreachable: tuple[IPNetwork, ...] = ()
    remove_unreachable: tuple[IPNetwork, ...] = ()

    def __bool__(self) -> bool:
        """Tell whether there is anything to do."""
        return self != LinkChange()


@dataclass(frozen=True, slots=True)
class Change:
    """Everything between an observation and the desired state."""

    device: DeviceChange
    link: LinkChange
    carry: CarryChange = NOTHING_TO_CARRY

    def __bool__(self) -> bool:
        """Tell whether anything differs."""
        return bool(self.device) or bool(self.link) or bool(self.carry)


NO_CHANGE = Change(DeviceChange(), LinkChange())


def plan(config: DeviceConfig, observed: Observed, *, now: float) -> Change:
    """Return the smallest change that brings ``observed`` to ``config``.

    Args:
        config: the whole desired state.
        observed: what is there.
        now: Unix time, to tell which handshakes are fresh.

    """
    return Change(
        plan_device(config, observed.device, now=now),
        plan_link(config, observed.link),
        plan_carrying(config, observed.carrying),
    )


def plan_next(
    before: DeviceConfig,
    config: DeviceConfig,
    sessions: Mapping[WireGuardPublicKey, PeerSession],
    *,
    now: float,
) -> Change:
    """Return the change from a device left as ``before`` to ``config``, without an observation.

    Only peers, carried routes and ``unreachable`` networks that differ are looked at, so this is quick
    however many there are.

    Args:
        before: how the device was left.
        config: how it is to be.
        sessions: the peers as last read, for those whose configured endpoint changed: a proven
            endpoint stays. `needs_sessions` tells whether they must be read again first.
        now: Unix time.

    """
    known = {peer.public_key.raw: peer for peer in before.peers}
    was: list[Peer] = []
    becomes: list[Peer] = []
    for peer in config.peers:
        former = known.pop(peer.public_key.raw, None)
        if former == peer:
            continue
        if former is not None:
            was.append(former)
        becomes.append(peer)
    gone, new = _differing(before.unreachable, config.unreachable)
    left_as = fulfilled(replace(before, peers=(*was, *known.values()), unreachable=gone, carrying=None))
    peers = dict(left_as.device.peers)
    for peer in becomes:
        there, session = peers.get(peer.public_key), sessions.get(peer.public_key)
        if there is not None and session is not None and there.endpoint != peer.endpoint:
            peers[peer.public_key] = replace(
                there, endpoint=session.endpoint, last_handshake=session.last_handshake
            )
    left_as = replace(left_as, device=replace(left_as.device, peers=peers, fwmark=before.mark))
    narrowed = replace(config, peers=tuple(becomes), unreachable=new)
    return Change(
        plan_device(narrowed, left_as.device, now=now),
        plan_link(narrowed, left_as.link),
        plan_carrying_next(before, config),
    )


def needs_sessions(
    before: DeviceConfig,
    config: DeviceConfig,
    sessions: Mapping[WireGuardPublicKey, PeerSession],
    *,
    now: float,
) -> bool:
    """Tell whether the device's sessions must be read before `plan_next` can decide.

    They must when another endpoint is configured for a peer that had no fresh handshake
    when they were last read: it may have had one since. One that was fresh can only
    have become fresher.

    Args: as `plan_next`.
    """
    endpoints = {peer.public_key.raw: (peer.endpoint, peer.proven) for peer in before.peers}
    for peer in config.peers:
        wanted = (peer.endpoint, peer.proven)
        if endpoints.get(peer.public_key.raw, wanted) == wanted:
            continue
        seen = sessions.get(peer.public_key)
        if seen is None or not seen.has_fresh_handshake(now=now):
            return True
    return False


def plan_device(config: DeviceConfig, observed: ObservedDevice, *, now: float) -> DeviceChange:
    """Return what to send to WireGuard.

    Desired peers come first and stale ones go last: WireGuard moves a network
    to the peer that is given it, so it changes hands without a moment in which
    it has no owner.
    """
    changes: list[PeerChange] = []
    moved = _moved(config, observed)
    for peer in config.peers:
        there = observed.peers.get(peer.public_key)
        change = _peer_change(peer, there, moved, now) if there is not None else _new_peer(peer)
        if change is not None:
            changes.append(change)
    wished = {peer.public_key for peer in config.peers}
    changes += [PeerChange(key, remove=True) for key in sorted(observed.peers.keys() - wished)]
    return DeviceChange(
        private_key=None if observed.public_key == config.private_key.public else config.private_key,
        listen_port=None if observed.listen_port == config.listen_port else config.listen_port,
        fwmark=None if observed.fwmark == config.mark else config.mark,
        peers=tuple(changes),
    )


def plan_link(config: DeviceConfig, observed: ObservedLink) -> LinkChange:
    """Return what to tell the network stack.

    A route into the device that another program added serves as ours while it is
    desired, and is otherwise left alone.
    """
    address = ip_interface(config.address)
    strangers = observed.addresses - {address}
    routes = frozenset(config.routes)
    unreachable = frozenset(config.unreachable)
    return LinkChange(
        mtu=None if observed.mtu == config.mtu else config.mtu,
        up=not observed.up,
        add_addresses=() if address in observed.addresses else (address,),
        remove_addresses=tuple(sorted(strangers, key=str)),
        add_routes=_in_order(routes - observed.routes),
        remove_routes=_in_order(observed.own_routes - routes),
        add_unreachable=_in_order(unreachable - observed.unreachable),
        remove_unreachable=_in_order(
            network
            for network in observed.unreachable - unreachable
            # Another mesh of this host has its own: one that is ours covers our address, present or former.
            if network.prefixlen == network.max_prefixlen
            or any(host.ip in network for host in (address, *strangers))
        ),
    )


def fulfilled(config: DeviceConfig) -> Observed:
    """Return what a device looks like once it is in its desired state and nothing was changed or moved."""
    routes = frozenset(config.routes)
    return Observed(
        ObservedDevice(
            public_key=config.private_key.public,
            listen_port=config.listen_port,
            fwmark=config.mark,
            peers={
                peer.public_key: ObservedPeer(
                    peer.public_key,
                    endpoint=peer.first_endpoint,
                    allowed_ips=frozenset(peer.allowed_ips),
                    persistent_keepalive=peer.persistent_keepalive,
                )
                for peer in config.peers
            },
        ),
        ObservedLink(
            mtu=config.mtu,
            up=True,
            addresses=frozenset({ip_interface(config.address)}),
            routes=routes,
            own_routes=routes,
            unreachable=frozenset(config.unreachable),
        ),
        carried_as_desired(config),
    )


def _moved(config: DeviceConfig, observed: ObservedDevice) -> frozenset[IPNetwork]:
    """Return the networks that peers get now. The peer that had one loses it by that."""
    moved: set[IPNetwork] = set()
    for peer in config.peers:
        there = observed.peers.get(peer.public_key)
        if there is None or there.allowed_ips != frozenset(peer.allowed_ips):
            moved.update(peer.allowed_ips if there is None else {*peer.allowed_ips} - there.allowed_ips)
    return frozenset(moved)


def _new_peer(peer: Peer) -> PeerChange:
    return PeerChange(
        peer.public_key,
        create=True,
        endpoint=peer.first_endpoint,
        persistent_keepalive=peer.persistent_keepalive or None,
        allowed_ips=peer.allowed_ips,
    )


def _peer_change(
    peer: Peer, there: ObservedPeer, moved: frozenset[IPNetwork], now: float
) -> PeerChange | None:
    keeps_endpoint = _endpoint_serves(peer, there, now)
    keeps_keepalive = there.persistent_keepalive == peer.persistent_keepalive
    added: frozenset[IPNetwork] = frozenset()
    removed: frozenset[IPNetwork] = frozenset()
    if there.allowed_ips != (wanted := frozenset(peer.allowed_ips)):
        added, removed = wanted - there.allowed_ips, there.allowed_ips - wanted - moved
    keeps_allowed_ips = not added and not removed
    if keeps_endpoint and keeps_keepalive and keeps_allowed_ips and not there.has_preshared_key:
        return None
    return PeerChange(
        peer.public_key,
        endpoint=None if keeps_endpoint else peer.first_endpoint,
        persistent_keepalive=None if keeps_keepalive else peer.persistent_keepalive,
        allowed_ips=None if keeps_allowed_ips else peer.allowed_ips,
        add_allowed_ips=_in_order(added),
        remove_allowed_ips=_in_order(removed),
        clear_preshared_key=there.has_preshared_key,
    )


def _endpoint_serves(peer: Peer, there: PeerSession, now: float) -> bool:
    """Tell whether the endpoint can stay: it is announced or proven, now or in an earlier run.

    Between those two `tunnel.endpoint_trials` alternates.
    """
    if peer.endpoint is None or there.endpoint == peer.endpoint:
        return True
    return there.endpoint is not None and (
        there.endpoint == peer.proven or there.has_fresh_handshake(now=now)
    )


def _differing(
    before: tuple[IPNetwork, ...], now: tuple[IPNetwork, ...]
) -> tuple[tuple[IPNetwork, ...], tuple[IPNetwork, ...]]:
    """Return what is only in the first, and what is only in the second."""
    if before == now:
        return (), ()
    return tuple({*before}.difference(now)), tuple({*now}.difference(before))


def _in_order(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    return tuple(sorted(networks, key=lambda net: (net.version, int(net.network_address), net.prefixlen)))
