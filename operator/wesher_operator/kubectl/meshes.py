"""The custom resources that the commands read, and their paths in the API."""

from __future__ import annotations

from wesher_common.errors import InvalidSpec
from wesher_common.names import GROUP, MESH_LABEL, VERSION, key_secret_name
from wesher_operator.kubectl.reach import ApiServer, Object

ROOT = f"/apis/{GROUP}/{VERSION}"
DEFINITIONS = ("weshermeshes", "weshernodes", "wesherpeers")


def find_meshes(api: ApiServer, name: str) -> list[Object]:
    """Return the mesh of that name, or every one when the name is empty.

    Raises:
        InvalidSpec: there is none.
        NotPermitted: the user may not look.
        ClusterUnavailable: there is no answer.

    """
    if name:
        mesh = api.get(f"{ROOT}/weshermeshes/{name}")
        found = [] if mesh is None else [mesh]
    else:
        found = api.items(f"{ROOT}/weshermeshes")
    if not found:
        raise InvalidSpec(
            "MESH", "no such WesherMesh" if name else "there is no WesherMesh", value=name or None
        )
    return found


def find_mesh(api: ApiServer, name: str) -> Object:
    """Return the mesh of that name, or the only one when the name is empty.

    Raises: as `find_meshes`, and
        InvalidSpec: there are several and none was named.

    """
    found = find_meshes(api, name)
    if len(found) > 1:
        names = ", ".join(sorted(name_of(mesh) for mesh in found))
        raise InvalidSpec("MESH", f"there are several meshes, choose one of {names}")
    return found[0]


def nodes_of(api: ApiServer, mesh: str) -> list[Object]:
    """Return the WesherNodes of a mesh, by name.

    Raises: as `find_meshes`, but for InvalidSpec.
    """
    return sorted(api.items(f"{ROOT}/weshernodes", labelSelector=f"{MESH_LABEL}={mesh}"), key=name_of)


def name_of(item: Object) -> str:
    """Return an object's name."""
    return str(item["metadata"]["name"])


def status_of(item: Object) -> Object:
    """Return an object's status; an empty one before anybody wrote it."""
    return dict(item.get("status") or {})


def key_secret_of(mesh: Object) -> str:
    """Return the name of the Secret with the mesh's key."""
    reference = mesh["spec"].get("clusterKeySecretRef") or {}
    return str(reference.get("name") or key_secret_name(name_of(mesh)))
