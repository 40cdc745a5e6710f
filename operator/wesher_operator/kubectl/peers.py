"""The WesherPeers of a mesh, as the commands read and write them."""

from __future__ import annotations

import re

from wesher_common.errors import InvalidSpec
from wesher_common.names import (
    GROUP,
    MAX_MEMBER_NAME,
    MESH_LABEL,
    VERSION,
    is_member_name,
    is_reserved_name,
    member_name,
)
from wesher_operator.kubectl.meshes import ROOT, name_of
from wesher_operator.kubectl.reach import ApiServer, NotPermitted, Object

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?\Z")


def peers_of(api: ApiServer, mesh: str) -> list[Object]:
    """Return the WesherPeers of a mesh, by name; none if the user may not see them.

    Raises:
        ClusterUnavailable: there is no answer.

    """
    try:
        found = api.items(f"{ROOT}/wesherpeers")
    except NotPermitted:
        return []
    return sorted((each for each in found if each["spec"]["meshRef"]["name"] == mesh), key=name_of)


def peer_path(mesh: Object, name: str) -> str:
    """Return the URL path of a machine's WesherPeer."""
    return f"{ROOT}/wesherpeers/{name_of(mesh)}.{name}"


def checked_name(api: ApiServer, mesh: Object, name: str) -> str:
    """Return the name under which a machine gossips.

    Raises:
        InvalidSpec: no machine outside can have this name.
        ClusterUnavailable: there is no answer.

    """
    whole = member_name(name, str(mesh["spec"].get("clusterName") or ""))
    is_too_long = len(name_of(mesh)) + 1 + len(name) > MAX_MEMBER_NAME
    if not _NAME.match(name) or not is_member_name(whole) or is_reserved_name(whole) or is_too_long:
        rule = "must be a lower-case DNS name, with mesh and clusterName at most 253 characters"
        raise InvalidSpec("NAME", f"{rule}, and not an address or localhost", value=name)
    if _is_node(api, name):
        raise InvalidSpec("NAME", "a Node has this name: choose another one", value=name)
    return whole


def new_peer(mesh: Object, name: str, **spec: str) -> Object:
    """Return a WesherPeer that goes when its mesh is deleted."""
    uid = str(mesh["metadata"]["uid"])
    owner = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "WesherMesh", "name": name_of(mesh), "uid": uid}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "WesherPeer",
        "metadata": {
            "name": f"{name_of(mesh)}.{name}",
            "labels": {MESH_LABEL: name_of(mesh)},
            "ownerReferences": [owner],
        },
        "spec": {"meshRef": {"name": name_of(mesh), "uid": uid}, **spec},
    }


def _is_node(api: ApiServer, name: str) -> bool:
    try:
        return api.get(f"/api/v1/nodes/{name}") is not None
    except NotPermitted:
        return False  # the operator looks again
