"""The local node: what this member is, and what it announces about itself.

A value. Each change of host, mesh or place makes the next one; `mesh.member` says
what follows from it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace

from wesher_agent.mesh.carrying import OwnTraffic, is_node_address, loose_links
from wesher_agent.mesh.cover import UnreachableRoute
from wesher_agent.mesh.desired import LocalPeer, starting_address
from wesher_agent.mesh.host import HostNetwork, Listening, choose_addresses
from wesher_agent.mesh.identity import NOT_CERTIFIED, Identity, Verdict
from wesher_agent.mesh.nodemeta import META_VERSION, Flag, NodeMeta
from wesher_agent.mesh.place import Place
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.swim.address import Address
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.packet import PacketFormat
from wesher_common.certificate import Refusal
from wesher_common.enrolment import enrol
from wesher_common.errors import InvalidSpec, PeerMisbehaved
from wesher_common.join_file import JoinFile
from wesher_common.keys import KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.seeds import SeedAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the flags decide for one agent, beside the mesh document."""

    in_kubernetes: bool = False
    """Whether the operator allocates this member's overlay address."""
    bind_addr: IPAddress | None = None
    bind_iface: str = ""
    advertise_addr: IPAddress | None = None
    unreachable_route: UnreachableRoute = "auto"
    forget_after: float = 24 * 3600.0
    """Seconds that a failed member is expected back."""
    leaves_on_exit: bool = True
    """Whether a termination signal means leaving the mesh, not a restart."""

    def listening(self, document: MeshDocument, place: Place | None, host: HostNetwork) -> Listening:
        """Decide where to listen and what to announce.

        Raises:
            InvalidSpec: the interface has no address, or there is nothing to advertise.

        """
        given = place.advertise_address if place is not None else None
        return choose_addresses(
            host,
            bind_addr=self.bind_addr,
            bind_iface=self.bind_iface,
            advertise_addr=self.advertise_addr or given,
            own_link=document.wireguard.interface,
            everywhere=self.in_kubernetes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """This member of one mesh, at one moment."""

    name: str
    """The name it gossips under."""
    private_key: WireGuardPrivateKey = field(repr=False)
    ring: KeyRing = field(repr=False)
    """The cluster keys it gossips under."""
    document: MeshDocument
    options: Options
    host: HostNetwork
    listening: Listening
    overlay_address: IPAddress | None = None
    """None in Kubernetes until the operator has given one."""
    place: Place | None = None
    """As last given by the operator; outside Kubernetes None until there is a certificate."""
    joined: JoinFile | None = field(default=None, repr=False)
    """What an invited machine was invited with."""
    lost_address: IPAddress | None = None
    """The single address it listens on, while that address is missing from this host."""

    @property
    def gossip_address(self) -> Address:
        """What other members dial."""
        return Address(str(self.listening.advertise), self.document.gossip.port)

    @property
    def location(self) -> str:
        """Where this node is; members of one location dial each other's internal address."""
        given = self.place.location if self.place is not None else ""
        return given or self.document.cluster_name

    @property
    def addresses(self) -> frozenset[IPAddress]:
        """Every address that belongs to this host or leads to it."""
        return frozenset({entry.address for entry in self.host.addresses} | {self.listening.advertise})

    @property
    def underlay(self) -> frozenset[IPAddress]:
        """Addresses that must never be reached through the overlay, as far as this host knows them."""
        seeds = {seed.address for seed in self.document.seed_nodes if seed.address is not None}
        return self.host.underlay(self.document.wireguard.interface) | seeds

    @property
    def seeds(self) -> tuple[SeedAddress, ...]:
        """Where to ask for members."""
        return (*self.document.seed_nodes, *self.document.cluster_seeds)

    @property
    def packet_format(self) -> PacketFormat:
        """How its packets are sealed and read."""
        return PacketFormat(
            Keyring(self.ring.primary.secret, [key.secret for key in self.ring.accepted]),
            label=self.document.gossip.label.encode(),
            # Peers read it either way, and in pure Python it costs more time than it saves bytes.
            compress=False,
        )

    def meta(self, identity: Identity, *, now: float) -> tuple[bytes, str]:
        """Return the gossip metadata, and why its routes had to be left out (empty when they were not).

        A certificate that is not of what is announced is left out: with it, no member would
        give this one a tunnel, while without it those of an open mesh do.
        """
        meta = self.node_meta
        if identity.verdict(self.name, meta, now=now).refusal is Refusal.BAD_SIGNATURE:
            meta = replace(meta, certificate=None, enrolment=self.enrolment)
        try:
            return meta.encode(compact=identity.is_compact), ""
        except InvalidSpec as error:
            without = replace(meta, networks=(), certificate=None)
            return without.encode(compact=identity.is_compact), str(error)

    @property
    def node_meta(self) -> NodeMeta:
        """What this member announces."""
        flags = Flag.IN_KUBERNETES if self.options.in_kubernetes else Flag.NONE
        if self.is_movable:
            flags |= Flag.MOVABLE
        if self.listening.internal is not None:
            flags |= Flag.BEHIND_NAT
        place = self.place or Place()
        return NodeMeta(
            overlay_address=self.overlay_address,
            public_key=self.private_key.public,
            version=META_VERSION,
            internal_address=self.listening.internal,
            location=self.location,
            networks=place.routes,
            flags=flags,
            ring=self.ring.primary.hint,
            certificate=place.certificate,
            enrolment=b"" if place.certificate is not None else self.enrolment,
        )

    @property
    def announced_serial(self) -> int:
        """The serial of the certificate that it announces, 0 for none.

        `meta` leaves out one that is not of what is announced.
        """
        meta, identity = self.node_meta, self.document.identity
        certificate, subject = meta.certificate, meta.subject(self.name)
        if certificate is None or subject is None or identity is None:
            return 0
        signed = certificate.signed_text(subject)
        is_ours = any(
            key.id == certificate.authority and key.has_signed(signed, certificate.signature)
            for key in identity.authorities
        )
        return certificate.serial if is_ours else 0

    @property
    def is_movable(self) -> bool:
        """Whether it moves in a clash of overlay addresses: only while the operator has given it none."""
        certified = self.place is not None and self.place.certificate is not None
        return not (self.options.in_kubernetes or certified)

    @property
    def enrolment(self) -> bytes:
        """What it announces until it has a certificate, to show that it was invited; empty if it was not."""
        if self.joined is None:
            return b""
        return enrol(
            self.joined.enrol_seed,
            mesh_uid=self.joined.mesh_uid,
            name=self.name,
            key=self.private_key.public,
        )

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """The node addresses and pod networks that its certificate lists."""
        return self.place.routes if self.place is not None and self.place.certificate is not None else ()

    @property
    def mark(self) -> int:
        """The mark of gossip's own packets, which no carried route applies to; 0 for none."""
        return self.document.traffic.mark if self.options.in_kubernetes else 0

    def traffic(self, known: frozenset[IPNetwork]) -> OwnTraffic | None:
        """Return what decides what it carries; None outside Kubernetes.

        Args:
            known: which of `networks` the other members have had the time to learn of.

        """
        if not self.options.in_kubernetes:
            return None
        host, own_link, identity = self.host, self.document.wireguard.interface, self.document.identity
        nodes = {network.network_address for network in self.networks if is_node_address(network)}
        internal = self.listening.internal
        gossip = {
            *self.listening.bind,
            self.listening.advertise,
            *([internal] if internal is not None else []),
        }
        return OwnTraffic(
            settings=self.document.traffic,
            networks=self.networks,
            known=known,
            present=frozenset(entry.address for entry in host.addresses if entry.link != own_link),
            underlay=host.underlay(own_link),
            trusted=identity.trusted if identity is not None else (),
            loose_links=loose_links(host, nodes | gossip, own_link=own_link),
        )

    def peer(
        self,
        verdict: Verdict = NOT_CERTIFIED,
        *,
        only_certified: bool = False,
        known: frozenset[IPNetwork] = frozenset(),
    ) -> LocalPeer | None:
        """Return what the device depends on; None while there is no overlay address.

        Args:
            verdict: on this member's own certificate.
            only_certified: whether members without a certificate get no tunnel.
            known: as of `traffic`.

        """
        if self.overlay_address is None:
            return None
        document, in_kubernetes = self.document, self.options.in_kubernetes
        return LocalPeer(
            name=self.name,
            mesh=document.name if in_kubernetes or self.joined is not None else "",
            interface=document.wireguard.interface,
            private_key=self.private_key,
            listen_port=document.wireguard.port,
            address=self.overlay_address,
            movable=self.is_movable,
            overlay=document.overlay,
            mtu=document.wireguard.mtu,
            location=self.location,
            behind_nat=self.listening.internal is not None,
            persistent_keepalive=document.wireguard.persistent_keepalive,
            etc_hosts=document.etc_hosts,
            in_kubernetes=in_kubernetes,
            unreachable_route=self.options.unreachable_route,
            underlay=self.underlay,
            own_addresses=self.addresses,
            seed_names=frozenset(
                seed.host.lower().removesuffix(".") for seed in self.seeds if seed.address is None
            ),
            weight=verdict.weight,
            only_certified=only_certified,
            traffic=self.traffic(known),
        )

    def needs_restart_for(self, document: MeshDocument) -> bool:
        """Tell whether a mesh document differs from this member's in what only the next start can apply."""

        def settled(document: MeshDocument) -> object:
            device, gossip = document.wireguard, document.gossip
            return (
                (document.name, document.uid, document.overlay, document.cluster_name),
                (gossip.profile, gossip.label, device.interface, device.mode),
                replace(self, document=document).mark,
            )

        return settled(self.document) != settled(document)

    def with_first_address(self, saved: SavedState) -> Local:
        """Return this member with the overlay address it begins with: given, saved, or chosen by name.

        Raises:
            InvalidSpec: the overlay has no free address.

        """
        former = saved.overlay_address if saved.name == self.name else None
        if self.options.in_kubernetes:
            given = self.place.overlay_address if self.place is not None else None
            kept = former if former is not None and former in self.document.overlay else None
            return replace(self, overlay_address=given or kept)
        taken = set()
        for member in saved.nodes:
            with suppress(PeerMisbehaved):
                taken.add(NodeMeta.decode(member.raw_meta).overlay_address)
        others = {address for address in taken if address is not None}
        address = starting_address(self.name, self.document.allocation, saved=former, taken=others)
        return replace(self, overlay_address=address)

    def on_host(self, host: HostNetwork) -> tuple[Local, str]:
        """Return this member on the host as it is now, and why no address could be chosen (empty: one was).

        A single address is kept for as long as the host has it, unless its lifetime ends,
        and followed to one of its family: in the other family, the members that know this one may not be able
        to reach it, and the address may be back soon.
        """
        address, lost = self.listening.bind[0], self.lost_address
        # An address that was never listed, such as 127.0.0.9, cannot be missing.
        was_ours = address == lost or self.host.has(address)
        is_lost = was_ours and not host.has(address)
        # What a flag names stays for as long as it works.
        is_going = host.is_deprecated(address) and self.options.bind_addr is None
        local = replace(self, host=host, lost_address=address if is_lost else None)
        return _listening_again(local, chooses=is_lost or is_going)

    def at(self, place: Place) -> tuple[Local, str]:
        """Return this member at another place, and why no address could be chosen (empty: one was)."""
        address = place.overlay_address or self.overlay_address
        local = replace(self, place=place, overlay_address=address)
        return _listening_again(local, chooses=self.lost_address is not None)


def _listening_again(local: Local, *, chooses: bool) -> tuple[Local, str]:
    """Choose again where to listen and what to announce.

    Args:
        local: this member.
        chooses: whether the single address that it listens on, if it does, is to be replaced.

    """
    bound = local.listening.bind
    if not bound[0].is_unspecified and not chooses:
        return local, ""
    try:
        listening = local.options.listening(local.document, local.place, local.host)
    except InvalidSpec as error:
        return local, str(error)
    if bound[0].is_unspecified:
        # It takes what comes to a new address already.
        return replace(local, listening=replace(listening, bind=bound)), ""
    if listening.bind != bound and listening.advertise.version == bound[0].version:
        return replace(local, listening=listening, lost_address=None), ""
    return local, ""
