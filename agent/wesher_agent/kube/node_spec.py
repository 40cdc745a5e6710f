"""``WesherNode`` as an agent reads it; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from wesher_agent.mesh.place import Place
from wesher_common.certificate import Certificate
from wesher_common.errors import InvalidSpec
from wesher_common.overlay import IPAddress, IPNetwork

Object = Mapping[str, Any]
"""An object as JSON."""


class ObjectGone(Exception):  # noqa: N818 - reads as the fact it states
    """The API server says, naming the object, that it does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """What the operator gave this node."""

    uid: str
    generation: int
    deleting: bool
    place: Place
    conditions: tuple[Object, ...]
    """As last reported by us, with their transition times."""
    reported_from: IPAddress | None = None
    """Where this node was when its agent last reported: before a machine was replaced, the former one."""
    machine: str = ""
    """Which machine the Node is now, as the operator tells it."""

    @classmethod
    def from_object(cls, content: Object) -> NodeSpec:
        """Read a WesherNode.

        Raises:
            InvalidSpec: naming the field.

        """
        metadata, spec, status = (_of_kind(dict, content, key) for key in ("metadata", "spec", "status"))
        return cls(
            uid=_of_kind(str, metadata, "metadata.uid"),
            generation=_of_kind(int, metadata, "metadata.generation"),
            deleting="deletionTimestamp" in metadata,
            place=Place(
                overlay_address=_address(spec, "spec.overlayIP"),
                routes=tuple(
                    _network(route, index) for index, route in enumerate(_of_kind(list, spec, "spec.routes"))
                ),
                advertise_address=_address(spec, "spec.advertiseAddress"),
                location=_of_kind(str, spec, "spec.location"),
                certificate=_certificate(_of_kind(str, spec, "spec.certificate")),
            ),
            conditions=tuple(_conditions(status)),
            reported_from=_reported_from(status),
            machine=_of_kind(str, spec, "spec.machine"),
        )


T = TypeVar("T", str, int, list[Any], dict[str, Any])


def _of_kind(kind: type[T], within: Object, path: str) -> T:
    """Return a field, or the kind's empty value where it is missing or null."""
    value = within.get(path.rpartition(".")[2])
    if value is None:
        return kind()
    if type(value) is not kind:
        raise InvalidSpec(f"WesherNode {path}", f"must be {_IN_JSON[kind]}")
    return value


_IN_JSON: Mapping[type, str] = {str: "a string", int: "a whole number", list: "a list", dict: "an object"}


def _conditions(status: Object) -> list[Object]:
    entries = _of_kind(list, status, "status.conditions")
    if not all(isinstance(entry, dict) and isinstance(entry.get("type"), str) for entry in entries):
        raise InvalidSpec("WesherNode status.conditions", "must be objects with a type")
    return entries


def _reported_from(status: Object) -> IPAddress | None:
    """Return the address of the endpoint that was reported, if it can be read: another release may have."""
    endpoint = status.get("endpoint")
    host = endpoint.rpartition(":")[0].strip("[]") if isinstance(endpoint, str) else ""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _address(spec: Object, path: str) -> IPAddress | None:
    text = _of_kind(str, spec, path)
    try:
        return ip_address(text) if text else None
    except ValueError as error:
        raise InvalidSpec(f"WesherNode {path}", "must be an IP address", value=text) from error


def _certificate(text: str) -> Certificate | None:
    if not text:
        return None
    certificate = Certificate.from_base64(text)
    if certificate is None:
        raise InvalidSpec("WesherNode spec.certificate", "must be a certificate in base64")
    return certificate


def _network(text: Any, index: int) -> IPNetwork:
    try:
        return ip_network(text if isinstance(text, str) else "")
    except ValueError as error:
        raise InvalidSpec(f"WesherNode spec.routes[{index}]", "must be a network", value=text) from error
