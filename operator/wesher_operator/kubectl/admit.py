"""``kubectl wesher admit``: lets the operator certify a WireGuard key that it otherwise refuses.

The key is given whole, as ``wg`` prints it: a short form of it could be found again by trying keys.
The annotation that it writes is on an object whose spec and metadata only administrators and the
operator may write: an agent's token writes status alone.
"""

from __future__ import annotations

import base64
import binascii

from wesher_common.conditions import find_condition
from wesher_common.errors import InvalidSpec, WesherError
from wesher_common.names import ADMIT_KEY_ANNOTATION, is_member_name, wesher_node_name
from wesher_operator.kubectl.meshes import ROOT, name_of, status_of
from wesher_operator.kubectl.reach import ApiServer, Object

_KEY_BYTES = 32


def admit(api: ApiServer, mesh: Object, name: str, key: str) -> str:
    """Admit the key of a node and return what happens next.

    Args:
        api: the API server, as the user.
        mesh: the WesherMesh.
        name: of the Node.
        key: its whole WireGuard public key, in base64.

    Raises:
        InvalidSpec: there is no such node, or it has another key.
        WesherError: there is nothing to admit, or the user may not.
        ClusterUnavailable: the API server does not answer.

    """
    check_key(key)
    path = f"{ROOT}/weshernodes/{wesher_node_name(name_of(mesh), name)}"
    node = api.get(path) if is_member_name(name) else None
    if node is None:
        raise InvalidSpec("NODE", f"the mesh {name_of(mesh)} has no such node", value=name)
    status = status_of(node)
    reported = str(status.get("publicKey") or "")
    if reported != key:
        has = f"has the key {reported}" if reported else "has not reported a key yet"
        raise InvalidSpec("--key", f"node {name} {has}: run wg show there and compare", value=key)
    certified = find_condition(status.get("conditions") or [], "Certified")
    if certified is not None and certified.is_true:
        return f"node {name}: this key is certified already"
    if certified is None or certified.reason not in {"KeyChanged", "Revoked"}:
        reason = (
            f"{certified.reason}: {certified.message}"
            if certified is not None
            else "the operator has not checked it yet"
        )
        raise WesherError(f"to admit the key of node {name} would not help: {reason}")
    version = node["metadata"]["resourceVersion"]
    metadata = {"resourceVersion": version, "annotations": {ADMIT_KEY_ANNOTATION: key}}
    api.patch(path, {"metadata": metadata})
    return f"node {name}: key admitted; the operator certifies it within seconds"


def check_key(text: str) -> None:
    """Check that a key is given whole.

    Raises:
        InvalidSpec: it is not base64 of 32 bytes.

    """
    try:
        length = len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if length != _KEY_BYTES:
        rule = "must be a whole WireGuard public key: 44 characters, as wg show prints it"
        raise InvalidSpec("--key", rule, value=text)
