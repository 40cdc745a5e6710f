"""The flags and variables of one agent, as one checked value.

Pure: arguments and environment in, `Settings` out. It owns the rules that flags
keep together (`flags` has the rule of each); reading files and asking the host
for its addresses and its name is left to the shell. A flag beats its
environment variable, and that its default.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from wesher_agent.flags import FLAGS
from wesher_agent.mesh.cover import UnreachableRoute
from wesher_agent.mesh.local import Options
from wesher_common.certificate import AuthorityKey
from wesher_common.errors import InvalidSpec
from wesher_common.join_file import JoinFile
from wesher_common.keys import ClusterKey
from wesher_common.mesh_document import (
    EtcHosts,
    GossipProfile,
    GossipSettings,
    IdentitySettings,
    MeshDocument,
    WireGuardMode,
    WireGuardSettings,
)
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.seeds import SeedAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one agent, checked; None and empty mean not given."""

    cluster_key: ClusterKey | None
    cluster_key_file: Path | None
    join: tuple[SeedAddress, ...]
    join_file: Path | None
    authority: AuthorityKey | None
    """The mesh's; None trusts each member with the cluster key."""
    init: bool
    """Ignore the saved state; the next save overwrites it."""
    bind_addr: IPAddress | None
    bind_iface: str
    advertise_addr: IPAddress | None
    """What other members dial, when it is not the address bound (1:1 NAT)."""
    cluster_port: int
    wireguard_port: int
    overlay_net: IPNetwork
    interface: str
    no_etc_hosts: bool
    hosts_file: Path
    log_level: int
    """A level of `logging`."""
    log_format: str
    """``text`` or ``json``."""
    ip_as_name: bool
    node_name: str
    """Empty means the host's name."""
    gossip_profile: GossipProfile
    label: str
    wireguard_mode: WireGuardMode
    userspace_binary: str
    """A path; empty means wireguard-go on PATH."""
    mtu: int
    """Bytes; 0 takes it from the underlay."""
    unreachable_route: UnreachableRoute
    forget_after: float
    """Seconds that a failed member is expected back."""
    leave_on_exit: bool | None
    """None leaves outside Kubernetes and stays inside."""
    state_dir: Path
    run_dir: Path
    health_port: int
    """TCP on 127.0.0.1; 0 for none."""
    kubernetes: Path | None
    """Directory with the mounted ``cluster-key``, ``accepted-keys`` and ``mesh.json``."""
    kubeconfig: Path | None
    """None means the pod's own service account."""
    given: Mapping[str, str]
    """The flag or variable that gave a value, by the name of the field; only those that were given."""
    joined: JoinFile | None = None
    """What the machine was invited with; see `joining`."""

    @property
    def options(self) -> Options:
        """What of this the member itself needs."""
        in_kubernetes = self.kubernetes is not None
        return Options(
            in_kubernetes=in_kubernetes,
            bind_addr=self.bind_addr,
            bind_iface=self.bind_iface,
            advertise_addr=self.advertise_addr,
            unreachable_route=self.unreachable_route,
            forget_after=self.forget_after,
            leaves_on_exit=not in_kubernetes if self.leave_on_exit is None else self.leave_on_exit,
        )

    def mesh_document(self) -> MeshDocument:
        """Return these flags in the form in which Kubernetes gives the same facts.

        So that the agent knows one description of a mesh, wherever it came from.
        """
        joined = self.joined
        etc_hosts: EtcHosts = "Names" if joined is None else joined.etc_hosts
        return MeshDocument(
            name=self.interface if joined is None else joined.mesh_name,
            uid="" if joined is None else joined.mesh_uid,
            overlay=self.overlay_net,
            allocation=self.overlay_net,
            wireguard=WireGuardSettings(
                interface=self.interface, port=self.wireguard_port, mtu=self.mtu, mode=self.wireguard_mode
            ),
            gossip=GossipSettings(port=self.cluster_port, profile=self.gossip_profile, label=self.label),
            etc_hosts="Off" if self.no_etc_hosts else etc_hosts,
            seed_nodes=self.join,
            identity=None
            if self.authority is None
            else IdentitySettings(mode="Verified", bound=True, authorities=(self.authority,)),
        )

    def joining(self, joined: JoinFile, *, source: str) -> Settings:
        """Return these settings for a machine that was invited to a mesh.

        ``--join`` adds members to join through. Interface, MTU and hosts file are this machine's own
        affair, so flags win.

        Args:
            joined: what it was invited with.
            source: what an error calls that.

        Raises:
            InvalidSpec: a flag contradicts it.

        """
        decided: dict[str, Any] = {
            "authority": joined.authority,
            "cluster_port": joined.gossip_port,
            "wireguard_port": joined.wireguard_port,
            "overlay_net": joined.overlay,
            "node_name": joined.member_name,
            "gossip_profile": joined.profile,
            "label": joined.label,
            "ip_as_name": False,
        }
        for attribute, value in decided.items():
            if attribute in self.given and getattr(self, attribute) != value:
                rule = f"contradicts {source}, which says {value}: leave it out"
                raise InvalidSpec(self.given[attribute], rule, value=getattr(self, attribute))
        return replace(
            self,
            **decided,
            interface=self.interface if "interface" in self.given else joined.interface,
            mtu=self.mtu if "mtu" in self.given else joined.mtu,
            join=tuple(dict.fromkeys((*self.join, *joined.seeds))),
            joined=joined,
        )


def parse_settings(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """Read what argparse collected, and the environment for what it did not.

    Raises:
        InvalidSpec: naming the flag or variable, its value (unless a secret) and the rule.

    """
    given: dict[str, str] = {}
    values: dict[str, Any] = {}
    for flag in FLAGS:
        text = getattr(arguments, flag.attribute)
        where = flag.name
        if text is None:
            # An empty variable is what a template leaves behind; it says nothing.
            text, where = environ.get(flag.variable) or None, flag.variable
        if text is None:
            values[flag.attribute] = flag.default
            continue
        given[flag.attribute] = where
        values[flag.attribute] = flag.read(
            ",".join(text) if flag.repeats and where == flag.name else text, where
        )
    _check_together(given, values)
    return Settings(**values, given=given)


def _check_together(given: Mapping[str, str], values: Mapping[str, Any]) -> None:
    for one, other in (("bind_iface", "bind_addr"), ("cluster_key_file", "cluster_key")):
        if values[one] and values[other] is not None:
            raise InvalidSpec(given[one], f"cannot be combined with {given[other]}")
    if values["wireguard_port"] == values["cluster_port"]:
        raise InvalidSpec(
            given.get("wireguard_port") or given["cluster_port"],
            "the gossip and WireGuard ports must differ",
            value=values["wireguard_port"],
        )
    if values["ip_as_name"] and isinstance(values["bind_addr"], IPv6Address):
        raise InvalidSpec(given["ip_as_name"], "an IPv6 address cannot be a name: use --node-name")
    if values["join_file"] is not None and values["init"]:
        rule = f"cannot be combined with {given['join_file']}: the file is for a mesh that exists"
        raise InvalidSpec(given["init"], rule)
    if values["kubernetes"] is not None:
        _check_kubernetes(given)
    elif values["kubeconfig"] is not None:
        raise InvalidSpec(given["kubeconfig"], "needs --kubernetes")


def _check_kubernetes(given: Mapping[str, str]) -> None:
    for flag in FLAGS:
        if flag.from_document and flag.attribute in given:
            raise InvalidSpec(
                given[flag.attribute], "cannot be combined with --kubernetes, where the WesherMesh sets this"
            )
    for attribute in ("cluster_key", "cluster_key_file", "init"):
        if attribute in given:
            raise InvalidSpec(
                given[attribute],
                "cannot be combined with --kubernetes, where the key comes from the mounted Secret",
            )
