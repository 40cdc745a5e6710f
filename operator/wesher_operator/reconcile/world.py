"""What the operator has seen of the cluster, as facts.

Objects enter as JSON and leave as small frozen values, so that a watch of a
thousand Nodes costs little and a change that means nothing to us (a kubelet's
heartbeat) wakes nobody. Order is kept by ``resourceVersion``: an event that is
older than what a write of ours returned changes nothing.

Left to others: how objects come in (`handlers`, `reconcile.control`), what
follows from them (everything else here).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any

from pydantic import ValidationError

from wesher_common.errors import InvalidSpec
from wesher_common.keys import KeyRing
from wesher_common.names import (
    ADVERTISE_ADDRESS_ANNOTATION,
    LOCATION_ANNOTATION,
    MESH_LABEL,
    NUDGE_ANNOTATION,
)
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_operator.kube import (
    CONFIG_MAP,
    DAEMON_SET,
    MESH,
    NODE,
    POD,
    SECRET,
    SERVICE_CIDR,
    WESHER_NODE,
    Kind,
    Object,
)
from wesher_operator.resources.mesh import WesherMeshSpec
from wesher_operator.resources.node import WesherNodeSpec, WesherNodeStatus

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

    @property
    def age_order(self) -> tuple[str, str]:
        """Sorts the older before the newer."""
        return (self.created, self.name)


@dataclass(frozen=True, slots=True)
class Taint:
    """A Node's taint."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A Node, as far as meshes care."""

    name: str
    labels: Mapping[str, str]
    addresses: tuple[tuple[str, IPAddress], ...]
    """Type (as ``InternalIP``) and address, in the Node's order; names are left out."""
    pod_cidrs: tuple[IPNetwork, ...]
    taints: tuple[Taint, ...]
    location: str = ""
    """As annotated; empty where it is not."""
    advertise_address: IPAddress | None = None
    """As annotated."""
    problems: tuple[str, ...] = ()
    """Its annotations that cannot be used, each with its rule."""

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
    status: WesherNodeStatus
    created_at: datetime | None = None

    @property
    def address(self) -> IPAddress:
        """Its overlay address."""
        return ip_address(self.spec.overlay_ip)

    @property
    def reported_at(self) -> datetime | None:
        """When its agent last reported."""
        text = self.status.last_report_time
        return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A Secret, as far as it holds a cluster key."""

    name: str
    ring: KeyRing | None
    problem: str
    """Which entry breaks which rule; empty where `ring` is set."""


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


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """A child of ours that is compared whole."""

    name: str
    body: Mapping[str, Any]


Facts = MeshFacts | NodeFacts | MemberFacts | KeyFacts | PodFacts | ObjectFacts


@dataclass(slots=True)
class World:
    """Everything seen, by kind and name."""

    meshes: dict[str, MeshFacts] = field(default_factory=dict)
    nodes: dict[str, NodeFacts] = field(default_factory=dict)
    members: dict[str, MemberFacts] = field(default_factory=dict)
    keys: dict[str, KeyFacts] = field(default_factory=dict)
    config_maps: dict[str, ObjectFacts] = field(default_factory=dict)
    daemon_sets: dict[str, ObjectFacts] = field(default_factory=dict)
    pods: dict[str, PodFacts] = field(default_factory=dict)
    service_cidrs: tuple[IPNetwork, ...] = ()
    _versions: dict[tuple[str, str], int] = field(default_factory=dict)

    def observe(self, kind: Kind, body: Mapping[str, Any]) -> set[str]:
        """Take in an object as it stands; return the meshes to which it means a change."""
        name = body["metadata"]["name"]
        version = int(body["metadata"]["resourceVersion"])
        if version <= self._versions.get((kind.kind, name), 0):
            return set()
        self._versions[kind.kind, name] = version
        facts, before = _READERS[kind](body), self._of(kind).get(name)
        if facts is None:
            self._of(kind).pop(name, None)
        else:
            self._of(kind)[name] = facts
        return set() if facts == before else self._concerned(before) | self._concerned(facts)

    def forget(self, kind: Kind, body: Mapping[str, Any]) -> set[str]:
        """Take in that an object is gone; return the meshes to which that means a change."""
        name = body["metadata"]["name"]
        if int(body["metadata"]["resourceVersion"]) < self._versions.get((kind.kind, name), 0):
            return set()  # one of the same name was made since
        self._versions.pop((kind.kind, name), None)
        return self._concerned(self._of(kind).pop(name, None))

    def replace(self, kind: Kind, bodies: Iterable[Object]) -> set[str]:
        """Take in a whole list; what is not in it is gone."""
        if kind is SERVICE_CIDR:
            before = self.service_cidrs
            self.service_cidrs = _service_networks(bodies)
            return set(self.meshes) if self.service_cidrs != before else set()
        woken: set[str] = set()
        listed = {body["metadata"]["name"]: body for body in bodies}
        for name in [name for name in self._of(kind) if name not in listed]:
            self._versions.pop((kind.kind, name), None)
            woken |= self._concerned(self._of(kind).pop(name))
        for body in listed.values():
            woken |= self.observe(kind, body)
        return woken

    def members_of(self, mesh: str) -> list[MemberFacts]:
        """Return the WesherNodes of a mesh, by name."""
        return [member for _, member in sorted(self.members.items()) if member.spec.mesh_ref.name == mesh]

    def _of(self, kind: Kind) -> dict[str, Any]:
        stores: dict[Kind, dict[str, Any]] = {
            MESH: self.meshes,
            NODE: self.nodes,
            WESHER_NODE: self.members,
            SECRET: self.keys,
            CONFIG_MAP: self.config_maps,
            DAEMON_SET: self.daemon_sets,
            POD: self.pods,
        }
        return stores[kind]

    def _concerned(self, facts: Facts | None) -> set[str]:
        match facts:
            case None:
                return set()
            case MemberFacts():
                return {facts.spec.mesh_ref.name}
            case PodFacts():
                return {facts.mesh}
            case ObjectFacts():
                labels = facts.body["metadata"].get("labels") or {}
                return {labels[MESH_LABEL]} if MESH_LABEL in labels else set()
            case MeshFacts():
                # A mesh can be another's conflict.
                return {facts.name, *self.meshes}
            case _:
                return set(self.meshes)


def _mesh(body: Mapping[str, Any]) -> MeshFacts:
    metadata = body["metadata"]
    spec, problem = None, ""
    try:
        spec = WesherMeshSpec.model_validate(body.get("spec") or {})
        spec.overlay, spec.allocation, spec.seeds, spec.wireguard_settings  # noqa: B018 - they check
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"spec.{'.'.join(map(str, first['loc']))}: {first['msg']}"
        spec = None
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
    )


def _node(body: Mapping[str, Any]) -> NodeFacts:
    metadata, spec = body["metadata"], body.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    addresses = []
    for entry in (body.get("status") or {}).get("addresses") or []:
        try:
            addresses.append((str(entry["type"]), ip_address(entry["address"])))
        except ValueError:  # a host name
            continue
    location, advertise_address, problems = "", None, []
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
        pod_cidrs=tuple(ip_network(text) for text in spec.get("podCIDRs") or []),
        taints=tuple(
            Taint(taint["key"], taint.get("value", ""), taint["effect"]) for taint in spec.get("taints") or []
        ),
        location=location,
        advertise_address=advertise_address,
        problems=tuple(problems),
    )


def _location(annotations: Mapping[str, str], node: str) -> str:
    text = annotations.get(LOCATION_ANNOTATION, "")
    if text and not _LABEL_VALUE.match(text):
        rule = "must be a word such as a label's value; it is ignored"
        raise InvalidSpec(f"Node {node} annotation {LOCATION_ANNOTATION}", rule, value=text)
    return text


def _advertise_address(annotations: Mapping[str, str], node: str) -> IPAddress | None:
    text = annotations.get(ADVERTISE_ADDRESS_ANNOTATION, "")
    if not text:
        return None
    field = f"Node {node} annotation {ADVERTISE_ADDRESS_ANNOTATION}"
    rule = "must be an IP address that other members can dial; the Node's own are used"
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
    return MemberFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        deleting="deletionTimestamp" in metadata,
        owner_uid=owners[0].get("uid", ""),
        label=(metadata.get("labels") or {}).get(MESH_LABEL, ""),
        spec=WesherNodeSpec.model_validate(body["spec"]),
        status=WesherNodeStatus.model_validate(body.get("status") or {}),
        created_at=datetime.fromisoformat(created) if created else None,
    )


def _key(body: Mapping[str, Any]) -> KeyFacts:
    data, name = body.get("data") or {}, body["metadata"]["name"]
    if "cluster-key" not in data:
        return KeyFacts(name, None, "has no entry cluster-key")
    try:
        entries = [
            base64.b64decode(data.get(entry, "")).decode() for entry in ("cluster-key", "accepted-keys")
        ]
        return KeyFacts(name, KeyRing.from_files(*entries), "")
    except (binascii.Error, UnicodeDecodeError):
        return KeyFacts(name, None, "cluster-key: must be standard base64")
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
        node=(body.get("spec") or {}).get("nodeName", ""),
        nudge=(metadata.get("annotations") or {}).get(NUDGE_ANNOTATION, ""),
        ending="deletionTimestamp" in metadata,
    )


def _child(body: Mapping[str, Any]) -> ObjectFacts | None:
    """Keep what we made; counters and other people's objects are not ours to look at."""
    metadata = body["metadata"]
    if MESH_LABEL not in (metadata.get("labels") or {}):
        return None
    kept = {
        key: metadata[key] for key in ("name", "labels", "annotations", "ownerReferences") if key in metadata
    }
    body = {key: body[key] for key in ("data", "spec") if key in body}
    return ObjectFacts(metadata["name"], {"metadata": kept, **body})


def _service_networks(bodies: Iterable[Object]) -> tuple[IPNetwork, ...]:
    return tuple(ip_network(text) for body in bodies for text in body["spec"].get("cidrs") or [])


_READERS: dict[Kind, Any] = {
    MESH: _mesh,
    NODE: _node,
    WESHER_NODE: _member,
    SECRET: _key,
    CONFIG_MAP: _child,
    DAEMON_SET: _child,
    POD: _pod,
}
