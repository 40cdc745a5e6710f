"""``kubectl wesher authority``: the public key with which others recognise a mesh's certificates."""

from __future__ import annotations

from wesher_common.errors import InvalidSpec
from wesher_operator.kubectl.meshes import name_of, status_of
from wesher_operator.kubectl.reach import Object


def authorities_of(mesh: Object) -> tuple[str, str]:
    """Return the mesh's authority, and the one that it replaces; the second is mostly empty.

    Raises:
        InvalidSpec: the mesh has none yet.

    """
    identity = status_of(mesh).get("identity") or {}
    current = str(identity.get("authority") or "")
    if not current:
        rule = "this mesh has no authority yet: an operator creates it with the mesh"
        raise InvalidSpec("--mesh", rule, value=name_of(mesh))
    return current, str(identity.get("formerAuthority") or "")
