"""The join file: all that a machine outside Kubernetes needs to join a mesh as one invited machine.

``kubectl wesher invite`` writes it, ``wesher --join-file`` reads it. It holds the cluster keys and the
seed of the invite, so a program that writes it to a disk gives it mode 0600. Unknown keys are ignored, so
that an older agent reads the file of a newer plugin; a newer ``version`` is refused.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from wesher_common.certificate import AuthorityKey
from wesher_common.errors import InvalidSpec
from wesher_common.json_section import JsonSection
from wesher_common.keys import KEY_BYTES, MAX_KEYS, ClusterKey, KeyRing
from wesher_common.mesh_document import (
    MAX_CLUSTER_NAME,
    MAX_LABEL,
    MAX_MTU,
    MIN_MTU,
    EtcHosts,
    GossipProfile,
    parse_overlay_network,
)
from wesher_common.names import (
    check_interface_name,
    check_mesh_name,
    is_member_name,
    is_reserved_name,
    member_name,
)
from wesher_common.overlay import IPNetwork
from wesher_common.seeds import MAX_PORT, SeedAddress

JOIN_FILE: Final = "join file"
"""What errors call it: the path is the reader's to add."""
JOIN_FILE_VERSION: Final = 1
MAX_JOIN_FILE_BYTES: Final = 64 * 1024
"""A longer file is another one."""
MAX_JOIN_SEEDS: Final = 16
_MAX_UID: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinFile:
    """The content of a join file."""

    mesh_name: str
    mesh_uid: str
    ring: KeyRing
    """The mesh's cluster keys at the time of the invite."""
    seeds: tuple[SeedAddress, ...]
    """Members to join through."""
    label: str
    profile: GossipProfile
    overlay: IPNetwork
    name: str
    """Of the machine, as the WesherPeer is named after the mesh; see `member_name`."""
    authority: AuthorityKey
    """The mesh's, whose certificates alone count."""
    enrol_seed: bytes = field(repr=False)
    """Of the invite's Ed25519 pair; with it the machine signs its `member_name` and WireGuard key."""
    cluster_name: str = ""
    gossip_port: int = 7946
    wireguard_port: int = 51820
    interface: str = "wgoverlay"
    mtu: int = 0
    """Bytes; 0 derives it from the underlay."""
    etc_hosts: EtcHosts = "Qualified"

    @property
    def member_name(self) -> str:
        """The name under which the machine gossips, and which its certificate has."""
        return member_name(self.name, self.cluster_name)

    def to_json(self) -> str:
        """Return the text of the file, secrets included."""
        content: dict[str, Any] = {
            "version": JOIN_FILE_VERSION,
            "mesh": {"name": self.mesh_name, "uid": self.mesh_uid},
            "name": self.name,
            "clusterName": self.cluster_name,
            "seeds": [str(seed) for seed in self.seeds],
            "overlay": str(self.overlay),
            "label": self.label,
            "profile": self.profile,
            "ports": {"gossip": self.gossip_port, "wireguard": self.wireguard_port},
            "interface": self.interface,
            "mtu": self.mtu,
            "etcHosts": self.etc_hosts,
            "authority": str(self.authority),
            "clusterKeys": [key.reveal_base64() for key in self.ring],
            "enrolSeed": base64.b64encode(self.enrol_seed).decode(),
        }
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> JoinFile:
        """Read the text of a file.

        Raises:
            InvalidSpec: naming the key (as ``join file ports.gossip``) and its rule. It repeats no secret.

        """
        if len(text) > MAX_JOIN_FILE_BYTES:
            raise InvalidSpec(JOIN_FILE, f"must be at most {MAX_JOIN_FILE_BYTES} bytes")
        return _read(JsonSection.of_text(text, JOIN_FILE))


def _read(content: JsonSection) -> JoinFile:
    version = content.number("version", 0, 0, 2**31)
    if version != JOIN_FILE_VERSION:
        raise InvalidSpec(
            content.field("version"),
            f"this agent supports version {JOIN_FILE_VERSION}: use the same release of agent and plugin",
            value=version,
        )
    mesh, ports = content.section("mesh"), content.section("ports")
    gossip_port = ports.number("gossip", 7946, 1, MAX_PORT)
    wireguard_port = ports.number("wireguard", 51820, 1, MAX_PORT)
    if gossip_port == wireguard_port:
        rule = "must differ from ports.wireguard: both are UDP"
        raise InvalidSpec(ports.field("gossip"), rule, value=gossip_port)
    label = content.text("label", "")
    if len(label.encode()) > MAX_LABEL:
        raise InvalidSpec(content.field("label"), f"must be at most {MAX_LABEL} bytes", value=label)
    mtu = content.number("mtu", 0, 0, MAX_MTU)
    if 0 < mtu < MIN_MTU:
        raise InvalidSpec(content.field("mtu"), f"must be 0 or at least {MIN_MTU}", value=mtu)
    name, cluster_name = _names(content)
    return JoinFile(
        mesh_name=check_mesh_name(mesh.text("name"), field=mesh.field("name")),
        mesh_uid=_uid(mesh),
        ring=_ring(content),
        seeds=_seeds(content),
        label=label,
        profile=content.choice("profile", "WAN", get_args(GossipProfile)),
        overlay=parse_overlay_network(content.text("overlay"), field=content.field("overlay")),
        name=name,
        cluster_name=cluster_name,
        authority=AuthorityKey.from_base64(content.text("authority"), field_name=content.field("authority")),
        enrol_seed=_seed(content),
        gossip_port=gossip_port,
        wireguard_port=wireguard_port,
        interface=check_interface_name(
            content.text("interface", "wgoverlay"), field=content.field("interface")
        ),
        mtu=mtu,
        etc_hosts=content.choice("etcHosts", "Qualified", get_args(EtcHosts)),
    )


def _names(content: JsonSection) -> tuple[str, str]:
    cluster_name = content.text("clusterName", "")
    if cluster_name and not (is_member_name(cluster_name) and len(cluster_name) <= MAX_CLUSTER_NAME):
        raise InvalidSpec(
            content.field("clusterName"),
            f"must be at most {MAX_CLUSTER_NAME} letters, digits, '-' or '.', as in a DNS name",
            value=cluster_name,
        )
    name = content.text("name")
    whole = member_name(name, cluster_name)
    if not name or not is_member_name(whole) or is_reserved_name(whole):
        rule = "must be a DNS name, with clusterName at most 253 characters, and not an address or localhost"
        raise InvalidSpec(content.field("name"), rule, value=name)
    return name, cluster_name


def _uid(mesh: JsonSection) -> str:
    uid = mesh.text("uid")
    if not 0 < len(uid) <= _MAX_UID or not uid.isprintable():
        raise InvalidSpec(mesh.field("uid"), "must be the UID of the WesherMesh", value=uid)
    return uid


def _ring(content: JsonSection) -> KeyRing:
    texts = content.texts("clusterKeys", secret=True)
    if not 0 < len(texts) <= MAX_KEYS:
        rule = f"must be 1 to {MAX_KEYS} keys, not {len(texts)}"
        raise InvalidSpec(content.field("clusterKeys"), rule)
    keys = [
        ClusterKey.from_base64(text, field_name=f"{content.field('clusterKeys')}[{index}]")
        for index, text in enumerate(texts)
    ]
    primary, *accepted = dict.fromkeys(keys)
    return KeyRing(primary, tuple(accepted))


def _seeds(content: JsonSection) -> tuple[SeedAddress, ...]:
    seeds = content.seeds("seeds")
    if not 0 < len(seeds) <= MAX_JOIN_SEEDS:
        raise InvalidSpec(
            content.field("seeds"), f"must be 1 to {MAX_JOIN_SEEDS} addresses, not {len(seeds)}"
        )
    return seeds


def _seed(content: JsonSection) -> bytes:
    try:
        seed = base64.b64decode(content.text("enrolSeed", secret=True), validate=True)
    except ValueError:
        seed = b""
    if len(seed) != KEY_BYTES:
        raise InvalidSpec(content.field("enrolSeed"), f"must be standard base64 of {KEY_BYTES} bytes")
    return seed
