"""The text of the state file.

Go wesher's shape (``cluster/state.go``: ``ClusterKey`` and ``Nodes``), so that
either program can take over from the other, and more keys of our own, which Go
ignores. Pure; where the file lies and what becomes of a broken one is `state`'s.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from wesher_agent.mesh.device import Endpoint
from wesher_agent.mesh.former_addresses import FormerAddress
from wesher_agent.mesh.identity import SavedTrust
from wesher_agent.mesh.roster import SavedMember
from wesher_agent.mesh.saved_state import SavedState
from wesher_agent.swim.address import Address
from wesher_agent.swim.members import MAX_INCARNATION
from wesher_agent.swim.tombstones import Tombstone
from wesher_common.byte_reader import ByteReader
from wesher_common.certificate import MAX_SERIAL, AuthorityKey, Certificate
from wesher_common.errors import InvalidSpec, PeerMisbehaved
from wesher_common.join_file import JoinFile
from wesher_common.keys import ClusterKey, KeyRing, WireGuardPrivateKey, WireGuardPublicKey
from wesher_common.mesh_document import MeshDocument
from wesher_common.names import is_member_name
from wesher_common.news import Statement
from wesher_common.overlay import IPAddress, IPNetwork
from wesher_common.seeds import MAX_PORT, parse_seed

T = TypeVar("T")


def render_state(state: SavedState) -> str:
    """Return the file's text."""
    ring = state.key_ring
    content: dict[str, Any] = {
        "ClusterKey": ring.primary.reveal_base64() if ring else None,
        "Nodes": [
            {
                "Name": node.name,
                "Addr": node.address.ip,
                "Meta": base64.b64encode(node.raw_meta).decode(),
                # Go's own, which it leaves empty: Meta has both.
                "OverlayAddr": "",
                "PubKey": "",
                "Port": node.address.port,
                "Away": round(node.away, 3),
                "Incarnation": node.incarnation,
                "Left": node.has_left,
            }
            for node in state.nodes
        ],
        "AcceptedKeys": [key.reveal_base64() for key in ring.accepted] if ring else [],
        "RingNumber": ring.number if ring else 0,
        "PrivateKey": state.private_key.reveal_base64() if state.private_key else None,
        "Name": state.name,
        "GossipAddress": str(state.gossip_address) if state.gossip_address else None,
        "OverlayAddress": str(state.overlay_address) if state.overlay_address else None,
        "AdvertiseAddress": str(state.advertise_address) if state.advertise_address else None,
        "Location": state.location,
        "Routes": [str(route) for route in state.routes],
        "Certificate": base64.b64encode(state.certificate.packed()).decode() if state.certificate else None,
        "Authorities": [
            {
                "Key": str(trust.key),
                "Newest": trust.newest,
                "Revoked": {name.hex(): moment for name, moment in sorted(trust.revoked.items())},
                "Statement": base64.b64encode(trust.statement).decode(),
            }
            for trust in state.trust
        ],
        "Incarnation": state.incarnation,
        "Tombstones": [
            {
                "Name": gone.name,
                "Incarnation": gone.incarnation,
                "Addr": gone.address.ip,
                "Port": gone.address.port,
                "Age": round(gone.age, 3),
                "Left": gone.left,
            }
            for gone in state.tombstones
        ],
        "Endpoints": [
            {"Key": str(key), "Addr": str(endpoint.address), "Port": endpoint.port}
            for key, endpoint in state.endpoints.items()
        ],
        "FormerAddresses": [
            {"Address": str(former.address), "Age": round(former.age, 3)} for former in state.former_addresses
        ],
        "Carried": sorted(str(network) for network in state.carried),
        "Mesh": state.mesh.to_dict() if state.mesh else None,
        "Joined": json.loads(state.joined.to_json()) if state.joined else None,
    }
    return (
        json.dumps(content | {key: state.unknown[key] for key in state.unknown.keys() - content}, indent=2)
        + "\n"
    )


def parse_state(content: bytes, *, gossip_port: int) -> tuple[SavedState, list[str]]:
    """Read the file's text: all that is good in it, and one line for each thing that is not."""
    if not content.strip():
        return SavedState(), ["is empty"]
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        return SavedState(), [f"is not JSON ({error})"]
    if not isinstance(document, dict):
        return SavedState(), ["must be a JSON object"]
    return _StateReader(document, gossip_port).read()


class _StateReader:
    """Takes known keys out of a document; what remains is unknown. Notes what cannot be read."""

    def __init__(self, document: dict[str, Any], gossip_port: int) -> None:
        self._left = dict(document)
        self._gossip_port = gossip_port
        self._problems: list[str] = []

    def read(self) -> tuple[SavedState, list[str]]:
        primary = self._take(
            "ClusterKey", lambda value, at: ClusterKey.from_base64(_text(value, at), field_name=at)
        )
        accepted = self._take_list(
            "AcceptedKeys", lambda value, at: ClusterKey.from_base64(_text(value, at), field_name=at)
        )
        number = int(self._take("RingNumber", _seconds) or 0)
        before = len(self._problems)
        joined = self._take("Joined", _joined)
        invite_problem = " ".join(self._problems[before:])
        state = SavedState(
            key_ring=KeyRing(primary, tuple(accepted), number) if primary else None,
            nodes=tuple(self._take_list("Nodes", self._node)),
            private_key=self._take(
                "PrivateKey",
                lambda value, at: WireGuardPrivateKey.from_base64(_text(value, at), field_name=at),
            ),
            name=self._take("Name", _text) or "",
            gossip_address=self._take("GossipAddress", _gossip_address),
            overlay_address=self._take("OverlayAddress", _ip),
            advertise_address=self._take("AdvertiseAddress", _ip),
            location=self._take("Location", _text) or "",
            routes=tuple(self._take_list("Routes", _network)),
            certificate=self._take("Certificate", _certificate),
            trust=tuple(self._take_list("Authorities", self._trust)),
            incarnation=self._take("Incarnation", _incarnation) or 0,
            tombstones=tuple(self._take_list("Tombstones", self._tombstone)),
            endpoints=dict(self._take_list("Endpoints", _proven_endpoint)),
            former_addresses=tuple(self._take_list("FormerAddresses", _former_address)),
            carried=frozenset(self._take_list("Carried", _network)),
            mesh=self._take("Mesh", _mesh),
            joined=joined,
            invite_problem=invite_problem,
            unknown=self._left,
        )
        return state, self._problems

    def _take(self, key: str, read: Callable[[Any, str], T]) -> T | None:
        value = self._left.pop(key, None)
        return None if value is None else self._guarded(value, key, read)

    def _take_list(self, key: str, read: Callable[[Any, str], T]) -> list[T]:
        entries = self._take(key, _list) or []
        found = [self._guarded(entry, f"{key}[{index}]", read) for index, entry in enumerate(entries)]
        return [entry for entry in found if entry is not None]

    def _guarded(self, value: Any, at: str, read: Callable[[Any, str], T]) -> T | None:
        try:
            return read(value, at)
        except InvalidSpec as error:
            self._problems.append(str(error))
            return None

    def _node(self, value: Any, at: str) -> SavedMember:
        name, address = self._member(value, at)
        return SavedMember(
            name=name,
            address=address,
            raw_meta=_base64(value.get("Meta") or "", f"{at}.Meta"),
            away=_seconds(value.get("Away", 0.0), f"{at}.Away"),
            incarnation=_incarnation(value.get("Incarnation", 0), f"{at}.Incarnation"),
            has_left=_flag(value.get("Left", False), f"{at}.Left"),
        )

    def _tombstone(self, value: Any, at: str) -> Tombstone:
        name, address = self._member(value, at)
        if not is_member_name(name):
            # Gossip spreads it, and other members would refuse it.
            raise InvalidSpec(f"{at}.Name", "must be a member's name", value=name)
        return Tombstone(
            name=name,
            incarnation=_incarnation(value.get("Incarnation"), f"{at}.Incarnation"),
            address=address,
            age=_seconds(value.get("Age", 0.0), f"{at}.Age"),
            left=_flag(value.get("Left", False), f"{at}.Left"),
        )

    def _member(self, value: Any, at: str) -> tuple[str, Address]:
        _object(value, at)
        name = _text(value.get("Name"), f"{at}.Name")
        if not name:
            raise InvalidSpec(f"{at}.Name", "must not be empty")
        port = _port(value.get("Port", self._gossip_port), f"{at}.Port")
        addr = value.get("Addr")
        try:
            return name, Address.from_wire(_ip(addr, f"{at}.Addr").packed, port)
        except PeerMisbehaved as error:
            raise InvalidSpec(f"{at}.Addr", "must be one machine's address", value=addr) from error

    def _trust(self, value: Any, at: str) -> SavedTrust:
        entry = _object(value, at)
        key = AuthorityKey.from_base64(_text(entry.get("Key"), f"{at}.Key"), field_name=f"{at}.Key")
        # One by one: what is good of them keeps a void certificate from being valid again.
        newest = self._guarded(entry.get("Newest", 0), f"{at}.Newest", _moment) or 0
        revoked = self._guarded(entry.get("Revoked", {}), f"{at}.Revoked", _revoked) or {}
        statement = self._guarded(
            entry.get("Statement", ""), f"{at}.Statement", lambda given, where: _statement(given, where, key)
        )
        return SavedTrust(key, newest, revoked, statement or b"")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _port(value: Any, at: str) -> int:
    if not _is_number(value) or not 1 <= value <= MAX_PORT or value != int(value):
        raise InvalidSpec(at, f"must be a number from 1 to {MAX_PORT}", value=value)
    return int(value)


def _seconds(value: Any, at: str) -> float:
    # JSON's whole numbers may be larger than any float.
    if not _is_number(value) or not 0 <= value < 2**63:
        raise InvalidSpec(at, "must be a number of seconds", value=value)
    return float(value)


def _flag(value: Any, at: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidSpec(at, "must be true or false", value=value)
    return value


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        # Not shown: where text is expected, a key may stand.
        raise InvalidSpec(at, "must be a string")
    return value


def _object(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidSpec(at, "must be a JSON object")
    return value


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidSpec(at, "must be a list")
    return value


def _ip(value: Any, at: str) -> IPAddress:
    try:
        return ip_address(_text(value, at))
    except ValueError as error:
        raise InvalidSpec(at, "must be an IP address", value=value) from error


def _network(value: Any, at: str) -> IPNetwork:
    try:
        return ip_network(_text(value, at))
    except ValueError as error:
        raise InvalidSpec(at, "must be a network", value=value) from error


def _gossip_address(value: Any, at: str) -> Address:
    seed = parse_seed(_text(value, at), field=at)
    if seed.address is None or seed.port is None:
        raise InvalidSpec(at, "must be an IP address and a port", value=value)
    return Address(str(seed.address), seed.port)


def _certificate(value: Any, at: str) -> Certificate:
    reader = ByteReader(_base64(value, at), "certificate")
    try:
        certificate = Certificate.read(reader)
        reader.end()
    except PeerMisbehaved as error:
        raise InvalidSpec(at, "must be a certificate") from error
    return certificate


def _moment(value: Any, at: str) -> int:
    return _whole_number(value, at, MAX_SERIAL)


def _revoked(value: Any, at: str) -> dict[bytes, int]:
    found = {}
    for name, moment in _object(value, at).items():
        try:
            hashed = bytes.fromhex(name)
        except ValueError as error:
            raise InvalidSpec(at, "must have the hashes of names in hexadecimal", value=name) from error
        found[hashed] = _moment(moment, f"{at}.{name}")
    return found


def _statement(value: Any, at: str, authority: AuthorityKey) -> bytes:
    data = _base64(value, at)
    if data:
        try:
            Statement.verified(data, authority)
        except PeerMisbehaved as error:
            raise InvalidSpec(at, "must be a statement of this authority") from error
    return data


def _proven_endpoint(value: Any, at: str) -> tuple[WireGuardPublicKey, Endpoint]:
    entry = _object(value, at)
    key = WireGuardPublicKey.from_base64(_text(entry.get("Key"), f"{at}.Key"), field_name=f"{at}.Key")
    address = _ip(entry.get("Addr"), f"{at}.Addr")
    if address.is_unspecified or address.is_multicast:
        raise InvalidSpec(f"{at}.Addr", "must be one machine's address", value=address)
    return key, Endpoint(address, _port(entry.get("Port"), f"{at}.Port"))


def _former_address(value: Any, at: str) -> FormerAddress:
    entry = _object(value, at)
    return FormerAddress(
        _ip(entry.get("Address"), f"{at}.Address"), _seconds(entry.get("Age", 0.0), f"{at}.Age")
    )


def _mesh(value: Any, at: str) -> MeshDocument:
    try:
        return MeshDocument.from_json(json.dumps(value))
    except InvalidSpec as error:
        raise InvalidSpec(f"{at}: {error.field}", error.rule) from error


def _joined(value: Any, at: str) -> JoinFile:
    try:
        return JoinFile.from_json(json.dumps(value))
    except InvalidSpec as error:
        raise InvalidSpec(f"{at}: {error.field}", error.rule) from error


def _incarnation(value: Any, at: str) -> int:
    return _whole_number(value, at, MAX_INCARNATION)


def _whole_number(value: Any, at: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidSpec(at, f"must be a whole number from 0 to {most}", value=value)
    return value


def _base64(value: Any, at: str) -> bytes:
    try:
        return base64.b64decode(_text(value, at), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidSpec(at, "must be standard base64") from error
