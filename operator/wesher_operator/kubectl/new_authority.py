"""``kubectl wesher new-authority``: replaces the key that signs a mesh's certificates.

It writes the Secret of the authority, in one write that fails if the Secret has changed; the operator
does the rest. Machines outside Kubernetes do not learn of it here: they read no mesh.json.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

from wesher_common.conditions import find_condition
from wesher_common.errors import WesherError
from wesher_common.names import MESH_LABEL, authority_secret_name
from wesher_operator.authority_entries import DROPS, FORMER_SEED, REPLACES, SEED
from wesher_operator.kubectl.authority import authorities_of
from wesher_operator.kubectl.meshes import name_of, status_of
from wesher_operator.kubectl.reach import ApiServer, Object

_SEED_BYTES = 32


def new_authority(
    api: ApiServer, mesh: Object, namespace: str, *, at_once: bool, entropy: Callable[[int], bytes]
) -> str:
    """Replace the authority of a mesh and return what happens next.

    Args:
        api: the API server, as the user.
        mesh: the WesherMesh.
        namespace: the operator's.
        at_once: drop the former authority now.
        entropy: returns that many random bytes.

    Raises:
        InvalidSpec: the mesh has no authority yet.
        WesherError: an earlier replacement has not ended, or the user may not.
        ClusterUnavailable: the API server does not answer, or the Secret changed meanwhile.

    """
    name = authority_secret_name(name_of(mesh))
    collection = f"/api/v1/namespaces/{namespace}/secrets"
    secret = api.get(f"{collection}/{name}")
    data = _change(mesh, (secret or {}).get("data") or {}, at_once=at_once, entropy=entropy)
    if secret is None:
        metadata = {
            "name": name,
            "labels": {MESH_LABEL: name_of(mesh), "app.kubernetes.io/part-of": "wesher"},
        }
        entries = {entry: value for entry, value in data.items() if value is not None}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": entries}
        api.create(collection, body)
    else:
        version = secret["metadata"]["resourceVersion"]
        api.patch(f"{collection}/{name}", {"metadata": {"resourceVersion": version}, "data": data})
    if at_once:
        return (
            "the former authority is dropped: tunnels are interrupted until all nodes have new certificates, "
            "for some seconds. External machines need the new authority: kubectl wesher authority prints it"
        )
    return (
        "agents trust both authorities until every node has a new certificate: see kubectl wesher status. "
        "Then back the Secret up"
    )


def _change(
    mesh: Object, data: Mapping[str, str], *, at_once: bool, entropy: Callable[[int], bytes]
) -> dict[str, str | None]:
    """Return the entries to write; None removes one."""
    current, former = authorities_of(mesh)
    certified = find_condition(status_of(mesh).get("conditions") or [], "Certified")
    is_lost = SEED not in data or (certified is not None and certified.reason == "AuthorityLost")
    requested = {_text(data.get(REPLACES)), _text(data.get(DROPS))}
    # The operator may not have seen the last request yet.
    replaced = current if current in requested else former
    if replaced and not is_lost:
        if not at_once:
            raise WesherError(
                f"a new authority is replacing {replaced} already: see kubectl wesher status. "
                "With --now, it is dropped at once"
            )
        return {REPLACES: None, FORMER_SEED: None, DROPS: _entry(replaced)}
    return {
        SEED: _entry(base64.b64encode(entropy(_SEED_BYTES)).decode()),
        FORMER_SEED: None if at_once else data.get(SEED),
        REPLACES: None if at_once else _entry(current),
        DROPS: _entry(current) if at_once else None,
    }


def _entry(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(entry: str | None) -> str:
    try:
        return base64.b64decode(entry or "", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return ""
