"""``WesherNode`` as an agent reads it; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

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
    overlay_address: IPAddress | None
    """None while the operator has not given one."""
    routes: tuple[IPNetwork, ...]
    advertise_address: IPAddress | None
    location: str
    conditions: tuple[Object, ...]
    """As last reported by us, with their transition times."""

    @classmethod
    def from_object(cls, content: Object) -> NodeSpec:
        """Read a WesherNode.

        Raises:
            InvalidSpec: naming the field.

        """
        metadata, spec = content.get("metadata", {}), content.get("spec", {})
        return cls(
            uid=str(metadata.get("uid", "")),
            generation=int(metadata.get("generation", 0)),
            deleting="deletionTimestamp" in metadata,
            overlay_address=_address(spec, "overlayIP"),
            routes=tuple(_network(route, index) for index, route in enumerate(spec.get("routes", ()))),
            advertise_address=_address(spec, "advertiseAddress"),
            location=str(spec.get("location", "")),
            conditions=tuple(content.get("status", {}).get("conditions", ())),
        )


def _address(spec: Object, key: str) -> IPAddress | None:
    text = spec.get(key) or ""
    try:
        return ip_address(text) if text else None
    except ValueError as error:
        raise InvalidSpec(f"WesherNode spec.{key}", "must be an IP address", value=text) from error


def _network(text: Any, index: int) -> IPNetwork:
    try:
        return ip_network(text)
    except ValueError as error:
        raise InvalidSpec(f"WesherNode spec.routes[{index}]", "must be a network", value=text) from error
