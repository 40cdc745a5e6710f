"""What is kept of the cluster's objects, and how it is read from their JSON.

Objects enter as JSON and leave as small frozen values, so that a thousand Nodes
cost little and a change that means nothing to us (a kubelet's heartbeat) shows
as none. An object that cannot be read counts as absent, and is put right if it
is ours: one bad object must not stop the rest.

Left to others: which of them there are now (`world`), what follows from them
(everything else here).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

from pydantic import ValidationError

from wesher_common.conditions import Condition, find_condition
from wesher_common.errors import InvalidSpec
from wesher_common.event_logger import EventLogger
from wesher_common.keys import KEY_BYTES, KeyRing
from wesher_common.names import (
    ADMIT_KEY_ANNOTATION,
    ADVERTISE_ADDRESS_ANNOTATION,
    LOCATION_ANNOTATION,
    MESH_LABEL,
    NUDGE_ANNOTATION,
    TUNNELS_READY,
)
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_operator.installation import installation_of
from wesher_operator.kube import (
    API_SERVER_ENDPOINTS,
    CONFIG_MAP,
    DAEMON_SET,
    MESH,
    NODE,
    POD,
    SECRET,
    SERVICE_CIDR,
    WESHER_NODE,
    WESHER_PEER,
    Kind,
)
from wesher_operator.reconcile.agent_pod import PodTrouble, made_at, node_of, runs, trouble_of
from wesher_operator.reconcile.authorities import AuthoritySecret
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus
from wesher_operator.resources.peer import WesherPeerSpec, WesherPeerStatus
from wesher_operator.taints import Taint

_log = EventLogger("wesher.facts")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class MeshFacts:
    """A WesherMesh."""

    name: str
    uid: str
    generation: int
    created: str
    """RFC 3339; with the name it orders meshes by age."""
    deleting: bool
    spec: WesherMeshSpec | None
    """None where `problem` says why."""
    problem: str
    status: Mapping[str, Any]
    """As last written, to compare with and to keep transition times."""
    installation: str = ""
    """Namespace of the operator that it belongs to; empty while none has claimed it."""
    version: str = field(default="", compare=False)
    """Its ``resourceVersion``."""

    @property
    def age_order(self) -> tuple[str, str]:
        """Sorts the older before the newer."""
        return (self.created, self.name)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A Node, as far as meshes care."""

    name: str
    labels: Mapping[str, str]
    addresses: tuple[tuple[str, IPAddress], ...]
    """Type (as ``InternalIP``) and address, in the Node's order; what others cannot dial is left out."""
    pod_cidrs: tuple[IPNetwork, ...]
    taints: tuple[Taint, ...]
    uid: str = ""
    ready: bool = False
    """Whether its kubelet says that it is Ready."""
    machine: tuple[str, ...] = ()
    """What tells its machine, and one start of it, from others; empty while no kubelet has reported."""
    location: str = ""
    """As annotated; empty where it is not."""
    advertise_address: IPAddress | None = None
    """As annotated."""
    problems: tuple[str, ...] = ()
    """Its annotations that cannot be used, each with its rule."""
    created_at: datetime | None = None
    boot: str = ""
    """Identifies one start of its machine; empty while no kubelet has reported."""
    tunnels_ready: Condition | None = None
    """Its condition that the operator writes."""

    def address(self, kinds: Iterable[str]) -> IPAddress | None:
        """Return the first address of the first type that the Node has one of."""
        for kind in kinds:
            for found, address in self.addresses:
                if found == kind:
                    return address
        return None


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """A WesherNode."""

    name: str
    uid: str
    deleting: bool
    owner_uid: str
    """Of the mesh that owns it; empty when its ownerReference is lost."""
    label: str
    """Value of the mesh label."""
    spec: WesherNodeSpec
    address: IPAddress
    """Its overlay address."""
    status: WesherNodeStatus
    generation: int = 1
    """Grows with each change of the spec."""
    reported_at: datetime | None = None
    """When its agent last reported."""
    created_at: datetime | None = None
    admitted_key: str = ""
    """The changed key that an administrator admits, as annotated."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """A WesherPeer."""

    name: str
    uid: str
    deleting: bool
    spec: WesherPeerSpec
    status: WesherPeerStatus
    generation: int = 1
    """Grows with each change of the spec."""
    created_at: datetime | None = None

    @property
    def machine(self) -> str:
        """Its name without that of the mesh."""
        return self.name.removeprefix(f"{self.spec.mesh_ref.name}.")

    @property
    def age_order(self) -> tuple[bool, datetime, str]:
        """Sorts the older before the newer."""
        return self.created_at is None, self.created_at or datetime.min.replace(tzinfo=UTC), self.name


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A Secret, as far as it holds a cluster key, or the key of an authority."""

    name: str
    ring: KeyRing | None
    problem: str
    """Which entry breaks which rule; empty where `ring` is set."""
    authority: AuthoritySecret | None = None
    """Of the Secret of a mesh's authority; None where it has a cluster key."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """An agent's pod."""

    name: str
    mesh: str
    node: str
    nudge: str
    """What was last written into its nudge annotation."""
    ending: bool
    """Whether it was told to end."""
    made_at: datetime | None = None
    trouble: PodTrouble | None = None
    """What keeps it from running."""
    runs: bool = False
    """Whether its agent runs, as its kubelet last said."""


@dataclass(frozen=True, slots=True)
class ServiceNetworks:
    """A ServiceCIDR: networks that Services take their addresses from."""

    networks: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class ApiServerAddresses:
    """An EndpointSlice of the Service ``kubernetes``: where the API server itself listens."""

    addresses: tuple[IPAddress, ...]
    ports: tuple[int, ...] = ()
    """At each of the addresses."""


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """A child of ours that is compared whole."""

    name: str
    body: Mapping[str, Any]


Facts = (
    MeshFacts
    | NodeFacts
    | MemberFacts
    | PeerFacts
    | KeyFacts
    | PodFacts
    | ServiceNetworks
    | ApiServerAddresses
    | ObjectFacts
)


def read_facts(kind: Kind, body: Mapping[str, Any]) -> Facts | None:
    """Return what an object says to us; None where that is nothing, or cannot be read."""
    try:
        facts: Facts | None = _READERS[kind](body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning(
            "object not readable", kind=kind.kind, name=body["metadata"]["name"], error=_brief(error)
        )
        return None
    return facts


def _brief(error: Exception) -> str:
    """Say what is wrong in a line and without the value, which may be anything."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {error}"


def _mesh(body: Mapping[str, Any]) -> MeshFacts:
    metadata = body["metadata"]
    spec, problem = None, ""
    try:
        spec = WesherMeshSpec.model_validate(body.get("spec") or {})
        spec.overlay, spec.allocation, spec.seeds, spec.wireguard_settings, spec.traffic_settings  # noqa: B018 - they check
    except ValidationError as error:
        problem, spec = f"spec.{_brief(error)}", None
    except InvalidSpec as error:
        problem, spec = str(error), None
    return MeshFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        created=metadata.get("creationTimestamp", ""),
        deleting="deletionTimestamp" in metadata,
        spec=spec,
        problem=problem,
        status=body.get("status") or {},
        installation=installation_of(body),
        version=str(metadata.get("resourceVersion", "")),
    )


def _node(body: Mapping[str, Any]) -> NodeFacts:
    metadata, spec = body["metadata"], body.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    addresses = []
    for entry in (body.get("status") or {}).get("addresses") or []:
        try:
            address = ip_address(entry["address"])
        except ValueError:  # a host name
            continue
        if "%" not in entry["address"]:  # else it names a link of that host
            addresses.append((str(entry["type"]), address))
    status = body.get("status") or {}
    ready = find_condition(status.get("conditions") or [], "Ready")
    info = status.get("nodeInfo") or {}
    # Each alone may be missing or, among cloned machines, the same.
    machine = tuple(str(info.get(key) or "") for key in ("bootID", "machineID", "systemUUID"))
    location, advertise_address, problems = "", None, []
    created = metadata.get("creationTimestamp")
    try:
        location = _location(annotations, metadata["name"])
    except InvalidSpec as error:
        problems.append(str(error))
    try:
        advertise_address = _advertise_address(annotations, metadata["name"])
    except InvalidSpec as error:
        problems.append(str(error))
    return NodeFacts(
        name=metadata["name"],
        labels=metadata.get("labels") or {},
        addresses=tuple(addresses),
        pod_cidrs=tuple(ip_network(text, strict=False) for text in spec.get("podCIDRs") or []),
        taints=tuple(map(Taint.from_entry, spec.get("taints") or [])),
        uid=str(metadata.get("uid", "")),
        ready=ready is not None and ready.is_true,
        machine=machine if any(machine) else (),
        location=location,
        advertise_address=advertise_address,
        problems=tuple(problems),
        created_at=datetime.fromisoformat(created) if created else None,
        boot=str(info.get("bootID") or ""),
        tunnels_ready=find_condition(status.get("conditions") or [], TUNNELS_READY),
    )


def _location(annotations: Mapping[str, str], node: str) -> str:
    text = annotations.get(LOCATION_ANNOTATION, "")
    if text and not _LABEL_VALUE.match(text):
        rule = "must be a valid label value; it is ignored"
        raise InvalidSpec(f"Node {node} annotation {LOCATION_ANNOTATION}", rule, value=text)
    return text


def _advertise_address(annotations: Mapping[str, str], node: str) -> IPAddress | None:
    text = annotations.get(ADVERTISE_ADDRESS_ANNOTATION, "")
    if not text:
        return None
    field = f"Node {node} annotation {ADVERTISE_ADDRESS_ANNOTATION}"
    rule = "must be an IP address that other members can dial; the Node's addresses are used instead"
    try:
        address = ip_address(text)
    except ValueError as error:
        raise InvalidSpec(field, rule, value=text) from error
    if address.is_unspecified or address.is_multicast or "%" in text:
        raise InvalidSpec(field, rule, value=text)
    return address


def _member(body: Mapping[str, Any]) -> MemberFacts:
    metadata = body["metadata"]
    owners = metadata.get("ownerReferences") or [{}]
    created = metadata.get("creationTimestamp")
    spec = WesherNodeSpec.model_validate(body["spec"])
    status, reported_at = _report(body)
    return MemberFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        deleting="deletionTimestamp" in metadata,
        owner_uid=owners[0].get("uid", ""),
        label=(metadata.get("labels") or {}).get(MESH_LABEL, ""),
        spec=spec,
        address=ip_address(spec.overlay_ip),
        status=status,
        generation=metadata.get("generation", 1),
        reported_at=reported_at,
        created_at=datetime.fromisoformat(created) if created else None,
        admitted_key=str((metadata.get("annotations") or {}).get(ADMIT_KEY_ANNOTATION) or ""),
    )


def _report(body: Mapping[str, Any]) -> tuple[WesherNodeStatus, datetime | None]:
    """Read what an agent wrote. One that cannot be read is none: the node keeps its place all the same."""
    try:
        status = WesherNodeStatus.model_validate(body.get("status") or {})
        text = status.last_report_time
        return status, datetime.fromisoformat(text).astimezone(UTC) if text else None
    except (ValueError, OverflowError) as error:
        _log.warning("report not readable", name=body["metadata"]["name"], error=_brief(error))
        return WesherNodeStatus(), None


def _peer(body: Mapping[str, Any]) -> PeerFacts:
    metadata = body["metadata"]
    created = metadata.get("creationTimestamp")
    try:
        status = WesherPeerStatus.model_validate(body.get("status") or {})
    except ValidationError as error:
        # Only the operator writes it, and it writes it again.
        _log.warning("status not readable", name=metadata["name"], error=_brief(error))
        status = WesherPeerStatus()
    return PeerFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        deleting="deletionTimestamp" in metadata,
        spec=WesherPeerSpec.model_validate(body["spec"]),
        status=status,
        generation=metadata.get("generation", 1),
        created_at=datetime.fromisoformat(created) if created else None,
    )


def _key(body: Mapping[str, Any]) -> KeyFacts:
    data, name = body.get("data") or {}, body["metadata"]["name"]
    if "cluster-key" not in data:
        return KeyFacts(name, None, "has no entry cluster-key", AuthoritySecret.from_data(data))
    try:
        entries = [
            base64.b64decode(data.get(entry, "")).decode() for entry in ("cluster-key", "accepted-keys")
        ]
        return KeyFacts(name, KeyRing.from_files(*entries), "")
    except (binascii.Error, UnicodeDecodeError):
        return KeyFacts(name, None, f"cluster-key: must be standard base64 of {KEY_BYTES} bytes")
    except InvalidSpec as error:
        return KeyFacts(name, None, str(error))


def _pod(body: Mapping[str, Any]) -> PodFacts | None:
    metadata = body["metadata"]
    mesh = (metadata.get("labels") or {}).get(MESH_LABEL)
    if not mesh:
        return None
    return PodFacts(
        name=metadata["name"],
        mesh=mesh,
        node=node_of(body),
        nudge=(metadata.get("annotations") or {}).get(NUDGE_ANNOTATION, ""),
        ending="deletionTimestamp" in metadata,
        made_at=made_at(body),
        trouble=trouble_of(body),
        runs=runs(body),
    )


def _child(body: Mapping[str, Any]) -> ObjectFacts | None:
    """Keep what we made; counters and other people's objects are not ours to look at."""
    metadata = body["metadata"]
    if MESH_LABEL not in (metadata.get("labels") or {}):
        return None
    keys = ("name", "uid", "labels", "annotations", "ownerReferences", "creationTimestamp")
    kept = {key: metadata[key] for key in keys if key in metadata}
    body = {key: body[key] for key in ("data", "binaryData", "spec") if key in body}
    return ObjectFacts(metadata["name"], {"metadata": kept, **body})


def _service_networks(body: Mapping[str, Any]) -> ServiceNetworks:
    return ServiceNetworks(tuple(ip_network(text, strict=False) for text in body["spec"].get("cidrs") or []))


def _api_server_addresses(body: Mapping[str, Any]) -> ApiServerAddresses:
    endpoints = body.get("endpoints") or []
    return ApiServerAddresses(
        tuple(ip_address(text) for each in endpoints for text in each["addresses"]),
        tuple(int(each["port"]) for each in body.get("ports") or []),
    )


_READERS: dict[Kind, Any] = {
    MESH: _mesh,
    NODE: _node,
    WESHER_NODE: _member,
    WESHER_PEER: _peer,
    SECRET: _key,
    CONFIG_MAP: _child,
    DAEMON_SET: _child,
    POD: _pod,
    SERVICE_CIDR: _service_networks,
    API_SERVER_ENDPOINTS: _api_server_addresses,
}
