"""``kubectl wesher revoke``: voids the certificates of a member and keeps it out of its mesh.

A node gets a label that no kubelet can remove; the operator does the rest, and this command waits for
it. A machine outside Kubernetes has no Node: its WesherPeer is deleted.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wesher_common.certificate import AuthorityKey, name_hash
from wesher_common.conditions import find_condition
from wesher_common.errors import InvalidSpec, PeerMisbehaved
from wesher_common.names import config_map_name, is_member_name, member_name, out_label, wesher_node_name
from wesher_common.news import NEWS_FILE, NewsKind, Statement, unpack_news
from wesher_common.printable import as_lines
from wesher_operator.kubectl.meshes import ROOT, name_of, status_of
from wesher_operator.kubectl.reach import ApiServer, NotPermitted, Object

WITHIN_SECONDS = 20.0
"""How long the operator may take; it acts within a second or two."""
_POLL_SECONDS = 0.5
_LABEL_VALUE = "revoked"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the command came to."""

    text: str
    is_signed: bool


def revoke(
    api: ApiServer, mesh: Object, namespace: str, name: str, *, within: float = WITHIN_SECONDS
) -> Answer:
    """Revoke a member and wait until the operator has signed it.

    Args:
        api: the API server, as the user.
        mesh: the WesherMesh.
        namespace: of its operator.
        name: of a Node or of a machine outside, with or without ``.clusterName``.
        within: seconds to wait.

    Raises:
        InvalidSpec: the mesh has no member with that name.
        NotPermitted: the user may not.
        ClusterUnavailable: the API server does not answer.

    """
    cluster_name = str(mesh["spec"].get("clusterName") or "")
    short = name.removesuffix(f".{cluster_name}") if cluster_name else name
    whole = member_name(short, cluster_name)
    if not is_member_name(whole):
        raise InvalidSpec("NAME", "must be the name of a Node or of an external machine", value=name)
    serial = _serial(api, mesh, short)
    node = api.get(f"/api/v1/nodes/{short}")
    peer_path = f"{ROOT}/wesherpeers/{name_of(mesh)}.{short}"
    if node is not None:
        _label(api, mesh, node)
        done, more = f"Node {short} is labelled", _about_node(mesh, short)
    elif (peer := api.get(peer_path)) is not None:
        serial = int(status_of(peer).get("serial") or 0)
        api.delete(peer_path)
        done, more = f"WesherPeer {name_of(peer)} is deleted", _about_peer(mesh, short)
    elif _is_void(api, mesh, namespace, whole, serial):
        return Answer(f"{whole}: revoked already; its Node is gone", is_signed=True)
    else:
        raise InvalidSpec("NAME", "no such Node, WesherPeer, or revoked member", value=name)
    try:
        is_signed = _wait(lambda: _is_void(api, mesh, namespace, whole, serial), within)
    except NotPermitted as error:
        text = f"{done}, but you may not see whether the operator has signed it: {error}"
        return Answer(as_lines([text, *more]), is_signed=False)
    if is_signed:
        said = f"{whole}: revoked. Members that are connected close its tunnel within seconds"
    else:
        said = f"{done}, but nothing is signed yet: {_reason(api, mesh, within)}"
        more = [
            "Its certificate is valid until the operator has signed. If you cannot wait, sign yourself",
            "with wesher-operator sign-revocation: see docs/operations.md.",
            *more,
        ]
    return Answer(as_lines([said, *more]), is_signed=is_signed)


def _serial(api: ApiServer, mesh: Object, node: str) -> int:
    """Return the serial of a node's certificate; 0 if it has none."""
    found = api.get(f"{ROOT}/weshernodes/{wesher_node_name(name_of(mesh), node)}")
    return int(found["spec"].get("serial") or 0) if found is not None else 0


def _label(api: ApiServer, mesh: Object, node: Object) -> None:
    label = out_label(name_of(mesh))
    if label not in (node["metadata"].get("labels") or {}):
        patch = {"metadata": {"labels": {label: _LABEL_VALUE}}}
        api.patch(f"/api/v1/nodes/{name_of(node)}", patch)


def _about_node(mesh: Object, node: str) -> list[str]:
    return [
        "Its agent's pod ends, and no new one starts there.",
        f"To let the node in again: kubectl label node {node} {out_label(name_of(mesh))}-",
        *_about_stolen(),
    ]


def _about_peer(mesh: Object, name: str) -> list[str]:
    invite = f"kubectl wesher invite {name} --mesh {name_of(mesh)} --output {name}.join"
    return [f"To let the machine in again: {invite}", *_about_stolen()]


def _about_stolen() -> list[str]:
    return ["If others may have the machine: it still has the cluster key, so rotate that key too."]


def _wait(is_done: Callable[[], bool], within: float) -> bool:
    until = time.monotonic() + within
    while True:
        is_last = time.monotonic() >= until
        if is_done():
            return True
        if is_last:
            return False
        time.sleep(_POLL_SECONDS)


def _is_void(api: ApiServer, mesh: Object, namespace: str, name: str, serial: int) -> bool:
    """Tell whether a published statement voids a member's certificate up to a serial."""
    if not namespace:
        return False
    path = f"/api/v1/namespaces/{namespace}/configmaps/{config_map_name(name_of(mesh))}"
    found = api.get(path) or {}
    text = (found.get("binaryData") or {}).get(NEWS_FILE, "")
    hashed = name_hash(name)
    seconds = [
        statement.revoked[hashed] for statement in _statements(mesh, text) if hashed in statement.revoked
    ]
    return bool(seconds) and max(seconds) * 1000 >= serial


def _statements(mesh: Object, text: str) -> Iterator[Statement]:
    identity = status_of(mesh).get("identity") or {}
    for field_name in ("authority", "formerAuthority"):
        if not (key_text := identity.get(field_name)):
            continue
        key = AuthorityKey.from_base64(str(key_text), field_name=f"status.identity.{field_name}")
        try:
            for kind, data in unpack_news(base64.b64decode(text)):
                statement = Statement.unpacked(data) if kind is NewsKind.STATEMENT else None
                if statement is not None and statement.is_signed_by(key):
                    yield statement
        except (PeerMisbehaved, binascii.Error):
            return


def _reason(api: ApiServer, mesh: Object, within: float) -> str:
    present = api.get(f"{ROOT}/weshermeshes/{name_of(mesh)}") or mesh
    certified = find_condition(status_of(present).get("conditions") or [], "Certified")
    if certified is not None and certified.status == "False":
        return f"{certified.reason}: {certified.message}"
    return f"the operator did not sign within {within:g} s: run kubectl wesher doctor"
