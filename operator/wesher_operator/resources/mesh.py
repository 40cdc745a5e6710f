"""WesherMesh: spec by the user, status by the operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from wesher_common.json_section import JsonSection
from wesher_common.mesh_document import (
    MAX_KEEPALIVE,
    MAX_LABEL,
    MAX_MTU,
    MAX_TRUSTED,
    EtcHosts,
    GossipProfile,
    GossipSettings,
    IdentityMode,
    WireGuardMode,
    WireGuardSettings,
    parse_overlay_network,
)
from wesher_common.names import MAX_INTERFACE_NAME, MAX_MESH_NAME, check_interface_name, key_secret_name
from wesher_common.overlay import IPNetwork
from wesher_common.report import SHOWN_NAMES
from wesher_common.seeds import MAX_PORT, SeedAddress, parse_seed
from wesher_common.traffic import (
    MAX_DIRECT,
    MAX_NODE_CIDRS,
    MAX_RULE_PRIORITY,
    ApiServerWay,
    NodeTraffic,
    PodTraffic,
    TrafficSettings,
)
from wesher_operator.resources import rules
from wesher_operator.resources.affinity import NO_VIRTUAL_NODES, Affinity
from wesher_operator.resources.parts import MAX_CIDR_TEXT, MAX_DNS_NAME, Column, Conditions, Resource

_MAX_SEED_TEXT = MAX_DNS_NAME + len(":65535")
_MAX_TAINT_TEXT = 317 + len("=") + 63 + len(":PreferNoSchedule")
Port = Annotated[int, Field(ge=1, le=MAX_PORT)]


class SecretRef(Resource):
    """A Secret in the operator's namespace."""

    name: str = Field("", max_length=MAX_DNS_NAME, json_schema_extra=rules.or_empty(rules.DNS_NAME))
    """Name of the Secret; empty means `<mesh>-key`, which the operator creates with a random key."""


class Toleration(Resource):
    """A taint that agents tolerate (core/v1 Toleration)."""

    key: str = Field("", max_length=316)
    """Taint key; empty with operator Exists matches every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """How the value is compared."""
    value: str = Field("", max_length=63)
    """Taint value, for operator Equal."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Taint effect; empty matches every effect."""
    toleration_seconds: int | None = None
    """Seconds for which a NoExecute taint is tolerated; without a limit when absent."""


class WireGuard(Resource):
    """The device that carries the overlay."""

    model_config = ConfigDict(json_schema_extra={"default": {}})

    interface: str = Field(
        "wgoverlay", min_length=1, max_length=MAX_INTERFACE_NAME, json_schema_extra=rules.INTERFACE
    )
    """Name of the device on every node."""
    port: Port = 51820
    """UDP port; open it between all members."""
    mtu: int = Field(0, ge=0, le=MAX_MTU, json_schema_extra=rules.MTU)
    """MTU of the device; 0 derives it from the underlay's MTU."""
    persistent_keepalive: int = Field(0, ge=0, le=MAX_KEEPALIVE)
    """Seconds between keepalives to every peer; 0 is off."""
    mode: WireGuardMode = "Auto"
    """`Auto` prefers kernel WireGuard over wireguard-go; an existing device keeps its mode."""


class Gossip(Resource):
    """How members find each other."""

    model_config = ConfigDict(json_schema_extra={"default": {}})

    port: Port = 7946
    """UDP and TCP port; open it between all members."""
    profile: GossipProfile = "WAN"
    """memberlist's timing for a LAN or a WAN; must be the same on all members."""
    label: str = Field(
        "",
        max_length=MAX_LABEL,
        json_schema_extra=rules.cel(
            f"bytes(self).size() <= {MAX_LABEL}", f"must be at most {MAX_LABEL} bytes of UTF-8"
        ),
    )
    """memberlist's label, which separates meshes that share a key; must be the same on all members."""


class Addresses(Resource):
    """Which address of a node other members dial."""

    model_config = ConfigDict(json_schema_extra={"default": {}})

    prefer: list[Literal["InternalIP", "ExternalIP"]] = Field(
        ["InternalIP"], min_length=1, max_length=2, json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """Node address types that members of other locations dial, in order of preference."""
    location_label: str = Field("", max_length=317, json_schema_extra=rules.or_empty(rules.LABEL_KEY))
    """Node label whose value is the node's location, such as topology.kubernetes.io/region.

    The annotation wesher.dev/location on a Node takes precedence.
    """


class Traffic(Resource):
    """Which packets of the cluster itself go through the tunnels."""

    model_config = ConfigDict(json_schema_extra={"default": {}, **rules.TRAFFIC})

    nodes: NodeTraffic = "None"
    """To which nodes' InternalIPs: `None`, those in `OtherLocations`, or `All`."""
    pods: PodTraffic = "None"
    """To which pods: `None`, those of `OtherClusters`, also those in `OtherLocations`, or `All`."""
    node_cidrs: list[Annotated[str, Field(max_length=MAX_CIDR_TEXT, json_schema_extra=rules.ANY_NETWORK)]] = (
        Field([], alias="nodeCIDRs", max_length=MAX_NODE_CIDRS)
    )
    """Networks of the nodes' InternalIPs, required with nodes; an InternalIP outside them is not carried."""
    direct: list[Annotated[str, Field(max_length=9, json_schema_extra=rules.DIRECT_PORT)]] = Field(
        ["tcp/2379", "tcp/2380"], max_length=MAX_DIRECT
    )
    """Ports between nodes that never go through the tunnels, such as those of etcd."""
    api_server: ApiServerWay = "Direct"
    """`Direct` never sends packets to the API server's endpoints through tunnels; `Mesh` treats them like others."""  # noqa: E501
    mark: int = Field(0, ge=0, le=2**31, json_schema_extra=rules.ONE_BIT)
    """The firewall mark of the tunnels' own packets, one bit; 0 means 128 (0x80)."""
    table: int = Field(0, ge=0, le=2**31 - 1, json_schema_extra=rules.ROUTING_TABLE)
    """Number of the routing table for carried networks; 0 means 1870."""
    rule_priority: int = Field(0, ge=0, le=MAX_RULE_PRIORITY)
    """First of the seven priorities that the routing rules use; 0 means 1870."""


class NodeReadiness(Resource):
    """How Kubernetes learns that a node's tunnels carry traffic."""

    model_config = ConfigDict(
        json_schema_extra=rules.all_of(
            rules.cel(
                # The default of the whole is checked without the defaults of its fields.
                "!has(self.taintOnReboot) || !self.taintOnReboot || (has(self.taint) && self.taint != '')",
                "requires taint",
                fieldPath=".taintOnReboot",
            ),
            default={},
        )
    )

    condition: bool = False
    """Write the condition wesher.dev/TunnelsReady to each Node."""
    taint: str = Field("", max_length=_MAX_TAINT_TEXT, json_schema_extra=rules.or_empty(rules.TAINT))
    """Startup taint, as `key:Effect` or `key=value:Effect`: removed once a Node's tunnels are ready."""
    taint_on_reboot: bool = False
    """Add the taint again when a Node has rebooted and its tunnels are not ready."""


class TrustedAuthority(Resource):
    """The authority of another cluster's mesh whose nodes may join this one."""

    cluster_name: str = Field(min_length=1, max_length=63, json_schema_extra=rules.DNS_NAME)
    """spec.clusterName of that mesh; names of its members end in a dot and this."""
    key: str = Field(max_length=44, json_schema_extra=rules.AUTHORITY_KEY)
    """Its public key, as `kubectl wesher authority` prints it there."""
    former_key: str = Field("", max_length=44, json_schema_extra=rules.or_empty(rules.AUTHORITY_KEY))
    """The key that `key` replaces there, while members still have certificates of it."""
    cidrs: list[
        Annotated[
            str,
            Field(
                max_length=MAX_CIDR_TEXT,
                json_schema_extra=rules.all_of(rules.ANY_NETWORK, rules.OVERLAY_PREFIX),
            ),
        ]
    ] = Field(min_length=1, max_length=16)
    """That mesh's allocationCIDR and the pod networks to reach; nothing outside them is accepted."""


class WesherMeshSpec(Resource):
    """Desired state of the mesh."""

    model_config = ConfigDict(
        json_schema_extra=rules.all_of(
            rules.cel(
                "!has(self.allocationCIDR) || !isCIDR(self.allocationCIDR) || !isCIDR(self.overlayCIDR)"
                " || cidr(self.overlayCIDR).containsCIDR(cidr(self.allocationCIDR))",
                "must be inside overlayCIDR",
                shows="self.allocationCIDR",
                fieldPath=".allocationCIDR",
            ),
            rules.cel(
                "self.gossip.port != self.wireguard.port",
                "must differ from wireguard.port: both are UDP",
                fieldPath=".gossip.port",
            ),
            rules.NODE_CIDRS_OUTSIDE_OVERLAY,
        )
    )

    overlay_cidr: str = Field(
        alias="overlayCIDR",
        max_length=MAX_CIDR_TEXT,
        json_schema_extra=rules.all_of(rules.ANY_NETWORK, rules.OVERLAY_PREFIX, rules.IMMUTABLE_NETWORK),
    )
    """Network of the overlay, IPv4 (/8 to /30) or IPv6 (/32 to /126); must be the same on all members."""
    allocation_cidr: str = Field(
        "",
        alias="allocationCIDR",
        max_length=MAX_CIDR_TEXT,
        json_schema_extra=rules.all_of(rules.or_empty(rules.ANY_NETWORK), rules.OVERLAY_PREFIX),
    )
    """The part of overlayCIDR this cluster allocates from; empty means all of it."""
    cluster_name: str = Field("", max_length=63, json_schema_extra=rules.or_empty(rules.DNS_NAME))
    """If set, members are named `<node>.<clusterName>`; required if node names repeat across clusters."""
    cluster_key_secret_ref: SecretRef = Field(
        SecretRef(), json_schema_extra=rules.all_of(rules.IMMUTABLE_KEY_SECRET, default={})
    )
    """The Secret with the cluster key."""
    seed_nodes: list[
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=_MAX_SEED_TEXT,
                json_schema_extra=rules.all_of(rules.SEED_FORM, rules.SEED_PORT),
            ),
        ]
    ] = Field([], max_length=64)
    """Members outside this cluster to join through: host, ip, host:port or [v6]:port. Agents keep trying."""
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        {"kubernetes.io/os": "linux"}, max_length=32, json_schema_extra=rules.NODE_SELECTOR
    )
    """Labels of the nodes on which agents run; empty means all nodes. Setting this replaces the default."""
    affinity: Affinity = Field(
        NO_VIRTUAL_NODES,
        json_schema_extra={"default": NO_VIRTUAL_NODES.model_dump(by_alias=True, exclude_defaults=True)},
    )
    """Further requirements on those nodes; the default excludes virtual nodes."""
    tolerations: list[Toleration] = Field(
        [Toleration(operator="Exists")],
        max_length=32,
        json_schema_extra={"default": [{"operator": "Exists"}]},
    )
    """Taints that agents tolerate; if unset, all taints."""
    wireguard: WireGuard = WireGuard()
    """The WireGuard device."""
    gossip: Gossip = Gossip()
    """Gossip between members."""
    addresses: Addresses = Addresses()
    """Which address of a node other members dial."""
    traffic: Traffic = Traffic()
    """Which packets of the cluster itself go through the tunnels."""
    node_readiness: NodeReadiness = NodeReadiness()
    """How Kubernetes learns that a node's tunnels carry traffic."""
    trusted_authorities: list[TrustedAuthority] = Field(
        [],
        max_length=MAX_TRUSTED,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["clusterName"]},
    )
    """Authorities of other clusters whose nodes may join this mesh."""
    etc_hosts: EtcHosts = "Qualified"
    """`Qualified` writes `<member>.<mesh>.wesher.internal` into each host's /etc/hosts, `Names` bare names, `Off` none."""  # noqa: E501
    # Without a default: one would change stored meshes at the moment of an upgrade.
    identity: IdentityMode | None = None
    """`Verified` gives only certified members a tunnel, `Open` each holder of the cluster key.

    Without a value, a new mesh is Verified, and a mesh of a release without certificates stays Open.
    """

    @property
    def overlay(self) -> IPNetwork:
        """``overlayCIDR`` as a network.

        Raises:
            InvalidSpec: it is none; the API server admits no such object.

        """
        return parse_overlay_network(self.overlay_cidr, field="spec.overlayCIDR")

    @property
    def allocation(self) -> IPNetwork:
        """The network addresses are taken from; inside `overlay`.

        Raises:
            InvalidSpec: it is none.

        """
        return parse_overlay_network(self.allocation_cidr or self.overlay_cidr, field="spec.allocationCIDR")

    @property
    def seeds(self) -> tuple[SeedAddress, ...]:
        """``seedNodes``, parsed.

        Raises:
            InvalidSpec: one cannot be read.

        """
        return tuple(
            parse_seed(text, field=f"spec.seedNodes[{index}]") for index, text in enumerate(self.seed_nodes)
        )

    @property
    def wireguard_settings(self) -> WireGuardSettings:
        """``wireguard`` as the mesh document holds it."""
        return WireGuardSettings(
            interface=check_interface_name(self.wireguard.interface, field="spec.wireguard.interface"),
            port=self.wireguard.port,
            mtu=self.wireguard.mtu,
            persistent_keepalive=self.wireguard.persistent_keepalive,
            mode=self.wireguard.mode,
        )

    @property
    def gossip_settings(self) -> GossipSettings:
        """``gossip`` as the mesh document holds it."""
        return GossipSettings(port=self.gossip.port, profile=self.gossip.profile, label=self.gossip.label)

    @property
    def traffic_settings(self) -> TrafficSettings:
        """``traffic`` as the mesh document holds it, without the API server's addresses.

        Raises:
            InvalidSpec: a network or a port cannot be read.

        """
        section = JsonSection(
            self.traffic.model_dump(by_alias=True, exclude={"mark", "table", "rule_priority", "api_server"}),
            "spec.traffic.",
        )
        settings = TrafficSettings.from_section(section)
        return replace(
            settings,
            mark=self.traffic.mark or settings.mark,
            table=self.traffic.table or settings.table,
            rule_priority=self.traffic.rule_priority or settings.rule_priority,
        )

    def key_secret(self, mesh: str) -> str:
        """Return the name of the Secret that holds the cluster key of ``mesh``."""
        return self.cluster_key_secret_ref.name or key_secret_name(mesh)


class MemberCounts(Resource):
    """Numbers of members."""

    desired: int = 0
    """Number of nodes on which an agent should run."""
    ready: int = 0
    """Number of these nodes that are Ready."""
    not_ready: int = 0
    """Number of these nodes that are not Ready or have not reported yet."""
    stale: int = 0
    """Number of these nodes that have stopped reporting."""
    outside: int = 0
    """Number of members that are not nodes of this cluster."""
    summary: str = ""
    """`ready/desired`."""


MemberState = Literal["Ready", "NotReady", "Stale", "Starting", "Alive"]


class MemberStatus(Resource):
    """One member."""

    name: str
    """Member name."""
    kind: Literal["Node", "OtherCluster", "Outsider"]
    """`Node` is a node of this cluster, `OtherCluster` a member of a trusted cluster, `Outsider` another external machine."""  # noqa: E501
    address: str = ""
    """Overlay address."""
    state: MemberState
    """State of the member."""
    reason: str = ""
    """Why it is not ready."""


class KeyStatus(Resource):
    """Identifies the cluster keys without revealing them."""

    id: str = ""
    """First eight hex digits of a hash of the primary key."""
    accepted_ids: list[str] = Field([], alias="acceptedIDs")
    """Ids of further keys that are still accepted."""
    ring_number: int = 0
    """Rises with each change of these keys: Unix time in milliseconds."""


class IdentityStatus(Resource):
    """Who gets a tunnel, and who has a certificate."""

    mode: IdentityMode = "Open"
    """`spec.identity`; unset means Verified for a new mesh, Open for one of an older release."""
    bound: bool = False
    """Whether members without a certificate get no tunnel; only `identity: Open` makes it false again."""
    authority: str = Field("", max_length=64)
    """Public key of the mesh's authority."""
    former_authority: str = Field("", max_length=64)
    """Public key of the authority that it replaces, which agents trust while its certificates are in use."""
    certified: str = ""
    """`n/m`: of m agents on Ready Nodes, n announce their certificate."""
    waiting_for: list[str] = Field([], max_length=SHOWN_NAMES)
    """Members that a Verified mesh waits for before it is bound; at most 8."""
    revoked: list[str] = Field([], max_length=SHOWN_NAMES)
    """Nodes that were revoked and stay out of the mesh until they are readmitted; at most 8."""


class WesherMeshStatus(Resource):
    """Observed state of the mesh."""

    observed_generation: int = 0
    """Generation of the spec that this status describes."""
    installation: str = Field("", max_length=63)
    """Namespace of the operator that runs this mesh; to change it, annotate wesher.dev/installation."""
    conditions: Conditions = Field([])
    """Types: Ready, KeyReady, ConfigPublished, MembersReady, Converged, Degraded and Certified.

    Where the spec asks for it, also TrafficCarried, NodeReadiness and AuthoritiesTrusted.
    """
    members: MemberCounts = MemberCounts()
    """Numbers of members."""
    member_list: list[MemberStatus] = Field([], max_length=100)
    """Members, those not ready first; at most 100."""
    members_truncated: bool = False
    """Whether memberList omits members."""
    key: KeyStatus = KeyStatus()
    """The cluster key's id."""
    identity: IdentityStatus | None = None
    """Mode, authority and certificates of the mesh; absent until the operator has decided the mode."""


class WesherMesh(Resource):
    """An encrypted overlay network over this cluster's nodes and machines outside it."""

    plural: ClassVar[str] = "weshermeshes"
    short_name: ClassVar[str] = "wmesh"
    columns: ClassVar[list[Column]] = [
        Column(name="Ready", path='.status.conditions[?(@.type=="Ready")].status'),
        Column(name="Members", path=".status.members.summary"),
        Column(name="CIDR", path=".spec.overlayCIDR"),
        Column(name="Key", path=".status.key.id"),
        Column(name="Identity", path=".status.identity.mode", wide=True),
        Column(name="Certified", path=".status.identity.certified", wide=True),
        Column(name="Bound", path=".status.identity.bound", wide=True),
        Column(name="Traffic", path='.status.conditions[?(@.type=="TrafficCarried")].reason', wide=True),
        Column(name="Converged", path='.status.conditions[?(@.type=="Converged")].status', wide=True),
        Column(name="Degraded", path='.status.conditions[?(@.type=="Degraded")].status', wide=True),
        Column(name="Interface", path=".spec.wireguard.interface", wide=True),
        Column(name="Installation", path=".status.installation", wide=True),
        Column(name="Message", path='.status.conditions[?(@.type=="Ready")].message', wide=True),
        Column(name="Age", path=".metadata.creationTimestamp", type="date"),
    ]
    rules: ClassVar[dict[str, Any]] = rules.cel(
        f"self.metadata.name.size() <= {MAX_MESH_NAME} && !self.metadata.name.contains('.')",
        f"metadata.name must be at most {MAX_MESH_NAME} characters without '.'",
    )

    spec: WesherMeshSpec
    status: WesherMeshStatus = WesherMeshStatus()
