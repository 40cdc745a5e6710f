"""``mesh.json``: what a mesh's agents must know, as one versioned document.

The operator writes it into the ConfigMap ``<mesh>-config``; agents read it as
a mounted file and keep the last good one. Unknown keys are ignored, so that an
older agent can read what a newer operator wrote; a newer ``version`` is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from typing import Any, Literal, get_args

from wesher_common.certificate import AuthorityKey
from wesher_common.errors import InvalidSpec
from wesher_common.json_section import JsonSection
from wesher_common.keys import WireGuardPublicKey
from wesher_common.names import check_interface_name, check_mesh_name, is_member_name
from wesher_common.overlay import IPNetwork
from wesher_common.seeds import MAX_PORT, SeedAddress
from wesher_common.traffic import NO_TRAFFIC, TrafficSettings

DOCUMENT_VERSION = 1
FILE_NAME = "mesh.json"
MAX_CLUSTER_SEEDS = 16
MAX_LABEL = 255
MAX_CLUSTER_NAME = 63
MIN_MTU, MAX_MTU = 1280, 65535
MAX_KEEPALIVE = 65535

EtcHosts = Literal["Qualified", "Names", "Off"]
GossipProfile = Literal["LAN", "WAN"]
WireGuardMode = Literal["Auto", "Kernel", "Userspace"]
IdentityMode = Literal["Open", "Verified"]
MetadataForm = Literal["Gob", "Compact"]
MAX_AUTHORITIES = 2
"""A mesh's own: while one replaces another it has both."""
MAX_TRUSTED = 16
"""Other clusters; each has two authorities while one replaces the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireGuardSettings:
    """``spec.wireguard`` of a WesherMesh."""

    interface: str = "wgoverlay"
    port: int = 51820
    mtu: int = 0
    """0 takes it from the underlay."""
    persistent_keepalive: int = 0
    """Seconds; 0 is off."""
    mode: WireGuardMode = "Auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipSettings:
    """``spec.gossip`` of a WesherMesh."""

    port: int = 7946
    profile: GossipProfile = "WAN"
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedAuthority:
    """The authority of another cluster whose members may be in this mesh."""

    cluster_name: str
    """Its members' names end in a dot and this."""
    key: AuthorityKey
    cidrs: tuple[IPNetwork, ...]
    """Its members' overlay addresses are inside these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """Who certifies members, and what is denied to members without a certificate."""

    mode: IdentityMode = "Open"
    """``Verified``: only certified members get a tunnel, once the mesh is ``bound``."""
    bound: bool = False
    """Whether every agent that is to be in the mesh has announced its certificate."""
    form: MetadataForm = "Gob"
    """In which form members announce their metadata; Go members read ``Gob`` only."""
    authorities: tuple[AuthorityKey, ...] = ()
    """The mesh's own."""
    proof_key: WireGuardPublicKey | None = None
    """With this key an agent proves to the operator that it has its WireGuard private key."""
    trusted: tuple[TrustedAuthority, ...] = ()

    @property
    def only_certified(self) -> bool:
        """Whether members without a certificate get no tunnel."""
        return self.mode == "Verified" and self.bound

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape."""
        return {
            "mode": self.mode,
            "bound": self.bound,
            "form": self.form,
            "authorities": [str(key) for key in self.authorities],
            "proofKey": str(self.proof_key) if self.proof_key is not None else "",
            "trusted": [
                {
                    "clusterName": other.cluster_name,
                    "key": str(other.key),
                    "cidrs": [str(network) for network in other.cidrs],
                }
                for other in self.trusted
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshDocument:
    """The document; see the module for who writes and who reads it."""

    name: str
    uid: str
    """Of the WesherMesh: another uid under the same name is another mesh."""
    overlay: IPNetwork
    allocation: IPNetwork
    """The part of ``overlay`` this cluster allocates from."""
    cluster_name: str = ""
    wireguard: WireGuardSettings = WireGuardSettings()
    gossip: GossipSettings = GossipSettings()
    etc_hosts: EtcHosts = "Qualified"
    seed_nodes: tuple[SeedAddress, ...] = ()
    """Members outside this cluster, from ``spec.seedNodes``."""
    cluster_seeds: tuple[SeedAddress, ...] = ()
    """Addresses of up to 16 of this cluster's own nodes; not part of the hash."""
    removed: tuple[str, ...] = ()
    """Members that were deleted on purpose: dropped at once, not waited for."""
    identity: IdentitySettings | None = None
    """None in the document of an operator of a release without certificates."""
    traffic: TrafficSettings = NO_TRAFFIC
    """Which packets of the cluster itself the mesh carries."""

    @property
    def config_hash(self) -> str:
        """12 hex digits that change when an agent has something new to apply.

        Cluster seeds are left out: they come and go with nodes, and an agent
        that has joined does not need the newest.
        """
        settled = {key: value for key, value in self.to_dict().items() if key != "clusterSeeds"}
        return hashlib.sha256(json.dumps(settled, sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON shape."""
        document = {
            "version": DOCUMENT_VERSION,
            "name": self.name,
            "uid": self.uid,
            "overlayCIDR": str(self.overlay),
            "allocationCIDR": str(self.allocation),
            "clusterName": self.cluster_name,
            "wireguard": {
                "interface": self.wireguard.interface,
                "port": self.wireguard.port,
                "mtu": self.wireguard.mtu,
                "persistentKeepalive": self.wireguard.persistent_keepalive,
                "mode": self.wireguard.mode,
            },
            "gossip": {
                "port": self.gossip.port,
                "profile": self.gossip.profile,
                "label": self.gossip.label,
            },
            "etcHosts": self.etc_hosts,
            "seedNodes": [str(seed) for seed in self.seed_nodes],
            "clusterSeeds": [str(seed) for seed in self.cluster_seeds],
            "removed": list(self.removed),
        }
        if self.identity is not None:
            document["identity"] = self.identity.to_dict()
        if self.traffic != NO_TRAFFIC:
            document["traffic"] = self.traffic.to_dict()
        return document

    def to_json(self) -> str:
        """Return the text of ``mesh.json``; equal documents give equal text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> MeshDocument:
        """Read ``mesh.json``.

        Raises:
            InvalidSpec: naming the key (as ``mesh.json wireguard.port``) and its rule.

        """
        return _read(JsonSection.of_text(text, FILE_NAME))


def parse_overlay_network(text: str, *, field: str) -> IPNetwork:
    """Read an overlay CIDR: IPv4 /8 to /30 or IPv6 /32 to /126, without host bits.

    Raises:
        InvalidSpec: it is not a valid overlay network.

    """
    try:
        network = ip_network(text)
    except ValueError:
        network = None
    # ip_network takes a scope (fe80::%eth0/64), which means something on one machine only.
    if network is None or "%" in text:
        raise InvalidSpec(field, "must be a network such as 10.189.0.0/16, without host bits", value=text)
    shortest, longest = (8, 30) if isinstance(network, IPv4Network) else (32, 126)
    if not shortest <= network.prefixlen <= longest:
        raise InvalidSpec(
            field,
            f"an IPv{network.version} overlay must have a prefix length from /{shortest} to /{longest}",
            value=text,
        )
    return network


def _read(document: JsonSection) -> MeshDocument:
    version = document.number("version", 0, 0, 2**31)
    if version != DOCUMENT_VERSION:
        raise InvalidSpec(
            document.field("version"),
            f"this agent supports version {DOCUMENT_VERSION}: use the same release of agent and operator",
            value=version,
        )
    overlay = _network(document, "overlayCIDR")
    allocation = _network(document, "allocationCIDR", str(overlay))
    if allocation.version != overlay.version or not allocation.subnet_of(overlay):  # type: ignore[arg-type]
        raise InvalidSpec(document.field("allocationCIDR"), f"must be inside {overlay}", value=allocation)
    wireguard, gossip = document.section("wireguard"), document.section("gossip")
    label = gossip.text("label", "")
    if len(label.encode()) > MAX_LABEL:
        raise InvalidSpec(gossip.field("label"), f"must be at most {MAX_LABEL} bytes", value=label)
    cluster_name = document.text("clusterName", "") and _cluster_name(document)
    mtu = wireguard.number("mtu", 0, 0, MAX_MTU)
    if 0 < mtu < MIN_MTU:
        raise InvalidSpec(wireguard.field("mtu"), f"must be 0 or at least {MIN_MTU}", value=mtu)

    return MeshDocument(
        name=check_mesh_name(document.text("name"), field=document.field("name")),
        uid=document.text("uid"),
        overlay=overlay,
        allocation=allocation,
        cluster_name=cluster_name,
        wireguard=WireGuardSettings(
            interface=check_interface_name(
                wireguard.text("interface", "wgoverlay"), field=wireguard.field("interface")
            ),
            port=wireguard.number("port", 51820, 1, MAX_PORT),
            mtu=mtu,
            persistent_keepalive=wireguard.number("persistentKeepalive", 0, 0, MAX_KEEPALIVE),
            mode=wireguard.choice("mode", "Auto", get_args(WireGuardMode)),
        ),
        gossip=GossipSettings(
            port=gossip.number("port", 7946, 1, MAX_PORT),
            profile=gossip.choice("profile", "WAN", get_args(GossipProfile)),
            label=label,
        ),
        etc_hosts=document.choice("etcHosts", "Qualified", get_args(EtcHosts)),
        seed_nodes=document.seeds("seedNodes"),
        cluster_seeds=document.seeds("clusterSeeds")[:MAX_CLUSTER_SEEDS],
        removed=tuple(document.texts("removed")),
        identity=_identity(document.section("identity")) if document.has("identity") else None,
        traffic=TrafficSettings.from_section(document.section("traffic")),
    )


def _network(section: JsonSection, key: str, default: str | None = None) -> IPNetwork:
    return parse_overlay_network(section.text(key, default), field=section.field(key))


def _cluster_name(section: JsonSection) -> str:
    name = section.text("clusterName")
    if not (is_member_name(name) and len(name) <= MAX_CLUSTER_NAME):
        raise InvalidSpec(
            section.field("clusterName"),
            f"must be at most {MAX_CLUSTER_NAME} letters, digits, '-' or '.', as in a DNS name",
            value=name,
        )
    return name


def _identity(section: JsonSection) -> IdentitySettings:
    texts = section.texts("authorities")
    if len(texts) > MAX_AUTHORITIES:
        raise InvalidSpec(section.field("authorities"), f"must be at most {MAX_AUTHORITIES} keys")
    authorities = tuple(
        AuthorityKey.from_base64(text, field_name=f"{section.field('authorities')}[{index}]")
        for index, text in enumerate(texts)
    )
    proof_key = section.text("proofKey", "")
    return IdentitySettings(
        mode=section.choice("mode", "Open", get_args(IdentityMode)),
        bound=section.truth("bound"),
        form=section.choice("form", "Gob", get_args(MetadataForm)),
        authorities=authorities,
        proof_key=WireGuardPublicKey.from_base64(proof_key, field_name=section.field("proofKey"))
        if proof_key
        else None,
        trusted=tuple(
            _trusted(each, authorities) for each in section.sections("trusted", MAX_TRUSTED * MAX_AUTHORITIES)
        ),
    )


def _trusted(section: JsonSection, own: Sequence[AuthorityKey]) -> TrustedAuthority:
    key = AuthorityKey.from_base64(section.text("key"), field_name=section.field("key"))
    if key in own:
        raise InvalidSpec(section.field("key"), "must not be an authority of this mesh", value=key)
    networks = section.texts("cidrs")
    if not networks:
        # Without one, it could certify each address.
        raise InvalidSpec(section.field("cidrs"), "must list a network")
    return TrustedAuthority(
        cluster_name=_cluster_name(section),
        key=key,
        cidrs=tuple(
            parse_overlay_network(text, field=f"{section.field('cidrs')}[{index}]")
            for index, text in enumerate(networks)
        ),
    )
