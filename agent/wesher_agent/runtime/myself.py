"""This member: what it is, what it says of itself, and what of that can change while it runs."""

from __future__ import annotations

import logging
from dataclasses import replace

from wesher_agent.kube.node_spec import NodeSpec
from wesher_agent.mesh.desired import OwnNode
from wesher_agent.mesh.nodemeta import META_VERSION, Flag, NodeMeta
from wesher_agent.net.addresses import Listening, choose_addresses
from wesher_agent.runtime.host import HostNetwork
from wesher_agent.settings import Settings
from wesher_agent.swim.address import Address
from wesher_agent.wire.keyring import Keyring
from wesher_agent.wire.packet import PacketFormat
from wesher_common.errors import InvalidSpec
from wesher_common.keys import KeyRing, WireGuardPrivateKey
from wesher_common.mesh_document import MeshDocument
from wesher_common.overlay import IPAddress
from wesher_common.seeds import SeedAddress

log = logging.getLogger("wesher.agent")


class Myself:
    """One member of one mesh.

    Args:
        name: under which it gossips.
        key: its WireGuard key.
        ring: the mesh's keys, under which it gossips.
        settings: as given.
        document: the mesh.
        host: where it runs.
        listening: where it listens.
        overlay_address: None in Kubernetes until the operator gave one.
        node: the WesherNode as last seen.

    """

    def __init__(
        self,
        *,
        name: str,
        key: WireGuardPrivateKey,
        ring: KeyRing,
        settings: Settings,
        document: MeshDocument,
        host: HostNetwork,
        listening: Listening,
        overlay_address: IPAddress | None,
        node: NodeSpec | None,
    ) -> None:
        self.name = name
        self.key = key
        self.ring = ring
        self.document = document
        self.host = host
        self.listening = listening
        self.overlay_address = overlay_address
        self.node = node
        self.lost_address: IPAddress | None = None
        """The one address that we listen on, while it is none of this host's any more."""
        self._settings = settings

    @property
    def in_kubernetes(self) -> bool:
        """Whether the operator decides about this member."""
        return self._settings.kubernetes is not None

    @property
    def gossip_address(self) -> Address:
        """What other members dial."""
        return Address(str(self.listening.advertise), self.document.gossip.port)

    @property
    def location(self) -> str:
        """Where this node is; members that name the same one dial each other's internal address."""
        given = self.node.location if self.node is not None else ""
        return given or self.document.cluster_name

    @property
    def addresses(self) -> frozenset[IPAddress]:
        """Every address that is this host's, or leads to it."""
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
    def has_seeds_elsewhere(self) -> bool:
        """Whether any seed leads to somebody else, as far as its text tells."""
        return any(seed.address not in self.addresses for seed in self.seeds)

    @property
    def packet_format(self) -> PacketFormat:
        """How its packets are sealed and read."""
        return PacketFormat(
            Keyring(self.ring.primary.secret, [key.secret for key in self.ring.accepted]),
            label=self.document.gossip.label.encode(),
            # Peers read it either way, and in pure Python it costs more time than it saves bytes.
            compress=False,
        )

    def meta(self) -> bytes:
        """Return what we gossip of ourselves."""
        flags = Flag.IN_KUBERNETES if self.in_kubernetes else Flag.MOVABLE
        if self.listening.internal is not None:
            flags |= Flag.BEHIND_NAT
        meta = NodeMeta(
            overlay_address=self.overlay_address,
            public_key=self.key.public,
            version=META_VERSION,
            internal_address=self.listening.internal,
            location=self.location,
            networks=self.node.routes if self.node is not None else (),
            flags=flags,
        )
        try:
            return meta.encode()
        except InvalidSpec as error:
            log.warning("routes not announced error=%s", error)
            return replace(meta, networks=()).encode()

    def own_node(self, mtu: int) -> OwnNode | None:
        """Return what the device depends on; None while we have no overlay address."""
        if self.overlay_address is None:
            return None
        document = self.document
        return OwnNode(
            name=self.name,
            mesh=document.name if self.in_kubernetes else "",
            interface=document.wireguard.interface,
            private_key=self.key,
            listen_port=document.wireguard.port,
            address=self.overlay_address,
            movable=not self.in_kubernetes,
            overlay=document.overlay,
            mtu=mtu,
            location=self.location,
            behind_nat=self.listening.internal is not None,
            persistent_keepalive=document.wireguard.persistent_keepalive,
            etc_hosts=document.etc_hosts,
            in_kubernetes=self.in_kubernetes,
            unreachable_route=self._settings.unreachable_route,
            underlay=self.underlay,
        )

    def look_at_host(self, host: HostNetwork) -> None:
        """Choose anew where to listen and what to announce, on the host as it is now."""
        before, self.host = self.host, host
        address, lost = self.listening.bind[0], self.lost_address
        # Never one that was not listed, but could be listened on: all of 127.0.0.0/8, for one.
        was_ours = address == lost or _has(before, address)
        self.lost_address = address if was_ours and not _has(host, address) else None
        self.look_at_addresses()
        if self.lost_address not in {None, lost}:
            log.error("the address that gossip listens on is gone from this host address=%s", address)

    def look_at_addresses(self) -> None:
        """Choose anew where to listen and what to announce, after host or WesherNode changed.

        One address is kept for as long as the host has it, and followed to one of its family:
        in another, the members that know of us may not be reached, and it may be back soon.
        """
        bound = self.listening.bind
        if not bound[0].is_unspecified and self.lost_address is None:
            return
        try:
            listening = listen_where(self._settings, self.document, self.node, self.host)
        except InvalidSpec as error:
            log.warning("no address to announce, the former one stays error=%s", error)
            return
        if bound[0].is_unspecified:
            # It takes what comes to a new address already.
            self.listening = replace(listening, bind=bound)
        elif listening.bind != bound and listening.advertise.version == bound[0].version:
            self.listening, self.lost_address = listening, None


def listen_where(
    settings: Settings, document: MeshDocument, node: NodeSpec | None, host: HostNetwork
) -> Listening:
    """Decide where to listen, and what to say where.

    Raises:
        InvalidSpec: the flags' link has no address, or there is nothing to advertise.

    """
    given = node.advertise_address if node is not None else None
    return choose_addresses(
        host.addresses,
        bind_addr=settings.bind_addr,
        bind_iface=settings.bind_iface,
        advertise_addr=settings.advertise_addr or given,
        own_link=document.wireguard.interface,
        everywhere=settings.kubernetes is not None,
    )


def _has(host: HostNetwork, address: IPAddress) -> bool:
    return any(entry.address == address for entry in host.addresses)
